"""Segmentation losses: one pass over the volume, then arithmetic on regional sums.

Arrays are batch first and channels last: logits `[b, *space, c]`, labels `[b, *space]`, two or three spatial axes.
"""

from ars_jax.losses import presets
from ars_jax.losses.compose import (
    Options,
    adaptive_region_specific,
    baseline,
    cross_entropy,
    dice,
    focal_tversky,
    generalized_dice,
    region_specific,
    sensitivity_specificity,
    tversky,
)
from ars_jax.losses.overlap import (
    adaptive_tversky_loss,
    adaptive_weights,
    cross_entropy_loss,
    dice_loss,
    focal_tversky_loss,
    generalized_dice_loss,
    sensitivity_specificity_loss,
    tversky_loss,
)
from ars_jax.losses.reduction import pyramid_loss, reduce_loss
from ars_jax.losses.regions import RegionMap, region_bounds, sum_over_map, sum_over_regions
from ars_jax.losses.statistics import OverlapStatistics, overlap_statistics
from ars_jax.losses.weighted import Parameters, marginal_logits, weighted_sum

__all__ = [
    "Options",
    "OverlapStatistics",
    "Parameters",
    "RegionMap",
    "adaptive_region_specific",
    "adaptive_tversky_loss",
    "adaptive_weights",
    "baseline",
    "cross_entropy",
    "cross_entropy_loss",
    "dice",
    "dice_loss",
    "focal_tversky",
    "focal_tversky_loss",
    "generalized_dice",
    "generalized_dice_loss",
    "marginal_logits",
    "overlap_statistics",
    "presets",
    "pyramid_loss",
    "reduce_loss",
    "region_bounds",
    "region_specific",
    "sensitivity_specificity",
    "sensitivity_specificity_loss",
    "sum_over_map",
    "sum_over_regions",
    "tversky",
    "tversky_loss",
    "weighted_sum",
]
