"""Random flip, translation and scaling of a sample onto a canvas, in one resample.

The map from canvas to sample is separable: every axis has its own line of source coordinates. So trilinear
interpolation is three gather-and-lerp steps, one per axis, and nearest-neighbour sampling three gathers. Around the
sample lies the `fill` value in every direction, also for the interpolation at its border.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ars_jax.data.plan import Sample

FloatRange = tuple[float, float]
X_AXIS = 2

_SLAB_BYTES = 2**20
"""What is interpolated at once: its temporaries stay in the processor's cache, twice as fast on 128 x 144 x 256."""


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes.

    Args:
        flip: axes z, y, x that are flipped in half of the draws.
        translate: largest shift along every axis, as a fraction of the canvas side. Where the sample is larger than the
            canvas the shift is any that keeps the canvas filled instead: a random crop.
        scale: smallest and largest magnification, the same for the three axes of one draw; above 1 organs grow.
        intensity_shift: largest value added to or taken from the image.
        intensity_scale: largest relative change of the image's values: the factor is within 1 ± this.
        swap: pairs of channel numbers that change places in a flip along x (left and right organs).
    """

    flip: tuple[bool, bool, bool] = (False, False, False)
    translate: float = 0.0
    scale: FloatRange = (1.0, 1.0)
    intensity_shift: float = 0.0
    intensity_scale: float = 0.0
    swap: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Draw:
    """One random change, drawn for one sample.

    Attributes:
        flip: which of the axes z, y, x are mirrored.
        scale: magnification.
        shift: along z, y, x in canvas voxels.
        factor: of the image's values.
        offset: added to them afterwards.
    """

    flip: tuple[bool, bool, bool] = (False, False, False)
    scale: float = 1.0
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    factor: float = 1.0
    offset: float = 0.0


UNCHANGED = Draw()


def draw(rng: np.random.Generator, shape: Sequence[int], canvas: Sequence[int], augmentation: Augmentation) -> Draw:
    """Draws a random change.

    The number of random values drawn is always the same, so switching one change off leaves the others as they were.

    Args:
        rng: source of all randomness.
        shape: voxels z, y, x of the sample.
        canvas: voxels z, y, x of the result.
        augmentation: the ranges.

    Returns:
        The change, which `apply` makes here and `resample.resample` on a device.
    """
    flips = (rng.random(3) < 0.5) & np.asarray(augmentation.flip)
    scale = rng.uniform(*augmentation.scale)
    shifts = rng.uniform(-1.0, 1.0, 3)
    factor = 1.0 + augmentation.intensity_scale * rng.uniform(-1.0, 1.0)
    offset = augmentation.intensity_shift * rng.uniform(-1.0, 1.0)
    z, y, x = (
        shift * shift_limit(side, target, scale, augmentation.translate)
        for side, target, shift in zip(shape, canvas, shifts.tolist(), strict=True)
    )
    mirror_z, mirror_y, mirror_x = flips.tolist()
    return Draw((mirror_z, mirror_y, mirror_x), scale, (z, y, x), factor, offset)


def apply(drawn: Draw, sample: Sample, canvas: Sequence[int], swap: Sequence[tuple[int, int]], fill: float) -> Sample:
    """Makes a drawn change, by one resample.

    Image and label move together; a flip along x exchanges the channels of `swap` in `label` and `labelled`. Without
    scaling the shifts are whole voxels, so that values are copied, not interpolated.

    Args:
        drawn: the change.
        sample: image float32 [z, y, x] and label.
        canvas: voxels z, y, x of the result.
        swap: pairs of channel numbers.
        fill: image value outside of the sample (normalised air, see `prepare.fill_value`).

    Returns:
        The sample on the canvas; the same name, element types and number of classes.
    """
    lines = source_lines(drawn, sample.label.shape, canvas)
    image, label = sample_linear(sample.image, lines, fill), sample_nearest(sample.label, lines)
    if (drawn.factor, drawn.offset) != (1.0, 0.0):
        image *= np.float32(drawn.factor)
        image += np.float32(drawn.offset)
    labelled = sample.labelled
    if drawn.flip[X_AXIS] and swap:
        exchange = exchange_table(len(labelled), swap)
        # Two to four times as fast as indexing the table by the label map.
        table = exchange.tobytes().ljust(256, b"\0")
        label = np.frombuffer(bytearray(label).translate(table), np.uint8).reshape(label.shape)
        labelled = labelled[exchange]
    return Sample(sample.name, image, label, labelled)


def shift_limit(side: int, target: int, scale: float, translate: float) -> float:
    """Largest shift along one axis, in canvas voxels.

    Args:
        side: voxels of the sample.
        target: voxels of the canvas.
        scale: magnification.
        translate: fraction of the canvas side.

    Returns:
        Half of what the scaled sample exceeds the canvas by, so that the canvas stays filled; for samples that fit the
        canvas unscaled at least `translate` of its side.
    """
    overhang = (side * scale - target) / 2
    return max(overhang, translate * target if side <= target else 0.0)


def source_lines(drawn: Draw, shape: Sequence[int], canvas: Sequence[int]) -> list[np.ndarray]:
    """Source coordinates of the canvas along each axis.

    Args:
        drawn: the change.
        shape: voxels z, y, x of the sample.
        canvas: voxels z, y, x of the result.

    Returns:
        Along z, y, x what `source_line` gives.
    """
    return [
        source_line(side, target, flip=flip, scale=drawn.scale, shift=shift)
        for side, target, flip, shift in zip(shape, canvas, drawn.flip, drawn.shift, strict=True)
    ]


def source_line(side: int, target: int, *, flip: bool = False, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    """Source coordinates of the canvas voxels along one axis.

    Args:
        side: voxels of the sample.
        target: voxels of the canvas.
        flip: whether the sample is mirrored before it is shifted.
        scale: magnification about the middle of the sample.
        shift: canvas voxels by which the sample's middle lies behind the canvas's middle.

    Returns:
        float64 [target], in voxels of the sample (0 is the centre of its first voxel); whole numbers at scale 1.
    """
    start = (side - 1) / 2 - ((target - 1) / 2 + shift) / scale
    if scale == 1.0:
        start = np.floor(start + 0.5)
    line = start + np.arange(target) / scale
    return (side - 1) - line if flip else line


def sample_linear(image: np.ndarray, lines: Sequence[np.ndarray], fill: float) -> np.ndarray:
    """Linear interpolation on the grid that the three lines of coordinates span.

    Args:
        image: float32 [z, y, x]; around it everything is `fill`.
        lines: source coordinates along z, y, x, each rising or falling.
        fill: value around the image.

    Returns:
        float32, one side per line; whole coordinates copy the image's values.
    """
    planes = max(1, _SLAB_BYTES // max(1, image[0].nbytes))
    if planes >= len(lines[0]):
        return _linear(image, lines, fill)
    result = np.empty([len(line) for line in lines], image.dtype)
    for first in range(0, len(result), planes):
        slab = slice(first, first + planes)
        result[slab] = _linear(image, [lines[0][slab], *lines[1:]], fill)
    return result


def sample_nearest(label: np.ndarray, lines: Sequence[np.ndarray]) -> np.ndarray:
    """Nearest neighbour on the grid that the three lines of coordinates span, 0 outside of the label map.

    Args:
        label: integers [z, y, x].
        lines: source coordinates along z, y, x, each rising or falling.

    Returns:
        The same element type, one side per line.
    """
    for axis, line in enumerate(lines):
        label = _gather(label, np.floor(line + 0.5).astype(np.intp), axis, 0)
    return label


def _linear(image: np.ndarray, lines: Sequence[np.ndarray], fill: float) -> np.ndarray:
    for axis, line in enumerate(lines):
        low = np.floor(line).astype(np.intp)
        weight = (line - low).astype(np.float32)
        below = _gather(image, low, axis, fill)
        if weight.any():
            above = _gather(image, low + 1, axis, fill)
            above -= below
            above *= np.expand_dims(weight, tuple(other for other in range(image.ndim) if other != axis))
            below += above
        image = below
    return image


def _gather(array: np.ndarray, index: np.ndarray, axis: int, fill: float) -> np.ndarray:
    """Takes slices along one axis, a slice of `fill` for every index outside."""
    taken = np.take(array, index, axis=axis, mode="clip")
    inside = np.flatnonzero((index >= 0) & (index < array.shape[axis]))
    # A line runs straight through the array, so what is outside lies before and behind: slices are faster than a mask.
    first, stop = (inside[0], inside[-1] + 1) if inside.size else (0, 0)
    before = (slice(None),) * axis
    taken[(*before, slice(None, first))] = fill
    taken[(*before, slice(stop, None))] = fill
    return taken


def exchange_table(classes: int, swap: Sequence[tuple[int, int]]) -> np.ndarray:
    """The channel that each channel becomes in a flip along x.

    Args:
        classes: number of channels.
        swap: pairs of channels that change places.

    Returns:
        uint8 [classes].
    """
    table = np.arange(classes, dtype=np.uint8)
    for left, right in swap:
        table[[left, right]] = right, left
    return table
