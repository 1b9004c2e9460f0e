"""Recipes: a run as a file, from its text to the job and the folder that it leaves."""
