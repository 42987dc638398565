"""The networks: backbone, feature selection, reconstruction, residual selection, RealNet."""
