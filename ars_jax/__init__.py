"""Adaptive region-specific losses for 3-D medical image segmentation, in JAX."""
