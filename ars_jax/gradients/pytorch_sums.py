"""The package's losses of regional sums in PyTorch, written out voxel by voxel; arrays are `[b, c, *space]`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ars_jax.losses._checks import ArgumentError, check_word
from ars_jax.losses._equations import FOCAL_CHORD
from ars_jax.losses._reduction import Reduction
from ars_jax.losses._regions import RegionMap, Regions, region_bounds
from ars_jax.losses._statistics import check_map

if TYPE_CHECKING:
    import torch


class Sums(NamedTuple):
    """The sums of `OverlapStatistics` in PyTorch, `[b, c, *grid]`; `voxels` is `[b, 1, *grid]`."""

    intersection: torch.Tensor
    predicted: torch.Tensor
    reference: torch.Tensor
    predicted_squared: torch.Tensor
    intersection_squared: torch.Tensor
    log_loss: torch.Tensor
    voxels: torch.Tensor


def dice(s: Sums, *, squared: bool, eps: float) -> torch.Tensor:
    """Eq. 2, `[b, c, *grid]`."""
    predicted = s.predicted_squared if squared else s.predicted
    return 1 - (2 * s.intersection + eps) / (predicted + s.reference + eps)


def tversky(s: Sums, *, fp_weight: Any, fn_weight: Any, eps: float) -> torch.Tensor:
    """Eq. 5, `[b, c, *grid]`."""
    fp, fn = s.predicted - s.intersection, s.reference - s.intersection
    return 1 - (s.intersection + eps) / (s.intersection + fp_weight * fp + fn_weight * fn + eps)


def focal_tversky(s: Sums, *, gamma: float, **parameters: Any) -> torch.Tensor:
    """Abraham & Khan 2019, with the package's chord near 0, `[b, c, *grid]`."""
    loss = tversky(s, **parameters)
    curved = loss > FOCAL_CHORD
    power = loss.where(curved, 1) ** (1 / gamma)
    return power.where(curved, loss * FOCAL_CHORD ** (1 / gamma - 1))


def adaptive_tversky(
    s: Sums,
    *,
    min_penalty: float,
    penalty_range: float,
    exponent: float,
    adaptive_gradient: str,
    eps: float,
) -> torch.Tensor:
    """Eqs. 6 to 8, `[b, c, *grid]`."""
    fp, fn = s.predicted - s.intersection, s.reference - s.intersection
    alpha, beta = (min_penalty + penalty_range * ((error + eps) / (fp + fn + eps)) ** exponent for error in (fp, fn))
    if adaptive_gradient == "stop":
        alpha, beta = alpha.detach(), beta.detach()
    return tversky(s, fp_weight=alpha, fn_weight=beta, eps=eps)


def sensitivity_specificity(s: Sums, *, sensitivity_weight: float, eps: float) -> torch.Tensor:
    """Brosch & Tam 2016, `[b, c, *grid]`."""
    missed = s.reference - 2 * s.intersection + s.intersection_squared
    others = s.voxels - s.reference
    false = (s.predicted_squared - s.intersection_squared).where(others > 0, 0)
    sensitivity, specificity = missed / (s.reference + eps), false / (others + eps)
    return sensitivity_weight * sensitivity + (1 - sensitivity_weight) * specificity


def generalized_dice(
    s: Sums, *, class_weights: Sequence[float] | None, absent_classes: str, eps: float
) -> torch.Tensor:
    """Sudre et al. 2017, `[b, c, *grid]`."""
    present = s.reference > 0
    smallest = s.reference.where(present, float("inf")).amin(1, keepdim=True)
    smallest = smallest.where(smallest.isfinite(), 1)
    smallest, reference = (size.clamp(min=1) for size in (smallest, s.reference.where(present, smallest)))
    weights = smallest / reference**2 * class_factors(class_weights, s.reference)
    weights = weights.where(present, 0) if absent_classes == "skip" else weights
    overlap = (weights * s.intersection).sum(1, keepdim=True)
    return 1 - (2 * overlap + eps) / ((weights * (s.predicted + s.reference)).sum(1, keepdim=True) + eps)


