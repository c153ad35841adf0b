"""Task metrics, one file per task. Tensors in, numbers out."""
