"""`realnet data verify`: every file read, every problem reported."""
