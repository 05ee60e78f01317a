"""Augmentation on a device: the linear and nearest resampling of `data.augment`, drawn and prepared by the loader.

The map from canvas to sample is separable, and along one axis it is a product with a matrix of two entries in a row.
Accelerators multiply matrices much faster than they gather, along the last axis above all.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp

Arrays = Mapping[str, jax.Array]


def resample(staged: Arrays, canvas: Sequence[int], swap: Sequence[tuple[int, int]] = ()) -> dict[str, jax.Array]:
    """Makes the drawn changes of a batch.

    Args:
        staged: what `data.staging.stage` gives, with the axis of the batch in front: `image` float32
            `[b, *staging, 1]`, `label` uint8 `[b, *staging]` and the rest.
        canvas: voxels z, y, x of the result.
        swap: pairs of channel numbers that a flip along x exchanges.

    Returns:
        `image` float32 `[b, z, y, x, 1]`, `label` uint8 `[b, z, y, x]` and `labelled` bool `[b, c]`, as the loader
        gives them where it augments itself: labels are equal, images but for rounding.
    """
    image, label = jax.vmap(partial(_resample_one, tuple(canvas), tuple(swap)))(staged)
    return {"image": image[..., None], "label": label, "labelled": staged["labelled"]}


def _resample_one(
    canvas: tuple[int, ...], swap: tuple[tuple[int, int], ...], staged: Arrays
) -> tuple[jax.Array, jax.Array]:
    bounds = [sum(canvas[:axis]) for axis in range(1, len(canvas))]
    below, above, nearest, weight = (jnp.split(staged[key], bounds) for key in ("below", "above", "nearest", "weight"))
    # Outside of the sample is `fill`: with its zero there a row that misses the sample, or half of it, needs no care.
    image = staged["image"][..., 0] - staged["fill"]
    label = staged["label"].astype(jnp.float32)
    for axis, side in enumerate(label.shape):
        share = weight[axis][:, None]
        linear = (1 - share) * _one_hot(below[axis], side) + share * _one_hot(above[axis], side)
        image = _along(axis, linear, image, "highest")
        # One entry in a row and whole numbers below 256: exact in every precision that accelerators multiply with.
        label = _along(axis, _one_hot(nearest[axis], side), label, "default")
    image = (image + staged["fill"]) * staged["factor"] + staged["offset"]
    return image, _exchanged(label.astype(jnp.uint8), swap, staged["flipped"])


def _one_hot(index: jax.Array, side: int) -> jax.Array:
    """Rows of a unit matrix, and of zeros where the index is none."""
    return (index[:, None] == jnp.arange(side)).astype(jnp.float32)


def _along(axis: int, matrix: jax.Array, volume: jax.Array, precision: str) -> jax.Array:
    return jnp.moveaxis(jnp.tensordot(matrix, volume, (1, axis), precision=precision), 0, axis)


def _exchanged(label: jax.Array, swap: tuple[tuple[int, int], ...], flipped: jax.Array) -> jax.Array:
    result = label
    for left, right in swap:
        result = jnp.where(label == left, jnp.uint8(right), jnp.where(label == right, jnp.uint8(left), result))
    return jnp.where(flipped, result, label)
