"""Data sets: which there are, how their folders are laid out, reading them, and the demo set."""
