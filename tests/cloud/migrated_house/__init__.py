"""A house with two migrations."""
