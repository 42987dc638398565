"""What every module may use: files, seeds, errors, interruptions, progress."""
