"""Devices, precision, determinism, several processes, and what a network costs."""
