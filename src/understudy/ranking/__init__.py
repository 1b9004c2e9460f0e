"""All methods under one protocol, and which are better than the student alone."""
