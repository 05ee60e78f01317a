"""The losses and presets of this package in PyTorch, to be compared with: value and gradient of the same arrays.

PyTorch and MONAI are optional, and imported when a value is asked for. The presets of MONAI are MONAI's own classes;
the others are written out once more, voxel by voxel and without the one pass.
"""

from __future__ import annotations

import importlib.util
import inspect
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ars_jax.losses.overlap import FOCAL_CHORD
from ars_jax.losses.regions import RegionMap, region_bounds

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


def available() -> bool:
    """Returns whether PyTorch is installed, without importing it."""
    return importlib.util.find_spec("torch") is not None


def names() -> tuple[str, ...]:
    """Returns the losses and presets that can be computed here: none without PyTorch, none of MONAI's without MONAI."""
    if not available():
        return ()
    monai = MONAI if importlib.util.find_spec("monai") is not None else ()
    return (*WRITTEN_OUT, *monai)


def loss(name: str) -> Callable[..., torch.Tensor]:
    """Returns a loss or preset as a function of tensors.

    Args:
        name: one of `names()`.

    Returns:
        A function of logits `[b, c, *space]`, labels `[b, *space]` or `[b, c, *space]`, and options, to a scalar.

    Raises:
        ValueError: a name that cannot be computed here.
    """
    if name not in names():
        offered = ", ".join(names()) or "none: PyTorch is not installed, pip install 'ars_jax[torch]'"
        raise ValueError(f"name (={name!r}) must be a loss that PyTorch can compute here: {offered}")
    return (WRITTEN_OUT | MONAI)[name]


def value_and_gradient(name: str, logits: Any, labels: Any, **options: Any) -> tuple[float, np.ndarray]:
    """Computes a loss and its gradient in PyTorch.

    Args:
        name: a public loss of `ars_jax.losses` or a preset, one of `names()`.
        logits: `[b, *space, c]`, float32 or float64, which is the precision of everything.
        labels: `[b, *space]` integers, or `[b, *space, c]` one-hot or soft.
        **options: as those of the function of that name in `ars_jax.losses` or `ars_jax.losses.presets`.

    Returns:
        The value, and its gradient by the logits, `[b, *space, c]` in their type (by the probabilities with
        `from_probabilities`).

    Raises:
        ValueError: a name that cannot be computed here, another float type, or an option that PyTorch's code has not.
        TypeError: an option that the loss does not have.
    """
    computed = loss(name)
    import torch

    x = np.moveaxis(np.asarray(logits), -1, 1)
    if x.dtype not in (np.float32, np.float64):
        raise ValueError(f"logits must be float32 or float64 in PyTorch; their type is {x.dtype}")
    inputs = torch.tensor(x, requires_grad=True)
    y = np.asarray(labels)
    targets = torch.tensor(np.moveaxis(y, -1, 1).astype(x.dtype) if y.ndim == x.ndim else y.astype(np.int64))
    if options.get("where") is not None:
        options["where"] = torch.tensor(np.asarray(options["where"], bool))[:, None]
    value = computed(inputs, targets, **options)
    value.backward()
    assert inputs.grad is not None
    return value.item(), np.moveaxis(inputs.grad.numpy(), 1, -1)


def pytorch_ars(
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    grid: int | Sequence[int] = 16,
    smooth: float = 1e-5,
    batch_dice: bool = True,
    do_bg: bool = True,
    a: float = 0.3,
    b: float = 0.4,
    region_reduction: str = "mean",
    where: torch.Tensor | None = None,
) -> torch.Tensor:
    """The loss of `presets.pytorch_ars` by adaptive average pooling of hits and errors, `[b, c, *space]`."""
    from torch.nn import functional

    p, g = _fields(x, y, where)
    p, g = (p, g) if do_bg or p.shape[1] == 1 else (p[:, 1:], g[:, 1:])
    pool = functional.adaptive_avg_pool3d if x.ndim == 5 else functional.adaptive_avg_pool2d
    bins: Any = grid if isinstance(grid, int) else tuple(grid)
    hit, fp, fn = (pool(voxels, bins) for voxels in (p * g, p * (1 - g), (1 - p) * g))
    if batch_dice:
        hit, fp, fn = (means.sum(0, keepdim=True) for means in (hit, fp, fn))
    alpha, beta = (a + b * (error + smooth) / (fp + fn + smooth) for error in (fp, fn))
    losses = 1 - (hit + smooth) / (hit + alpha * fp + beta * fn + smooth)
    return losses.mean() if region_reduction == "mean" else losses.flatten(2).sum(-1).mean()


