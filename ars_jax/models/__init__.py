"""Flax modules: the V-Net and its layers."""
