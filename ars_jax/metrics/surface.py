"""Distances between the surfaces of two masks in millimetres, by five named conventions.

Published tools mean different numbers by "HD95" and "average surface distance": on one pair of masks with a far false
positive HD95 goes from 3 to 27 mm. So every number here carries the name of its convention. Writing P and R for the
point sets of prediction and reference, d(P->R) for the distances of P's points to the nearest point of R:

| convention | points | HD95 | ASD |
|---|---|---|---|
| paper-boundary | boundary voxels | mean of the 95th percentiles of d(P->R) and d(R->P) | mean of their two means |
| paper-volume | all voxels | the same | the same |
| monai | boundary voxels | larger of the two 95th percentiles | mean of d(P->R) only |
| medpy | boundary voxels | 95th percentile of both pooled | mean of both pooled |
| deepmind | voxel corners, weighted by area | larger of the two weighted 95th percentiles | mean of the two means |

The surface Dice is the share of both surfaces, counted in boundary voxels, that lies no further than a tolerance from
the other surface; `deepmind` weighs it by area, which is the definition of Nikolov et al. 2018. `paper-volume` counts
boundary voxels too: over whole volumes it would mostly count the inside.

Boundary voxels are those of the mask with a face neighbour outside of it; the outside of the volume is outside of the
mask. Percentiles interpolate linearly, but weighted ones do not. `monai` follows MONAI's defaults
(`SurfaceDistance` is one-sided), `medpy` version 0.5, `deepmind` the surface-distance package, whose average is a pair
of numbers and is given as their mean.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy import ndimage

from ars_jax.errors import UserError
from ars_jax.metrics.nearest import nearest_distances
from ars_jax.metrics.overlap import boolean_masks
from ars_jax.metrics.surfels import neighbour_codes, surfel_areas

Convention = Literal["paper-boundary", "paper-volume", "monai", "medpy", "deepmind"]
CONVENTIONS: tuple[Convention, ...] = get_args(Convention)
"""The names that `surface_metrics` knows; the first is the default."""


TOLERANCE_MM = 2.0
"""What `surface_dice` forgives by default, mm: about what two readers disagree by.

Of 42 head-and-neck organs, each drawn by an oncologist and a radiographer (Nikolov et al. 2018), the median HD95 is 2.0
mm; their median surface Dice is 0.89 at 1 mm, 0.95 at 2 mm and 0.995, hardly telling anything, at 3 mm. Below a voxel's
side only steps along the shorter sides are forgiven, so coarse grids want a larger one.
"""
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Surface:
    """How two surfaces lie to each other.

    Args:
        hd95_mm: 95 % Hausdorff distance, mm.
        asd_mm: average surface distance, mm.
        surface_dice: share of both surfaces that lies within the tolerance of the other, in [0, 1].
    """

    hd95_mm: float
    asd_mm: float
    surface_dice: float


@dataclass(frozen=True)
class _Directed:
    """Distances of each point set to the other, mm, and what each point weighs."""

    forward: np.ndarray  # prediction to reference
    backward: np.ndarray
    forward_weight: np.ndarray
    backward_weight: np.ndarray


def surface_metrics(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: tuple[float, float, float],
    convention: Convention = "paper-boundary",
    tolerance_mm: float = TOLERANCE_MM,
) -> Surface | None:
    """Measures how far apart two masks are.

    Args:
        prediction: mask [z, y, x]; non-zero is inside.
        reference: mask of the same shape.
        spacing: mm z, y, x.
        convention: which definition of all three; the module's table has them.
        tolerance_mm: how far apart two surfaces may lie and still agree; a distance of just that much agrees.

    Returns:
        HD95 and ASD in mm and the surface Dice, or None when a mask is empty: there is no distance then, and the caller
        counts the miss.

    Raises:
        UserError: unlike shapes, a spacing that is not three positive numbers, a tolerance below 0 or an unknown
            convention.

    Source:
        Chen et al., adaptive region-specific losses, Eqs. 12 and 13, which name all voxels of both masks
        (`paper-volume`) and do not say whether only their boundaries were meant (`paper-boundary`). The surface Dice
        is that of Nikolov et al. 2018, which the paper does not use.
    """
    check_convention(convention)
    check_tolerance(tolerance_mm)
    spacing = _checked_spacing(spacing)
    prediction, reference = boolean_masks(prediction, reference)
    boxes = [bounding_box(mask) for mask in (prediction, reference)]
    if boxes[0] is None or boxes[1] is None:
        return None
    points = _surfels if convention == "deepmind" else _boundary
    here, weight_here = points(prediction[boxes[0]], _start(boxes[0]), spacing)
    there, weight_there = points(reference[boxes[1]], _start(boxes[1]), spacing)
    forward, backward = nearest_distances(here, there, spacing), nearest_distances(there, here, spacing)
    surfaces = _Directed(forward, backward, weight_here, weight_there)
    measured = surfaces
    if convention == "paper-volume":
        union = tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(*boxes, strict=True))
        measured = _volume_distances(prediction[union], reference[union], spacing)
    return Surface(*_combine(measured, convention), _surface_dice(surfaces, tolerance_mm))


def check_convention(convention: str) -> None:
    """Refuses a convention that is not in `CONVENTIONS`.

    Args:
        convention: the name to look up.

    Raises:
        UserError: there is none of that name.
    """
    if convention not in CONVENTIONS:
        raise UserError("convention", found=convention, wanted=f"one of {', '.join(CONVENTIONS)}", fix="choose a name")


def check_tolerance(tolerance_mm: float) -> None:
    """Refuses a tolerance that is no distance.

    Args:
        tolerance_mm: mm.

    Raises:
        UserError: it is negative, infinite or not a number.
    """
    if not (np.isfinite(tolerance_mm) and tolerance_mm >= 0):
        raise UserError("tolerance_mm", found=tolerance_mm, wanted="millimetres, at least 0", fix="choose 2.0 or so")


def bounding_box(mask: np.ndarray) -> tuple[slice, ...] | None:
    """Finds the smallest box that holds a mask.

    Args:
        mask: boolean array.

    Returns:
        One slice per axis, or None when the mask is empty.
    """
    return next(iter(ndimage.find_objects(np.ascontiguousarray(mask).view(np.uint8), max_label=1)), None)


def _checked_spacing(spacing: tuple[float, float, float]) -> tuple[float, float, float]:
    if len(spacing) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing):
        raise UserError("spacing", found=spacing, wanted="three positive millimetres (z, y, x)", fix="mend the header")
    z, y, x = (float(s) for s in spacing)
    return z, y, x


def _start(box: tuple[slice, ...]) -> np.ndarray:
    return np.array([axis.start for axis in box])


def boundary(mask: np.ndarray) -> np.ndarray:
    """Marks the voxels of a mask that have a face neighbour outside of it; the volume's border is outside.

    Args:
        mask: boolean [z, y, x].

    Returns:
        Boolean array of the same shape.
    """
    return mask & np.logical_not(ndimage.binary_erosion(mask))


def _boundary(mask: np.ndarray, start: np.ndarray, spacing: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Places of the boundary voxels, all of one weight."""
    places = np.argwhere(boundary(mask)) + start
    return places, np.ones(len(places))


