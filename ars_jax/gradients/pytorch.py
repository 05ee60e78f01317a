"""The losses and presets in PyTorch: `loss` for a trainer, `value_and_gradient` for comparisons.

PyTorch and MONAI are optional, and imported when a value is asked for. The presets of MONAI are MONAI's own classes;
the others are written out once more, voxel by voxel and without the one pass.
"""

from __future__ import annotations

import importlib.util
import inspect
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ars_jax.gradients.pytorch_sums import (
    adaptive_tversky,
    class_factors,
    dice,
    focal_tversky,
    generalized_dice,
    log_probabilities,
    probabilities_and_references,
    regional,
    sensitivity_specificity,
    tversky,
)
from ars_jax.gradients.regional import public_function, resolved_options
from ars_jax.losses._checks import ArgumentError, check_word
from ars_jax.losses._objective import check_parameters
from ars_jax.losses._statistics import check_arrays
from ars_jax.losses.presets import RegionReduction

if TYPE_CHECKING:
    import torch


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
    """Returns a loss or preset as a function of tensors, for a trainer in PyTorch.

    Logits and labels are as MONAI and nnU-Net have them: logits `[b, c, *space]`, labels `[b, 1, *space]` or
    `[b, *space]` integers, or `[b, c, *space]` one-hot or soft; `where` is `[b, 1, *space]` or `[b, *space]`. The
    options are those of the function of that name in `ars_jax.losses` or `ars_jax.losses.presets`, with its defaults.
    Value and gradient are JAX's to rounding. Every voxel's probabilities are stored, as usual in PyTorch.

    Args:
        name: one of `names()`.

    Returns:
        A function of logits, labels and options to a scalar (with `reduction="none"` to `[b, c, *grid]`).

    Raises:
        ValueError: a name that cannot be computed here.

    Examples:
        >>> import torch
        >>> from ars_jax.gradients import pytorch
        >>> ars = pytorch.loss("adaptive_region_specific")
        >>> logits = torch.zeros(1, 2, 4, 4, 4, requires_grad=True)  # [batch, classes, z, y, x]
        >>> labels = (torch.arange(64) % 2).reshape(1, 1, 4, 4, 4)
        >>> value = ars(logits, labels, regions=2, reduction="class_mean", adaptive_gradient="stop")
        >>> value.backward()
        >>> print(f"{value.item():.4f}", tuple(logits.grad.shape))
        1.0000 (1, 2, 4, 4, 4)
    """
    if name not in names():
        offered = ", ".join(names()) or "none: PyTorch is not installed, pip install torch"
        raise ValueError(f"name (={name!r}) must be a loss that PyTorch can compute here: {offered}")

    def computed(logits: torch.Tensor, labels: torch.Tensor, **options: Any) -> torch.Tensor:
        return _computed(name, logits, labels, **options)

    original = public_function(name)
    computed.__name__, computed.__doc__ = name, f"In PyTorch, channels first:\n\n{original.__doc__}"
    computed.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
    return computed


def _computed(name: str, x: torch.Tensor, y: torch.Tensor, **options: Any) -> torch.Tensor:
    import torch

    options = resolved_options(name, options)
    check_parameters(options)
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if y.ndim == x.ndim and y.shape[1] == 1:
        if y.is_floating_point() and bool((y != y.round()).any()):
            raise ArgumentError("labels", "fractions in one channel", "integers, or soft labels of every class")
        y = y[:, 0].long()
    where, ignored = options.pop("where"), options.pop("ignore_label", None)
    if where is not None and where.ndim == x.ndim and where.shape[1] == 1:
        where = where[:, 0]
    counted = None if where is None else _like(where, x.ndim)
    check_arrays(_like(x, x.ndim), _like(y, x.ndim), counted, options.pop("spatial_dims"))
    where = None if where is None else where[:, None].bool()
    if ignored is not None:
        if y.ndim == x.ndim:
            raise ArgumentError("ignore_label", ignored, "None for one-hot or soft labels; give a mask as where")
        kept = (y != ignored)[:, None]
        where = kept if where is None else where & kept
    return (WRITTEN_OUT | MONAI)[name](x, y, where=where, **options)


def _like(tensor: torch.Tensor, axes: int) -> np.ndarray:
    """Returns an array without memory that has the shape and kind of a tensor, channels last if it has channels."""
    shape = (tensor.shape[0], *tensor.shape[2:], tensor.shape[1]) if tensor.ndim == axes else tensor.shape
    return np.broadcast_to(np.float32(0) if tensor.is_floating_point() else np.int32(0), tuple(shape))


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
        options["where"] = torch.tensor(np.asarray(options["where"], bool))
    value = computed(inputs, targets, **options)
    value.backward()
    assert inputs.grad is not None
    return value.item(), np.moveaxis(inputs.grad.numpy(), 1, -1)


