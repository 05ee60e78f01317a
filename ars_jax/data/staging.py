"""What a device needs to augment a sample itself: the part of it that the canvas shows, and where every voxel is from.

The coordinates are computed here, in float64, by the functions that the augmentation on the host uses; the device gets
whole indices and weights. So both take the same voxels, and labels are the same to the last one.
"""

import math
from collections.abc import Sequence

import numpy as np

from ars_jax.data.augment import X_AXIS, Draw, exchange_table, source_lines
from ars_jax.data.plan import Sample

OUTSIDE = -1
"""The index of what lies outside of the sample."""


def staging_shape(canvas: Sequence[int], scale: float, largest: Sequence[int]) -> tuple[int, int, int]:
    """The one shape in which samples of every size are handed to a device.

    A canvas shows at most its own side divided by the magnification, so that larger samples need not be handed over
    whole. Samples that are not changed are staged too, so that the magnification counts as 1 at most.

    Args:
        canvas: voxels z, y, x.
        scale: the smallest magnification.
        largest: the largest side of any sample along z, y, x.

    Returns:
        Voxels z, y, x.
    """
    # One voxel more at either end for interpolation, and one where rounding moves the first coordinate below a voxel.
    shown = (math.ceil((target - 1) / min(scale, 1.0)) + 3 for target in canvas)
    z, y, x = (min(side, whole) for side, whole in zip(shown, largest, strict=True))
    return z, y, x


def stage(
    drawn: Draw,
    sample: Sample,
    canvas: Sequence[int],
    staging: Sequence[int],
    swap: Sequence[tuple[int, int]],
    fill: float,
) -> dict[str, np.ndarray]:
    """Cuts out what the canvas shows of a sample and says how to resample it.

    Args:
        drawn: the change.
        sample: image float32 [z, y, x] and label.
        canvas: voxels z, y, x of the result.
        staging: what `staging_shape` gave.
        swap: pairs of channel numbers that a flip along x exchanges.
        fill: image value outside of the sample.

    Returns:
        The arguments of `resample.resample` for one sample, without the axis of the batch: `image`
        [*staging, 1], `label` [*staging], `labelled` [c], already exchanged; `below`, `above` and `nearest`, int32
        indices into them along z, y and x, one behind the other, `OUTSIDE` where there is no voxel, and `weight` of
        `above`, float32; `flipped`, whether the label's channels are to be exchanged; `factor`, `offset` and `fill`.
    """
    lines = source_lines(drawn, sample.label.shape, canvas)
    starts = [
        int(np.clip(np.floor(line.min()), 0, side - 1)) for line, side in zip(lines, sample.label.shape, strict=True)
    ]
    window = tuple(slice(start, start + side) for start, side in zip(starts, staging, strict=True))
    floors = [np.floor(line) for line in lines]
    flipped = drawn.flip[X_AXIS]

    def indices(parts: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate([_within(*item) for item in zip(parts, starts, sample.label[window].shape, strict=True)])

    return {
        "image": _padded(sample.image[window], staging)[..., None],
        "label": _padded(sample.label[window], staging),
        "labelled": sample.labelled[exchange_table(len(sample.labelled), swap)] if flipped else sample.labelled,
        "below": indices(floors),
        "above": indices([floor + 1 for floor in floors]),
        "nearest": indices([np.floor(line + 0.5) for line in lines]),
        "weight": np.concatenate([line - floor for line, floor in zip(lines, floors, strict=True)]).astype(np.float32),
        "flipped": np.asarray(flipped),
        "factor": np.asarray(drawn.factor, np.float32),
        "offset": np.asarray(drawn.offset, np.float32),
        "fill": np.asarray(fill, np.float32),
    }


def _within(index: np.ndarray, start: int, side: int) -> np.ndarray:
    """Indices counted from the window's start."""
    moved = index - start
    return np.where((moved >= 0) & (moved < side), moved, OUTSIDE).astype(np.int32)


def _padded(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    result = np.zeros(shape, array.dtype)
    result[tuple(map(slice, array.shape))] = array
    return result
