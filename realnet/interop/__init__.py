"""Weights of other programs, brought into this one's formats."""