def regional(
    loss: Callable[..., torch.Tensor],
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    where: torch.Tensor | None,
    from_probabilities: bool,
    batch_dice: bool,
    regions: Regions | None = None,
    levels: int = 1,
    absent_classes: str | None = None,
    include_background: bool = True,
    class_weights: Sequence[float] | None = None,
    reduction: str = "sum",
    **parameters: Any,
) -> torch.Tensor:
    """Regional sums, a loss of them, one number; with the options of the losses of `ars_jax.losses`."""
    check_word("reduction", reduction, Reduction)
    if levels > 1 and reduction == "none":
        raise ArgumentError("levels", levels, 'one for reduction="none": grids of several levels differ in shape')
    sums = _map_sums(x, regions) if isinstance(regions, RegionMap) else _grid_sums(x, regions)
    p, g = probabilities_and_references(x, y, where, from_probabilities)
    s = _sums(sums, p, g, log_probabilities(x, where, from_probabilities), where)
    if not include_background:
        s = Sums(*(field[:, 1:] for field in s[:-1]), voxels=s.voxels)
    if batch_dice:
        s = Sums(*(field.sum(0, keepdim=True) for field in s))
    if loss is generalized_dice:
        parameters |= {"class_weights": class_weights, "absent_classes": absent_classes or "skip"}
        class_weights = None
    results = []
    for level in range(levels):
        s = Sums(*map(_coarser, s)) if level else s
        values = loss(s, **parameters)
        absent = absent_classes or ("include" if regions is None else "skip")
        results.append(_reduced(values, s.reference > 0, absent, reduction, class_weights))
    if reduction == "none" and regions is None:
        return results[0].flatten(1)
    return results[0] if levels == 1 else sum(results[1:], results[0]) / levels


def _reduced(
    values: torch.Tensor,
    present: torch.Tensor,
    absent: str,
    reduction: str,
    class_weights: Sequence[float] | None,
) -> torch.Tensor:
    present = present.any(1, keepdim=True) if values.shape[1] == 1 else present
    counted = present if absent == "skip" else present | ~present
    values = (values * class_factors(class_weights, values)).where(counted, 0)
    if reduction == "none":
        return values
    values = values.flatten(2).sum(-1)
    pairs = counted.flatten(2).sum(-1)
    if reduction == "mean":
        return (values.sum(1) / pairs.sum(1).clamp(min=1)).mean()
    return ((values / pairs.clamp(min=1)) if reduction == "class_mean" else values).sum(1).mean()


def _sums(
    regional: Callable[[torch.Tensor], torch.Tensor],
    p: torch.Tensor,
    g: torch.Tensor,
    log_p: torch.Tensor,
    where: torch.Tensor | None,
) -> Sums:
    counted = p.new_ones(p[:, :1].shape) * (1 if where is None else where)
    return Sums(*map(regional, (p * g, p, g, p * p, p * p * g, -g * log_p, counted)))


def probabilities_and_references(
    x: torch.Tensor, y: torch.Tensor, where: torch.Tensor | None, from_probabilities: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns p and g, `[b, c, *space]`, 0 where a voxel is left out."""
    import torch

    if where is not None:
        x, y = x.where(where, 0), y.where(where if y.ndim == x.ndim else where[:, 0], 0)
    p = x if from_probabilities else x.softmax(1)
    g = y.to(x.dtype) if y.ndim == x.ndim else torch.zeros_like(p).scatter_(1, y[:, None].long(), 1)
    return (p, g) if where is None else (p * where, g * where)


def log_probabilities(x: torch.Tensor, where: torch.Tensor | None, from_probabilities: bool = False) -> torch.Tensor:
    """Returns log p, `[b, c, *space]`."""
    import torch

    x = x if where is None else x.where(where, 0)
    return x.clamp(min=torch.finfo(x.dtype).tiny).log() if from_probabilities else x.log_softmax(1)


def _grid_sums(x: torch.Tensor, regions: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    bounds = region_bounds(x.shape[2:], regions)

    def regional(voxels: torch.Tensor) -> torch.Tensor:
        for axis, regions in enumerate(bounds, start=2):
            voxels = _stacked([voxels.narrow(axis, start, stop - start).sum(axis) for start, stop in regions], axis)
        return voxels

    return regional


def _map_sums(x: torch.Tensor, region_map: RegionMap) -> Callable[[torch.Tensor], torch.Tensor]:
    import torch

    check_map(region_map, np.broadcast_to(np.float32(0), (x.shape[0], *x.shape[2:], x.shape[1])))
    ids = torch.tensor(np.array(region_map.ids, np.int64), device=x.device)[:, None]

    def regional(voxels: torch.Tensor) -> torch.Tensor:
        return _stacked([(voxels * (ids == region)).flatten(2).sum(-1) for region in range(region_map.count)], 2)

    return regional


def _coarser(sums: torch.Tensor) -> torch.Tensor:
    for axis in range(2, sums.ndim):
        sums = sums.unflatten(axis, (-1, 2)).sum(axis + 1)
    return sums


def _stacked(parts: list[torch.Tensor], axis: int) -> torch.Tensor:
    import torch

    return torch.stack(parts, axis)


def class_factors(class_weights: Sequence[float] | None, like: torch.Tensor) -> torch.Tensor | int:
    """Returns the classes' factors for `[b, c, *grid]`."""
    if class_weights is None:
        return 1
    factors, classes = np.asarray(class_weights, np.float64), like.shape[1]
    if factors.shape != (classes,):
        raise ArgumentError("class_weights.shape", factors.shape, f"{(classes,)}, one number per counted class")
    return like.new_tensor(factors.tolist()).reshape(1, -1, *(1,) * (like.ndim - 2))
