"""Import of other programs' weights."""
