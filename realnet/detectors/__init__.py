"""Other methods, run on the same backbone, images and splits, to compare with."""
