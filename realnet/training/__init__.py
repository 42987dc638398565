"""Training: the shared loop (fit), checkpoints, batches, and what the stages train with it."""
