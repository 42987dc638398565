"""Parameters: typed sections, presets, variants."""
