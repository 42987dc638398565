"""What the training loops share (checkpoints, batches, learning rate) and RealNet's own loop."""