def nnunet_dice_ce(
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    batch_dice: bool = False,
    smooth: float = 1e-5,
    do_bg: bool = False,
    weight_ce: float = 1.0,
    weight_dice: float = 1.0,
    where: torch.Tensor | None = None,
) -> torch.Tensor:
    """The loss of `presets.nnunet_dice_ce`, `[b, c, *space]`."""
    p, g = _fields(x, y, where)
    counted = p[:, :1].numel() if where is None else max(int(where.sum()), 1)
    entropy = -(g * _log_probabilities(x, where)).sum() / counted
    p, g = (p, g) if do_bg or p.shape[1] == 1 else (p[:, 1:], g[:, 1:])
    hit, predicted, reference = (voxels.flatten(2).sum(-1) for voxels in (p * g, p, g))
    if batch_dice:
        hit, predicted, reference = (sums.sum(0) for sums in (hit, predicted, reference))
    coefficient = (2 * hit + smooth) / (reference + predicted + smooth).clamp(min=1e-8)
    return weight_ce * entropy - weight_dice * coefficient.mean()


def cross_entropy(
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    reduction: str = "mean",
    where: torch.Tensor | None = None,
    class_weights: Sequence[float] | None = None,
    whole_batch: bool = False,
) -> torch.Tensor:
    """The loss of `losses.cross_entropy`, `[b, c, *space]`."""
    _, g = _fields(x, y, where)
    log_p = _log_probabilities(x, where)
    weights = _weights(class_weights, x)
    entropy, counted = (-g * log_p * weights).flatten(1).sum(-1), (g * weights).flatten(1).sum(-1)
    if whole_batch:
        entropy, counted = entropy.sum(0, keepdim=True), counted.sum(0, keepdim=True)
    return (entropy if reduction == "sum" else entropy / counted.where(counted > 0, 1)).mean()


def baseline(
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    cross_entropy_weight: float = 1.0,
    cross_entropy_reduction: str = "mean",
    eps: float = 1e-7,
    where: torch.Tensor | None = None,
) -> torch.Tensor:
    """The loss of `losses.baseline`, `[b, c, *space]`."""
    entropy = cross_entropy(x, y, reduction=cross_entropy_reduction, where=where)
    return _regional(_dice, x, y, where=where, eps=eps) + cross_entropy_weight * entropy


def _dice(s: Sums, *, squared: bool = True, eps: float) -> torch.Tensor:
    predicted = s.predicted_squared if squared else s.predicted
    return 1 - (2 * s.intersection + eps) / (predicted + s.reference + eps)


def _tversky(s: Sums, *, fp_weight: Any = 0.3, fn_weight: Any = 0.7, eps: float) -> torch.Tensor:
    fp, fn = s.predicted - s.intersection, s.reference - s.intersection
    return 1 - (s.intersection + eps) / (s.intersection + fp_weight * fp + fn_weight * fn + eps)


def _focal_tversky(s: Sums, *, gamma: float = 4 / 3, **parameters: Any) -> torch.Tensor:
    loss = _tversky(s, **parameters)
    curved = loss > FOCAL_CHORD
    power = loss.where(curved, 1) ** (1 / gamma)
    return power.where(curved, loss * FOCAL_CHORD ** (1 / gamma - 1))


