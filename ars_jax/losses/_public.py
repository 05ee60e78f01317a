"""The public names: all that this module imports."""

# ruff: noqa: F401
from ars_jax.losses import presets
from ars_jax.losses._equations import (
    adaptive_tversky_loss,
    adaptive_weights,
    cross_entropy_loss,
    dice_loss,
    focal_tversky_loss,
    generalized_dice_loss,
    sensitivity_specificity_loss,
    tversky_loss,
)
from ars_jax.losses._functions import (
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
from ars_jax.losses._objective import Objective, RegionSize
from ars_jax.losses._reduction import pyramid_loss, reduce_loss
from ars_jax.losses._regions import RegionMap, region_bounds, sum_over_map, sum_over_regions
from ars_jax.losses._statistics import OverlapStatistics, overlap_statistics
from ars_jax.losses._unlabelled import merge_unlabelled
