"""Prediction on clouds without ground truth: one pair, a folder of frames, and the rigid motion of a scene."""