def _adaptive_tversky(
    s: Sums,
    *,
    a: float = 0.3,
    b: float = 0.4,
    exponent: float = 1.0,
    adaptive_gradient: str = "through",
    eps: float,
) -> torch.Tensor:
    fp, fn = s.predicted - s.intersection, s.reference - s.intersection
    alpha, beta = (a + b * ((error + eps) / (fp + fn + eps)) ** exponent for error in (fp, fn))
    if adaptive_gradient == "stop":
        alpha, beta = alpha.detach(), beta.detach()
    return _tversky(s, fp_weight=alpha, fn_weight=beta, eps=eps)


def _sensitivity_specificity(s: Sums, *, sensitivity_weight: float = 0.05, eps: float) -> torch.Tensor:
    missed = s.reference - 2 * s.intersection + s.intersection_squared
    others = s.voxels - s.reference
    false = (s.predicted_squared - s.intersection_squared).where(others > 0, 0)
    sensitivity, specificity = missed / (s.reference + eps), false / (others + eps)
    return sensitivity_weight * sensitivity + (1 - sensitivity_weight) * specificity


def _generalized_dice(
    s: Sums, *, class_weights: Sequence[float] | None = None, absent: str = "skip", eps: float
) -> torch.Tensor:
    present = s.reference > 0
    smallest = s.reference.where(present, float("inf")).amin(1, keepdim=True)
    smallest = smallest.where(smallest.isfinite(), 1)
    weights = smallest / s.reference.where(present, smallest) ** 2 * _weights(class_weights, s.reference)
    weights = weights.where(present, 0) if absent == "skip" else weights
    overlap = (weights * s.intersection).sum(1, keepdim=True)
    return 1 - (2 * overlap + eps) / ((weights * (s.predicted + s.reference)).sum(1, keepdim=True) + eps)


def _regional(
    loss: Callable[..., torch.Tensor],
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    grid: int | Sequence[int] | None = None,
    region_size: int | Sequence[int] | None = None,
    region_map: RegionMap | None = None,
    levels: int = 1,
    where: torch.Tensor | None = None,
    include_background: bool = True,
    whole_batch: bool = False,
    absent: str | None = None,
    reduction: str = "sum",
    class_weights: Sequence[float] | None = None,
    from_probabilities: bool = False,
    eps: float = 1e-7,
    **parameters: Any,
) -> torch.Tensor:
    """Regional sums, a loss of them, one number; with the options of `losses.Options`."""
    undivided = grid is None and region_size is None and region_map is None
    regions = _map_sums(region_map) if region_map is not None else _grid_sums(x, grid, region_size)
    fields = (*_fields(x, y, where, from_probabilities), _log_probabilities(x, where, from_probabilities))
    s = _sums(regions, *fields, where)
    if not include_background:
        s = Sums(*(field[:, 1:] for field in s[:-1]), voxels=s.voxels)
    if whole_batch:
        s = Sums(*(field.sum(0, keepdim=True) for field in s))
    if loss is _generalized_dice:
        parameters |= {"class_weights": class_weights, "absent": absent or "skip"}
        class_weights = None
    results = []
    for level in range(levels):
        s = Sums(*map(_coarser, s)) if level else s
        values = loss(s, eps=eps, **parameters)
        counted = absent or ("count" if undivided else "skip")
        results.append(_reduced(values, s.reference > 0, counted, reduction, class_weights))
    return sum(results[1:], results[0]) / levels


def _divided(loss: Callable[..., torch.Tensor], x: torch.Tensor, y: torch.Tensor, **options: Any) -> torch.Tensor:
    """A regional loss, whose division is the paper's unless another is asked for."""
    asked = any(options.get(division) is not None for division in ("grid", "region_size", "region_map"))
    return _regional(loss, x, y, **(options if asked else {**options, "grid": 16}))


def _reduced(
    values: torch.Tensor,
    present: torch.Tensor,
    absent: str,
    reduction: str,
    class_weights: Sequence[float] | None,
) -> torch.Tensor:
    present = present.any(1, keepdim=True) if values.shape[1] == 1 else present
    counted = present if absent == "skip" else present | ~present
    values = (values * _weights(class_weights, values)).where(counted, 0).flatten(2).sum(-1)
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


