"""Data sets, the order in which they are seen, and how they reach the engine."""
