"""Every picture of the project: figures, grids, contact sheets. No result depends on them."""
