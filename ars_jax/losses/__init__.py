"""Segmentation losses: one pass over the volume, then arithmetic on regional sums.

Arrays are batch first and channels last: logits `[b, *space, c]`, labels `[b, *space]`, two or three spatial axes.
"""

from ars_jax.losses.compose import (
    adaptive_region_specific,
    baseline,
    cross_entropy,
    dice,
    marginal_logits,
    region_specific,
    tversky,
    weighted_sum,
)
from ars_jax.losses.overlap import adaptive_tversky_loss, adaptive_weights, dice_loss, reduce_loss, tversky_loss
from ars_jax.losses.regions import region_edges, sum_over_regions
from ars_jax.losses.statistics import OverlapStatistics, overlap_statistics

__all__ = [
    "OverlapStatistics",
    "adaptive_region_specific",
    "adaptive_tversky_loss",
    "adaptive_weights",
    "baseline",
    "cross_entropy",
    "dice",
    "dice_loss",
    "marginal_logits",
    "overlap_statistics",
    "reduce_loss",
    "region_edges",
    "region_specific",
    "sum_over_regions",
    "tversky",
    "tversky_loss",
    "weighted_sum",
]
