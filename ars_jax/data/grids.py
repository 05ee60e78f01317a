"""What mends a label on another grid than its image: resampling, another header, or nobody can tell."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ars_jax.data.faults import CANNOT_TELL, ELSEWHERE, IMAGE_HEADER, LABEL_HEADER, REPAIR
from ars_jax.data.geometry import Geometry, mismatches
from ars_jax.data.sides import left_right_pairs
from ars_jax.data.survey import as_float32, organ_voxels, survey_organ, without_place
from ars_jax.data.volumes import Volume, map_to, resample

_INSIDE = 0.99  # part of the labelled voxels that has to lie in the image: less means that a header is wrong

# Unrest within organs by the right reading, as part of that by the wrong one. Of 58 CTs of the head and neck (five
# organs; three without pairs) and 70 MRs, turned about one axis, this limit tells 97 to 100 % and mistakes none.
_CALMER = 0.7
# Mirrored sideways, a head meets itself. With the limit above 2 of the 58 CTs (three organs) are mistaken; with this
# one none, and three in four are told by sides alone or by nobody.
_CALMER_SIDEWAYS = 0.5
# Sides decide unless the image leans the other way by more than this (5 %): of 58 CTs mirrored sideways a right header
# is told in 56 and none mistaken; where the image is itself mirrored against a right label, 4 are.
_EVEN = 0.05
_AIR = 0.1  # part of the image's range of intensities that air and its noise take
_STILL = 0.02  # part of the image's range of intensities that no organ falls below
_SIDEWAYS = np.diag([1, 1, -1])


def header_fix(label: Volume, image: Volume, organs: Sequence[str]) -> str:
    """Judges what mends a label on another grid than its image.

    A label that lies in the image and is not turned against it is taken for right, unless the image clearly speaks for
    the voxels as they are stored. Where axes are turned, either the header or the order of the voxels may be right.
    Then the sides on which paired organs lie decide if the image does not lean the other way; without pairs, the image
    if it is clear.

    Args:
        label: channel numbers on the grid of the label's header.
        image: the image.
        organs: the organs of the channels, from 1.

    Returns:
        `REPAIR`, `LABEL_HEADER`, `IMAGE_HEADER`, `ELSEWHERE` or `CANNOT_TELL`; empty if the grids are the same.
    """
    if not mismatches(label.geometry, image.geometry):
        return ""
    one_place = without_place(label.geometry) != without_place(image.geometry)
    by_index = IMAGE_HEADER if one_place and without_place(image.geometry) else LABEL_HEADER
    same_shape = label.array.shape == image.array.shape
    # Among images of 1 mm the origin 0 can be meant.
    if one_place and same_shape and not np.allclose(label.geometry.spacing, image.geometry.spacing):
        return by_index
    if not label.array.any():
        return REPAIR  # nothing comes to a wrong place
    inside = _lies_in(label, image)
    if not same_shape:
        return REPAIR if inside and not one_place else ELSEWHERE
    return _by_evidence(label, image, organs, by_index) if inside else by_index


def same_grids(grids: Mapping[str, Geometry]) -> list[list[str]]:
    """Groups organs by the grid that they are drawn on.

    Args:
        grids: organ to grid.

    Returns:
        Organs of one grid each, in the given order.
    """
    groups: list[list[str]] = []
    for organ, grid in grids.items():
        group = next((group for group in groups if not mismatches(grid, grids[group[0]])), None)
        if group is None:
            groups.append([organ])
        else:
            group.append(organ)
    return groups


def channel_map(voxels: Iterable[np.ndarray], geometry: Geometry) -> Volume:
    """Combines masks.

    Args:
        voxels: of each organ the flat indices of its voxels.
        geometry: their grid.

    Returns:
        uint8 channel numbers, from 1 in the given order; where organs overlap, the later one wins.
    """
    array = np.zeros(geometry.shape, np.uint8)
    for channel, indices in enumerate(voxels, start=1):
        array.ravel()[indices] = channel
    return Volume(array, geometry)


def _lies_in(label: Volume, image: Volume) -> bool:
    """Whether the labelled voxels lie in the image's box in space."""
    ones = Volume(np.ones(image.array.shape, np.uint8), image.geometry)
    covered = resample(ones, label.geometry, interpolation="nearest", fill=0).array
    return bool(covered[label.array != 0].mean() >= _INSIDE)


def _by_evidence(label: Volume, image: Volume, organs: Sequence[str], by_index: str) -> str:
    """The fix of a label that lies in the image and has its shape: by place, by index or unknown."""
    by_place = map_to(label, image.geometry)
    number = len(organs)
    lean = _lean(organ_voxels(label.array, number), organ_voxels(by_place.array, number), image.array)
    turn = np.rint(_matrix(label.geometry) @ _matrix(image.geometry).T)  # from the place by index to the one by header
    if np.array_equal(turn, np.eye(3)):
        return by_index if lean < math.log(_CALMER) else REPAIR
    limit = -math.log(_CALMER_SIDEWAYS if np.array_equal(turn, _SIDEWAYS) else _CALMER)
    sides = _sides(label, image.geometry, organs)
    verdict = sides if sides * lean > -_EVEN else 0
    if not sides and abs(lean) > limit:
        verdict = lean
    return CANNOT_TELL if not verdict else REPAIR if verdict > 0 else by_index


def _matrix(geometry: Geometry) -> np.ndarray:
    return np.reshape(geometry.direction, (3, 3))


def _lean(by_index: Sequence[np.ndarray], by_place: Sequence[np.ndarray], image: np.ndarray) -> float:
    """How much calmer and less in air the image is in organs by place (above 0) than by index (below 0), as a log."""
    if not np.isfinite(image).all():
        return 0.0
    image = as_float32(image)
    low, high = (float(value) for value in np.percentile(image, (5, 95)))
    scale = max(high - low, np.finfo(np.float32).tiny)
    air = low + _AIR * scale  # as uniform as no organ

    def unrest(voxels: np.ndarray) -> float:
        inside = image.ravel()[voxels]
        spread = np.subtract(*np.percentile(inside, (75, 25))) / scale
        return float(_STILL + spread + np.mean(inside <= air))

    pairs = [pair for pair in zip(by_index, by_place, strict=True) if all(voxels.size for voxels in pair)]
    return float(np.mean([math.log(unrest(index) / unrest(place)) for index, place in pairs])) if pairs else 0.0


def _sides(label: Volume, image: Geometry, organs: Sequence[str]) -> int:
    """Which reading puts all paired organs on their sides: 1 that of the label's header, -1 the image's, 0 not one."""
    drawn = dict(zip(organs, organ_voxels(label.array, len(organs)), strict=True))

    def signs(grid: Geometry) -> set[float]:
        places = {organ: survey_organ(voxels, grid, None).centroid[2] for organ, voxels in drawn.items() if voxels.size}
        pairs = [pair for pair in left_right_pairs(organs) if places.keys() >= set(pair)]
        return {float(np.sign(places[left] - places[right])) for left, right in pairs}

    by_header, by_index = signs(label.geometry), signs(image)
    if {*by_header, *by_index} != {-1.0, 1.0} or len(by_header) != 1 or len(by_index) != 1:
        return 0
    return int(by_header.pop())
