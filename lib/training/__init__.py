"""Training: the loop, its batches, checkpoints, run folders and processes."""
