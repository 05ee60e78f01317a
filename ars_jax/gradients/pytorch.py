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
from typing import TYPE_CHECKING, Any

import numpy as np

from ars_jax.gradients.pytorch_sums import (
    adaptive_tversky,
    class_factors,
    dice,
    divided,
    focal_tversky,
    generalized_dice,
    log_probabilities,
    probabilities_and_references,
    regional,
    sensitivity_specificity,
    tversky,
)

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
    """Returns a loss or preset as a function of tensors.

    Args:
        name: one of `names()`.

    Returns:
        A function of logits `[b, c, *space]`, labels `[b, *space]` or `[b, c, *space]`, and options, to a scalar.

    Raises:
        ValueError: a name that cannot be computed here.
    """
    if name not in names():
        offered = ", ".join(names()) or "none: PyTorch is not installed, pip install torch"
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

    p, g = probabilities_and_references(x, y, where)
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
    p, g = probabilities_and_references(x, y, where)
    counted = p[:, :1].numel() if where is None else max(int(where.sum()), 1)
    entropy = -(g * log_probabilities(x, where)).sum() / counted
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
    _, g = probabilities_and_references(x, y, where)
    log_p = log_probabilities(x, where)
    weights = class_factors(class_weights, x)
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
    return regional(dice, x, y, where=where, eps=eps) + cross_entropy_weight * entropy


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
    "dice": partial(regional, dice),
    "tversky": partial(regional, tversky),
    "focal_tversky": partial(regional, focal_tversky),
    "generalized_dice": partial(regional, generalized_dice),
    "sensitivity_specificity": partial(regional, sensitivity_specificity),
    "cross_entropy": cross_entropy,
    "baseline": baseline,
    "region_specific": partial(divided, dice),
    "adaptive_region_specific": partial(divided, adaptive_tversky),
    "pytorch_ars": pytorch_ars,
    "nnunet_dice_ce": nnunet_dice_ce,
}
