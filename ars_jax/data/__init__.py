"""Volumes, data sets, preparation, augmentation and loading: NumPy arrays [z, y, x] in millimetre geometry."""
