"""Overlap and surface-distance metrics of label maps, in NumPy and SciPy, distances in millimetres."""
