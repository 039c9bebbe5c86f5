"""A sample is a function of the seed and its number alone, and all its parts share one field."""
