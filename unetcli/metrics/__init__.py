"""Scores: each a function of arrays, or of a table that adds up over tiles."""
