"""What a case measures: place, intensities and organs of an image and its label, small enough to keep for all cases."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from ars_jax.data.geometry import Geometry
from ars_jax.data.volumes import Volume

PERCENTILES = (0.5, 5.0, 50.0, 95.0, 99.5)
"""The percentiles that are taken of an image."""

ORGAN_PERCENTILES = (5.0, 25.0, 50.0, 75.0, 95.0)
"""The percentiles that are taken of the image inside of an organ."""

_AIR_HU = -500.0  # an image whose lowest values are below is CT
_BODY_HU = -300.0  # between air and fat
_SAMPLES = 2_000_000  # voxels that percentiles are taken of: more do not change them
_MM3_PER_ML = 1000.0

Point = tuple[float, float, float]


@dataclass(frozen=True)
class OrganSurvey:
    """One organ of one case.

    Args:
        voxels: how many.
        volume_ml: their volume.
        centroid: their mean position (z, y, x) in LPS mm.
        intensities: `ORGAN_PERCENTILES` of the image inside; None where the label lies on another grid.
        placed: whether the header of the grid that it was measured on holds a place, and so true mm and ml.
    """

    voxels: int
    volume_ml: float
    centroid: Point
    intensities: tuple[float, ...] | None = None
    placed: bool = True


@dataclass(frozen=True)
class ImageSurvey:
    """One image.

    Args:
        geometry: its grid.
        intensities: `PERCENTILES` of its voxels.
        body: of CT the `PERCENTILES` of what is denser than air, else None.
        body_centre: of CT the mean position (z, y, x) of these in LPS mm, else None.
        digest: equal for images with equal voxels.
    """

    geometry: Geometry
    intensities: tuple[float, ...]
    body: tuple[float, ...] | None
    body_centre: Point | None
    digest: str


@dataclass(frozen=True)
class CaseSurvey:
    """One case, as far as its files could be read.

    Args:
        case: its name.
        image: None if it could not be read, or holds no number.
        organs: those that were drawn.
        label_digest: equal for labels with equal organs in equal voxels; None without organs.
    """

    case: str
    image: ImageSurvey | None = None
    organs: Mapping[str, OrganSurvey] = field(default_factory=dict)
    label_digest: str | None = None


def survey_image(volume: Volume) -> ImageSurvey | None:
    """Measures an image.

    Args:
        volume: any element type; NaN and infinity are left out.

    Returns:
        The measures, of at most some two million voxels on a regular sub-grid; None if no voxel is finite.
    """
    step = max(1, math.ceil((volume.array.size / _SAMPLES) ** (1 / 3)))
    sample = as_float32(volume.array[::step, ::step, ::step])
    values = sample[np.isfinite(sample)]
    if not values.size:
        return None
    percentiles = _percentiles(values, PERCENTILES)
    body = body_centre = None
    inside = np.flatnonzero(sample > _BODY_HU)
    if percentiles[0] < _AIR_HU and inside.size:
        body = _percentiles(sample.ravel()[inside], PERCENTILES)
        body_centre = _centroid(inside, sample.shape, volume.geometry, step)
    return ImageSurvey(volume.geometry, percentiles, body, body_centre, _digest(volume.array))


def organ_voxels(channels: np.ndarray, organs: int) -> list[np.ndarray]:
    """Lists the voxels of every organ.

    Args:
        channels: channel numbers, 0 background.
        organs: how many organs there are.

    Returns:
        For each organ the flat indices of its voxels, in order.
    """
    voxels = np.flatnonzero(channels)
    numbers = channels.ravel()[voxels]
    order = np.argsort(numbers, kind="stable")
    ends = np.searchsorted(numbers[order], np.arange(1, organs + 2))
    return [voxels[order[start:stop]] for start, stop in pairwise(ends)]


def survey_organ(voxels: np.ndarray, geometry: Geometry, image: np.ndarray | None) -> OrganSurvey:
    """Measures an organ.

    Args:
        voxels: flat indices of its voxels, at least one.
        geometry: the label's grid.
        image: the image on this grid, if there is one.

    Returns:
        The measures.
    """
    centroid = _centroid(voxels, geometry.shape, geometry)
    volume = voxels.size * math.prod(geometry.spacing) / _MM3_PER_ML
    inside = np.empty(0) if image is None else as_float32(image.ravel()[voxels])
    inside = inside[np.isfinite(inside)]
    intensities = _percentiles(inside, ORGAN_PERCENTILES) if inside.size else None
    return OrganSurvey(int(voxels.size), volume, centroid, intensities, not without_place(geometry))


def label_digest(drawn: Mapping[str, np.ndarray]) -> str | None:
    """Digests what was drawn.

    Args:
        drawn: organs with the flat indices of their voxels.

    Returns:
        A digest that is equal where the same voxels have the same organs; None if nothing was drawn.
    """
    if not drawn:
        return None
    state = hashlib.blake2b(digest_size=16)
    for organ in sorted(drawn):
        state.update(f"{organ}:{drawn[organ].size}:".encode())
        state.update(np.ascontiguousarray(drawn[organ], "<i8").data)
    return state.hexdigest()


def as_float32(values: np.ndarray) -> np.ndarray:
    """Converts numbers of any type.

    Args:
        values: any shape.

    Returns:
        float32; NaN and infinity stay what they are, numbers beyond the type's range come to its end.
    """
    if values.dtype != np.float64:
        return values.astype(np.float32)
    ends = np.finfo(np.float32)
    return np.where(np.isfinite(values), np.clip(values, ends.min, ends.max), values).astype(np.float32)


def orientation(geometry: Geometry) -> str:
    """Names a grid's orientation.

    Args:
        geometry: the grid.

    Returns:
        Where the indices x, y, z grow to, as "LPS" for the canonical one (Left or Right, Posterior or Anterior,
        Superior or Inferior); with the largest angle in degrees to the patient's axes, if above 0.5.
    """
    matrix = np.reshape(geometry.direction, (3, 3))[::-1, ::-1]  # x, y, z; column k is the step of index k
    nearest = np.abs(matrix).argmax(axis=0)
    cosines = matrix[nearest, range(3)]
    letters = "".join(("LR", "PA", "SI")[axis][int(cosine < 0)] for axis, cosine in zip(nearest, cosines, strict=True))
    angle = math.degrees(math.acos(min(1.0, float(np.abs(cosines).min()))))
    return f"{letters} turned by {angle:.0f} deg" if angle > 0.5 else letters


def without_place(geometry: Geometry) -> bool:
    """Tells the headers that programs write where they know no place.

    Args:
        geometry: the grid.

    Returns:
        Whether the spacing is 1 mm, the axes are the patient's, and the origin is 0 or, from programs that count from
        1, one voxel.
    """
    matrix = np.reshape(geometry.direction, (3, 3))
    origin = np.abs(geometry.origin)
    return bool(
        np.all(np.abs(matrix) == np.eye(3))
        and np.all(np.equal(geometry.spacing, 1.0))
        and (np.all(origin == 0) or np.all(origin == 1))
    )


def _percentiles(values: np.ndarray, which: tuple[float, ...]) -> tuple[float, ...]:
    # In float32 the difference between two values may overflow.
    return tuple(float(value) for value in np.percentile(values.astype(np.float64), which))


def _centroid(voxels: np.ndarray, shape: tuple[int, ...], geometry: Geometry, step: int = 1) -> Point:
    """The mean position of voxels of every `step`-th plane of a grid, in mm."""
    index = np.array([axis.mean() for axis in np.unravel_index(voxels, shape)]) * step
    matrix = np.reshape(geometry.direction, (3, 3))
    z, y, x = matrix @ (index * geometry.spacing) + geometry.origin
    return float(z), float(y), float(x)


def _digest(array: np.ndarray) -> str:
    state = hashlib.blake2b(repr((array.shape, array.dtype.str)).encode(), digest_size=16)
    state.update(np.ascontiguousarray(array).data)
    return state.hexdigest()
