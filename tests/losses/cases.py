"""What every test of the losses draws from: the losses themselves, small inputs, and the one-pair case.

The one-pair case is one whose gradient can be read by hand.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.typing import ArrayLike

from ars_jax import losses

SPACE = (8, 6, 4)
"""The shape of nearly all tests, as each further one costs a compilation; a grid of 2 divides it, one of 3 does not."""

FIELDS = (
    "true_positives",
    "predicted",
    "reference",
    "squared_predicted",
    "squared_true_positives",
    "log_loss",
    "voxels",
)
WHOLE = ("dice", "tversky", "focal_tversky", "generalized_dice", "sensitivity_specificity")
"""Losses of the whole volume that a division makes region-specific."""
DIVISIBLE = (*WHOLE, "region_specific", "adaptive_region_specific")
"""Losses that take every option of a division."""
REGIONS = {"regions": 2}
LOSSES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in (*WHOLE, "cross_entropy", "baseline")},
    **{f"{name} of regions": (name, REGIONS) for name in WHOLE},
    "region_specific": ("region_specific", REGIONS),
    "adaptive_region_specific": ("adaptive_region_specific", REGIONS),
    "adaptive_region_specific stopped": ("adaptive_region_specific", {**REGIONS, "adaptive_gradient": "stop"}),
}
PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    f"presets.{name}": (f"presets.{name}", {"num_region_per_axis": 2} if name == "pytorch_ars" else {})
    for name in (
        "pytorch_ars",
        "monai_dice",
        "monai_dice_ce",
        "monai_tversky",
        "monai_generalized_dice",
        "nnunet_dice_ce",
    )
}
"""Every public loss and every preset by a name for the report: its own name, and options that fit `SPACE`."""
every_loss = pytest.mark.parametrize(("name", "options"), LOSSES.values(), ids=LOSSES.keys())
every_loss_and_preset = pytest.mark.parametrize(
    ("name", "options"), [*LOSSES.values(), *PRESETS.values()], ids=[*LOSSES, *PRESETS]
)


def public_losses(module: Any) -> set[str]:
    """The functions of a module that make one number of logits and labels."""
    functions = [member for name, member in inspect.getmembers(module, inspect.isfunction) if name[0] != "_"]
    own = {member.__name__: member for member in functions if member.__module__.startswith(module.__name__)}
    arguments = {name: list(inspect.signature(function).parameters) for name, function in own.items()}
    return {name for name, names in arguments.items() if names[:2] == ["logits", "labels"]} - {"overlap_statistics"}


def random_case(
    seed: int, space: Sequence[int], *, classes: int = 3, batch: int = 2, soft: bool = False, block: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """Logits [b, *space, c] and labels of blocky organs, so that many regions lack a class; or soft references."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2.0, size=(batch, *space, classes)).astype(np.float32)
    if soft:
        return logits, rng.dirichlet(np.full(classes, 0.5), size=(batch, *space)).astype(np.float32)
    labels = rng.integers(0, classes, (batch, *(-(-side // block) for side in space)))
    for axis, side in enumerate(space, start=1):
        labels = np.repeat(labels, block, axis).take(np.arange(side), axis)
    return logits, labels.astype(np.int32)


def random_mask(seed: int, space: Sequence[int], *, batch: int = 2) -> np.ndarray:
    """Voxels that count: about three quarters of them."""
    return np.random.default_rng(seed).random((batch, *space)) < 0.75


def region_map(ids: Any, count: int) -> losses.RegionMap:
    """A map of NumPy or JAX integers."""
    return losses.RegionMap(jnp.asarray(ids), count)


def loss(name: str, **options: Any) -> Callable[..., Any]:
    """The loss of that name with its options bound; arrays stay arguments.

    Tests call it without jit: the pass over the volume is compiled once per shape and grid, whatever the options.
    """
    return partial(attrgetter(name)(losses), **options)


def gradient(name: str, **options: Any) -> Callable[..., Any]:
    """The gradient by the logits."""
    return jax.grad(loss(name, **options))


def statistics(*arrays: Any, **options: Any) -> losses.OverlapStatistics:
    """The regional sums; NumPy arrays may stand for JAX arrays, as in every call of a loss."""
    return losses.overlap_statistics(*arrays, **options)


def one_pair(probabilities: ArrayLike, reference: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """A one-region 2-D case in which class 1 alone counts: its reference is given, class 0 has none.

    With ``absent_classes="skip"`` the loss is that of a single pair, and its slope by a voxel's probability is the
    gradient by the logit of class 1 divided by p(1 - p): every weight in it can be read off.
    """
    p = np.asarray(probabilities, np.float64)
    logits = np.stack([np.zeros_like(p), np.log(p / (1 - p))], -1)[None, :, None, :]
    labels = np.stack([np.zeros_like(p), np.asarray(reference, np.float64)], -1)[None, :, None, :]
    return logits.astype(np.float32), labels.astype(np.float32)


def pair_value_and_slope(
    value_and_gradient: Callable[..., Any], probabilities: ArrayLike, reference: ArrayLike
) -> tuple[float, np.ndarray]:
    """Value of the single pair and its slope by each probability."""
    p = np.asarray(probabilities, np.float64)
    value, by_logit = value_and_gradient(*map(jnp.asarray, one_pair(p, reference)))
    return float(value), np.asarray(by_logit, np.float64)[0, :, 0, 1] / (p * (1 - p))
