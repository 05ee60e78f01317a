"""Flax modules: the V-Net and its layers."""

from ars_jax.models.convolution import convolve
from ars_jax.models.layers import Convolution, Downsampling, PReLU, Upsampling
from ars_jax.models.packing import packs_volumes
from ars_jax.models.vnet import STRIDE, Block, VNet

__all__ = ["STRIDE", "Block", "Convolution", "Downsampling", "PReLU", "Upsampling", "VNet", "convolve", "packs_volumes"]
