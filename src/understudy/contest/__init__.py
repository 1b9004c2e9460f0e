"""All ways to make a teacher small, in one table."""
