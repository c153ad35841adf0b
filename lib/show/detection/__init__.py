"""Pictures and pages of 3-D boxes: what a detector found in a frame, beside the ground truth."""