def _surfels(mask: np.ndarray, start: np.ndarray, spacing: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Places of the voxel corners on the surface, weighted by the area of surface at each."""
    codes = neighbour_codes(mask)
    found = np.argwhere((codes != 0) & (codes != 255))
    return found + start, surfel_areas(spacing)[codes[tuple(found.T)]]


def _volume_distances(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...]) -> _Directed:
    """All voxels: 0 inside of the other mask, elsewhere the distance to its boundary, where the nearest voxel lies."""

    def directed(mask: np.ndarray, other: np.ndarray) -> np.ndarray:
        outside = np.argwhere(mask & ~other)
        distances = np.zeros(np.count_nonzero(mask))
        if len(outside):
            distances[: len(outside)] = nearest_distances(outside, np.argwhere(boundary(other)), spacing)
        return distances

    forward, backward = directed(prediction, reference), directed(reference, prediction)
    return _Directed(forward, backward, np.ones_like(forward), np.ones_like(backward))


def _combine(d: _Directed, convention: Convention) -> tuple[float, float]:
    """Two sets of directed distances to HD95 and ASD."""
    if convention == "medpy":
        pooled = np.concatenate((d.forward, d.backward))
        return float(np.percentile(pooled, 95)), float(np.mean(pooled))
    if convention == "deepmind":
        tops = (_weighted_top(d.forward, d.forward_weight), _weighted_top(d.backward, d.backward_weight))
        means = (np.average(d.forward, weights=d.forward_weight), np.average(d.backward, weights=d.backward_weight))
        return max(tops), float(np.mean(means))
    tops = (float(np.percentile(d.forward, 95)), float(np.percentile(d.backward, 95)))
    means = (float(np.mean(d.forward)), float(np.mean(d.backward)))
    if convention == "monai":
        return max(tops), means[0]
    return sum(tops) / 2, sum(means) / 2


def _surface_dice(d: _Directed, tolerance_mm: float) -> float:
    # Distances are differences of rounded millimetres, so one of just the tolerance may come out a little larger.
    limit = tolerance_mm + _ROUNDING
    agreeing = d.forward_weight[d.forward <= limit].sum() + d.backward_weight[d.backward <= limit].sum()
    return float(agreeing / (d.forward_weight.sum() + d.backward_weight.sum()))


def _weighted_top(distances: np.ndarray, weight: np.ndarray) -> float:
    """The first distance at which 95 % of the surface lies no further away."""
    order = np.argsort(distances)
    share = np.cumsum(weight[order]) / np.sum(weight)
    return float(distances[order][min(int(np.searchsorted(share, 0.95)), len(order) - 1)])
