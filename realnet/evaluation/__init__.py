"""Evaluation of a detector: from test images or anomaly maps to metrics, details and files."""