def _fields(
    x: torch.Tensor, y: torch.Tensor, where: torch.Tensor | None, from_probabilities: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns p and g, `[b, c, *space]`, 0 where a voxel is left out."""
    import torch

    if where is not None:
        x, y = x.where(where, 0), y.where(where if y.ndim == x.ndim else where[:, 0], 0)
    p = x if from_probabilities else x.softmax(1)
    g = y.to(x.dtype) if y.ndim == x.ndim else torch.zeros_like(p).scatter_(1, y[:, None], 1)
    return (p, g) if where is None else (p * where, g * where)


def _log_probabilities(x: torch.Tensor, where: torch.Tensor | None, from_probabilities: bool = False) -> torch.Tensor:
    """Returns log p, `[b, c, *space]`."""
    import torch

    x = x if where is None else x.where(where, 0)
    return x.clamp(min=torch.finfo(x.dtype).tiny).log() if from_probabilities else x.log_softmax(1)


def _grid_sums(
    x: torch.Tensor, grid: int | Sequence[int] | None, region_size: int | Sequence[int] | None
) -> Callable[[torch.Tensor], torch.Tensor]:
    bounds = region_bounds(x.shape[2:], grid=grid, region_size=region_size)

    def regional(voxels: torch.Tensor) -> torch.Tensor:
        for axis, regions in enumerate(bounds, start=2):
            voxels = _stacked([voxels.narrow(axis, start, stop - start).sum(axis) for start, stop in regions], axis)
        return voxels

    return regional


def _map_sums(region_map: RegionMap) -> Callable[[torch.Tensor], torch.Tensor]:
    import torch

    ids = torch.tensor(np.array(region_map.ids))[:, None]

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


def _weights(class_weights: Sequence[float] | None, like: torch.Tensor) -> torch.Tensor | int:
    """Returns the classes' factors for `[b, c, *grid]`."""
    if class_weights is None:
        return 1
    return like.new_tensor(np.asarray(class_weights).tolist()).reshape(1, -1, *(1,) * (like.ndim - 2))


def _monai(
    loss: str, x: torch.Tensor, y: torch.Tensor, *, where: torch.Tensor | None = None, **options: Any
) -> torch.Tensor:
    """One of MONAI's classes, whose option names stand in `MONAI_NAMES` where this package's differ."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import monai.losses

        kind = getattr(monai.losses, loss)
        named = {MONAI_NAMES.get(option, option): value for option, value in options.items()}
        y = y if y.ndim == x.ndim else y[:, None]
        if where is not None:
            if "ignore_index" not in inspect.signature(kind).parameters:
                raise ValueError(f"MONAI's {loss} has no ignored voxels: compare without where")
            named["ignore_index"] = -1
            x, y = x.where(where, 0), y.where(where, -1 if y.shape[1] == 1 else 0)
        return kind(softmax=True, to_onehot_y=y.shape[1] == 1, **named)(x, y)


MONAI_NAMES = {"squared": "squared_pred", "fp_weight": "alpha", "fn_weight": "beta"}

MONAI: dict[str, Callable[..., torch.Tensor]] = {
    "monai_dice": partial(_monai, "DiceLoss"),
    "monai_dice_ce": partial(_monai, "DiceCELoss"),
    "monai_tversky": partial(_monai, "TverskyLoss"),
    "monai_generalized_dice": partial(_monai, "GeneralizedDiceLoss"),
}

WRITTEN_OUT: dict[str, Callable[..., torch.Tensor]] = {
    "dice": partial(_regional, _dice),
    "tversky": partial(_regional, _tversky),
    "focal_tversky": partial(_regional, _focal_tversky),
    "generalized_dice": partial(_regional, _generalized_dice),
    "sensitivity_specificity": partial(_regional, _sensitivity_specificity),
    "cross_entropy": cross_entropy,
    "baseline": baseline,
    "region_specific": partial(_divided, _dice),
    "adaptive_region_specific": partial(_divided, _adaptive_tversky),
    "pytorch_ars": pytorch_ars,
    "nnunet_dice_ce": nnunet_dice_ce,
}
