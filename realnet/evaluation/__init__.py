"""Scores of the test images, metrics on them, and what they look like."""
