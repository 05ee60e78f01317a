"""From logits and labels to losses: one pass over the volume, an equation of its sums, a reduction."""

import inspect
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp

from ars_jax.losses._equations import (
    adaptive_tversky_loss,
    cross_entropy_loss,
    dice_loss,
    focal_tversky_loss,
    generalized_dice_loss,
    sensitivity_specificity_loss,
    tversky_loss,
)
from ars_jax.losses._objective import REGIONAL_TERMS, AbsentClasses, Objective, check_parameters
from ars_jax.losses._reduction import pyramid_loss
from ars_jax.losses._regions import RegionMap, Regions
from ars_jax.losses._statistics import OverlapStatistics, check_arrays, check_map, overlap_statistics
from ars_jax.losses._types import Labels, Logits, Mask

EQUATIONS: Mapping[str, Callable[..., jax.Array]] = {
    "dice": dice_loss,
    "cross_entropy": cross_entropy_loss,
    "tversky": tversky_loss,
    "focal_tversky": focal_tversky_loss,
    "generalized_dice": generalized_dice_loss,
    "sensitivity_specificity": sensitivity_specificity_loss,
    "region_specific": dice_loss,
    "adaptive_region_specific": adaptive_tversky_loss,
}
"""The equation of every loss; its keyword arguments are parameters of `Objective`."""


def evaluate_loss(
    name: str,
    logits: Logits,
    labels: Labels,
    *,
    where: Mask | None,
    ignore_label: int | None,
    spatial_dims: Any,
    from_probabilities: bool,
    batch_dice: bool,
    regions: Regions | None = None,
    include_background: bool = True,
    **parameters: Any,
) -> jax.Array:
    """Computes one loss from a pass of its own."""
    check_parameters({"spatial_dims": spatial_dims, **parameters})
    s = overlap_statistics(
        logits,
        labels,
        where=where,
        ignore_label=ignore_label,
        spatial_dims=spatial_dims,
        regions=regions,
        from_probabilities=from_probabilities,
    )
    s = _counted(s if regions is not None else s.total(), include_background, batch_dice)
    absent = parameters.get("absent_classes") or _absent(regions)
    return _reduced(name, s, parameters, absent)


def evaluate_objective(
    objective: Objective, logits: Logits, labels: Labels, where: Mask | None, regions: Regions | None
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes the total of an objective and its parts from one pass."""
    p = {name: getattr(objective, name) for name in Objective.__dataclass_fields__}
    weights = objective.weights
    regional = any(name in REGIONAL_TERMS for name in weights)
    regions = (p["regions"] if regions is None else regions) if regional else None
    measured = {name: p[name] for name in ("ignore_label", "spatial_dims", "from_probabilities", "depth_shards")}
    whole, inside = _whole_and_inside(logits, labels, where=where, regions=regions, **measured)
    whole = whole.total()
    absent, plain = p["absent_classes"] or _absent(regions), {**p, "levels": 1, "reduction": "sum"}
    parts = {
        name: _part(name, inside, p, absent) if name in REGIONAL_TERMS else _part(name, whole, plain, "include")
        for name in weights
    }
    return jnp.stack([weights[name] * part for name, part in parts.items()]).sum(), parts


def _absent(regions: Regions | None) -> AbsentClasses:
    """Returns what becomes of absent classes where nothing is asked for: the paper skips them in regions."""
    return "include" if regions is None else "skip"


def _part(name: str, s: OverlapStatistics, p: Mapping[str, Any], absent: AbsentClasses) -> jax.Array:
    """Reduces one term of an objective; the cross-entropy is that of all classes."""
    if name == "cross_entropy":
        p = {**p, "class_weights": p["cross_entropy_class_weights"], "include_background": True}
    return _reduced(name, _counted(s, p["include_background"], p["batch_dice"]), p, absent)


def _reduced(name: str, s: OverlapStatistics, p: Mapping[str, Any], absent: AbsentClasses) -> jax.Array:
    """Applies the equation of a loss and reduces its values.

    An equation that joins the classes takes the class weights and the absent classes into its own sums.
    """
    loss, takes = EQUATIONS[name], _parameters(EQUATIONS[name])
    joint = "class_weights" in takes
    own = {key: p[key] for key in takes if key in p}
    if joint and "absent_classes" in takes:
        own["absent_classes"] = p["absent_classes"] or "skip"
    return pyramid_loss(
        partial(loss, **own),
        s,
        levels=p.get("levels", 1),
        absent_classes=absent,
        class_weights=None if joint else p["class_weights"],
        reduction=p["reduction"],
    )


@cache
def _parameters(equation: Callable[..., jax.Array]) -> tuple[str, ...]:
    """Returns the names of an equation's parameters."""
    parameters = inspect.signature(equation).parameters.values()
    return tuple(each.name for each in parameters if each.kind is each.KEYWORD_ONLY)


def _counted(s: OverlapStatistics, include_background: bool, batch_dice: bool) -> OverlapStatistics:
    s = s if include_background else s.foreground()
    return s.batch_total() if batch_dice else s


def _whole_and_inside(
    logits: Logits, labels: Labels, *, regions: Regions | None, **measured: Any
) -> tuple[OverlapStatistics, OverlapStatistics]:
    """Returns regional statistics that sum up to the whole volume's, and those of the asked regions."""
    if not isinstance(regions, RegionMap):
        s = overlap_statistics(logits, labels, regions=regions, **measured)
        return s, s
    check_arrays(logits, labels, measured["where"], measured["spatial_dims"])
    check_map(regions, logits)
    s = overlap_statistics(logits, labels, regions=regions.with_rest(), **measured)
    return s, jax.tree.map(lambda x: x[:, :-1], s)
