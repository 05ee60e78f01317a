"""Which voxels of an image are kept: all, the body, or those that are not 0."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from ars_jax.data.geometry import Box
from ars_jax.data.plan import Plan
from ars_jax.errors import UserError

_BODY_VOXEL_MM = 4.0


def crop_box(image: np.ndarray, spacing: Sequence[float], plan: Plan, name: object = "image") -> Box:
    """Finds the voxels to keep.

    Args:
        image: [z, y, x], canonical.
        spacing: mm z, y, x.
        plan: crop, crop_threshold and crop_margin_mm.
        name: the file or case, for messages.

    Returns:
        One slice per axis.

    Raises:
        UserError: nothing is left.
    """
    if plan.crop == "none":
        return _box(np.zeros(3, int), np.asarray(image.shape))
    factors = np.ones(3, int)
    if plan.crop == "body":
        factors = np.maximum(1, np.rint(_BODY_VOXEL_MM / np.asarray(spacing)).astype(int))
        mask, limit = _largest_part(_block_means(image, factors) > plan.crop_threshold), f"> {plan.crop_threshold:g}"
    else:
        mask, limit = image != 0, "other than 0"
    if not mask.any():
        found = f"values from {image.min():g} to {image.max():g}"
        fix = "choose another crop_threshold, or crop none"
        raise UserError(name, found=found, wanted=f"a region with values {limit} to crop to", fix=fix)
    ends = [np.flatnonzero(mask.any(axis=others))[[0, -1]] for others in ((1, 2), (0, 2), (0, 1))]
    first, last = np.transpose(ends)
    # The edge of the body may lie inside of the block next to the last one whose mean is above the threshold.
    margin = np.minimum(np.ceil(plan.crop_margin_mm / np.asarray(spacing)), image.shape).astype(int) + factors - 1
    return _box(np.maximum(first * factors - margin, 0), np.minimum((last + 1) * factors + margin, image.shape))


def _box(first: np.ndarray, stop: np.ndarray) -> Box:
    z, y, x = (slice(int(start), int(end)) for start, end in zip(first, stop, strict=True))
    return z, y, x


def _block_means(image: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Means of blocks of voxels: noise, hair and sheets thinner than a block fall below the threshold."""
    widths = [(0, int(-side % factor)) for side, factor in zip(image.shape, factors, strict=True)]
    padded = np.pad(image, widths, mode="edge")
    blocks = [size for side, factor in zip(padded.shape, factors, strict=True) for size in (side // factor, factor)]
    return padded.reshape(blocks).mean(axis=(1, 3, 5), dtype=np.float32)


def _largest_part(mask: np.ndarray) -> np.ndarray:
    """The largest connected part after an opening that cuts thin bridges (to the table, to a mask's frame)."""
    cross = ndimage.generate_binary_structure(3, 1)
    opened = ndimage.binary_dilation(ndimage.binary_erosion(mask, cross, border_value=1), cross, mask=mask)
    parts = np.empty(mask.shape, np.int32)
    if ndimage.label(opened if opened.any() else mask, np.ones((3, 3, 3)), output=parts) == 0:
        return mask
    return parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