def pytorch_ars(
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    where: torch.Tensor | None,
    smooth: float,
    num_region_per_axis: int | Sequence[int],
    do_bg: bool,
    batch_dice: bool,
    A: float,
    B: float,
    region_reduction: str,
) -> torch.Tensor:
    """The loss of `presets.pytorch_ars` by adaptive average pooling of hits and errors, `[b, c, *space]`."""
    from torch.nn import functional

    check_word("region_reduction", region_reduction, RegionReduction)
    p, g = probabilities_and_references(x, y, where)
    p, g = (p, g) if do_bg else (p[:, 1:], g[:, 1:])
    pool = functional.adaptive_avg_pool3d if x.ndim == 5 else functional.adaptive_avg_pool2d
    bins: Any = num_region_per_axis if isinstance(num_region_per_axis, int) else tuple(num_region_per_axis)
    hit, fp, fn = (pool(voxels, bins) for voxels in (p * g, p * (1 - g), (1 - p) * g))
    if batch_dice:
        hit, fp, fn = (means.sum(0, keepdim=True) for means in (hit, fp, fn))
    alpha, beta = (A + B * (error + smooth) / (fp + fn + smooth) for error in (fp, fn))
    losses = 1 - (hit + smooth) / (hit + alpha * fp + beta * fn + smooth)
    return losses.mean() if region_reduction == "mean" else losses.flatten(2).sum(-1).mean()


def nnunet_dice_ce(
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    where: torch.Tensor | None,
    batch_dice: bool,
    smooth: float,
    do_bg: bool,
    weight_ce: float,
    weight_dice: float,
) -> torch.Tensor:
    """The loss of `presets.nnunet_dice_ce`, `[b, c, *space]`."""
    p, g = probabilities_and_references(x, y, where)
    counted = p[:, :1].numel() if where is None else max(int(where.sum()), 1)
    entropy = -(g * log_probabilities(x, where)).sum() / counted
    p, g = (p, g) if do_bg else (p[:, 1:], g[:, 1:])
    hit, predicted, reference = (voxels.flatten(2).sum(-1) for voxels in (p * g, p, g))
    if batch_dice:
        hit, predicted, reference = (sums.sum(0) for sums in (hit, predicted, reference))
    coefficient = (2 * hit + smooth) / (reference + predicted + smooth).clamp(min=1e-8)
    return weight_ce * entropy - weight_dice * coefficient.mean()


def cross_entropy(
    x: torch.Tensor,
    y: torch.Tensor,
    *,
    where: torch.Tensor | None,
    batch_dice: bool,
    reduction: str,
    from_probabilities: bool,
    class_weights: Sequence[float] | None = None,
) -> torch.Tensor:
    """The loss of `losses.cross_entropy`, `[b, c, *space]`."""
    check_word("reduction", reduction, Literal["mean", "sum", "none"])
    _, g = probabilities_and_references(x, y, where, from_probabilities)
    log_p = log_probabilities(x, where, from_probabilities)
    weights = class_factors(class_weights, x)
    entropy, counted = (-g * log_p * weights).flatten(1).sum(-1), (g * weights).flatten(1).sum(-1)
    if batch_dice:
        entropy, counted = entropy.sum(0, keepdim=True), counted.sum(0, keepdim=True)
    values = entropy if reduction == "sum" else entropy / counted.where(counted > 0, 1)
    return values[:, None] if reduction == "none" else values.mean()


def baseline(
    x: torch.Tensor, y: torch.Tensor, *, cross_entropy_weight: float, cross_entropy_reduction: str, **options: Any
) -> torch.Tensor:
    """The loss of `losses.baseline`, `[b, c, *space]`."""
    shared = {key: options[key] for key in ("where", "batch_dice", "from_probabilities")}
    entropy = cross_entropy(x, y, reduction=cross_entropy_reduction, **shared)
    return regional(dice, x, y, **options) + cross_entropy_weight * entropy


def _monai(
    loss: str, x: torch.Tensor, y: torch.Tensor, *, where: torch.Tensor | None = None, **options: Any
) -> torch.Tensor:
    """One of MONAI's classes, with its own option names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import monai.losses

        kind = getattr(monai.losses, loss)
        y = y if y.ndim == x.ndim else y[:, None]
        if where is not None:
            if "ignore_index" not in inspect.signature(kind).parameters:
                raise ValueError(f"MONAI's {loss} has no ignored voxels: compare without where")
            options["ignore_index"] = -1
            x, y = x.where(where, 0), y.where(where, -1 if y.shape[1] == 1 else 0)
        return kind(softmax=True, to_onehot_y=y.shape[1] == 1, **options)(x, y)


MONAI: dict[str, Callable[..., torch.Tensor]] = {
    "monai_dice": partial(_monai, "DiceLoss"),
    "monai_dice_ce": partial(_monai, "DiceCELoss"),
    "monai_tversky": partial(_monai, "TverskyLoss"),
    "monai_generalized_dice": partial(_monai, "GeneralizedDiceLoss"),
}

WRITTEN_OUT: dict[str, Callable[..., torch.Tensor]] = {
    "dice": partial(regional, dice),
    "tversky": partial(regional, tversky),
    "focal_tversky": partial(regional, focal_tversky),
    "generalized_dice": partial(regional, generalized_dice),
    "sensitivity_specificity": partial(regional, sensitivity_specificity),
    "cross_entropy": cross_entropy,
    "baseline": baseline,
    "region_specific": partial(regional, dice),
    "adaptive_region_specific": partial(regional, adaptive_tversky),
    "pytorch_ars": pytorch_ars,
    "nnunet_dice_ce": nnunet_dice_ce,
}
