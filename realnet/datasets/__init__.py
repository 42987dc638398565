"""Images, masks, manifests and layouts of datasets."""
