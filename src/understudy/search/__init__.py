"""Recipes with values changed, again and again, with one teacher: until a student is accepted, or for the best one."""
