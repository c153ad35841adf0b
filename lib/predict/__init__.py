"""The flow of clouds without ground truth: one pair, a folder of frames, and the motion of the sensor."""
