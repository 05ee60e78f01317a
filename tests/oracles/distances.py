"""Surface distances by brute force: every point against every other, plain loops, nothing shared with the package."""

import itertools
import math

import numpy as np


def boundary_points(mask, spacing):
    """Voxels with one of six neighbours outside of the mask or of the array, in mm."""
    points = []
    for z, y, x in itertools.product(*(range(n) for n in mask.shape)):
        steps = ((1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1))
        if mask[z, y, x] and not all(_inside(mask, z + a, y + b, x + c) for a, b, c in steps):
            points.append((z * spacing[0], y * spacing[1], x * spacing[2]))
    return points


def all_points(mask, spacing):
    return [tuple(i * s for i, s in zip(index, spacing, strict=True)) for index in np.argwhere(mask).tolist()]


def _inside(mask, *index):
    return all(0 <= i < n for i, n in zip(index, mask.shape, strict=True)) and bool(mask[index])


def nearest(points, targets):
    """The distance of every point to its nearest target."""
    return [min(math.dist(p, t) for t in targets) for p in points]


def percentile(values, percent):
    """Linear interpolation between closest ranks."""
    ordered = sorted(values)
    rank = (len(ordered) - 1) * percent / 100
    low = math.floor(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (rank - low) * (ordered[high] - ordered[low])


def mean(values):
    return sum(values) / len(values)


def paper(prediction, reference, spacing, points):
    """Eqs. 13 and 12: the mean of the two directed values, over the given kind of points."""
    a, b = points(prediction, spacing), points(reference, spacing)
    there, back = nearest(a, b), nearest(b, a)
    return (percentile(there, 95) + percentile(back, 95)) / 2, (mean(there) + mean(back)) / 2


def monai(prediction, reference, spacing):
    a, b = boundary_points(prediction, spacing), boundary_points(reference, spacing)
    there, back = nearest(a, b), nearest(b, a)
    return max(percentile(there, 95), percentile(back, 95)), mean(there)


def medpy(prediction, reference, spacing):
    a, b = boundary_points(prediction, spacing), boundary_points(reference, spacing)
    pooled = nearest(a, b) + nearest(b, a)
    return percentile(pooled, 95), mean(pooled)


def deepmind(prediction, reference, spacing):
    """Cubic voxels only: the areas below are closed forms on the unit cube."""
    a, b = surfels(prediction, spacing), surfels(reference, spacing)
    there = list(zip(nearest([p for p, _ in a], [p for p, _ in b]), [w for _, w in a], strict=True))
    back = list(zip(nearest([p for p, _ in b], [p for p, _ in a]), [w for _, w in b], strict=True))
    return max(_weighted_percentile(there), _weighted_percentile(back)), mean([_weighted(there), _weighted(back)])


def _weighted(pairs):
    return sum(d * w for d, w in pairs) / sum(w for _, w in pairs)


def _weighted_percentile(pairs):
    total, reached = sum(w for _, w in pairs), 0.0
    for distance, weight in sorted(pairs):
        reached += weight
        if reached / total >= 0.95 - 1e-12:
            return distance
    raise AssertionError("the weights add up to their total")


def surfels(mask, spacing):
    """Voxel corners on the surface and the area of surface at each."""
    found = []
    for z, y, x in itertools.product(*(range(n + 1) for n in mask.shape)):
        corners = [
            c for c in itertools.product((0, 1), repeat=3) if _inside(mask, z + c[0] - 1, y + c[1] - 1, x + c[2] - 1)
        ]
        if 0 < len(corners) < 8:
            point = (z * spacing[0], y * spacing[1], x * spacing[2])
            found.append((point, unit_area(corners) * spacing[0] ** 2))
    return found


def unit_area(corners):
    """The area of the surface that cuts these corners off the unit cube, from the fourteen patterns worked by hand."""
    if len(corners) > 4:
        corners = [c for c in itertools.product((0, 1), repeat=3) if c not in corners]
    degree = sorted(sum(math.dist(a, b) == 1 for b in corners) for a in corners)
    triangle, strip, bend = math.sqrt(3) / 8, math.sqrt(2) / 2, 0.5 + 3 * math.sqrt(3) / 8
    return {
        (0,): triangle,
        (0, 0): 2 * triangle,
        (1, 1): strip,
        (0, 0, 0): 3 * triangle,
        (0, 1, 1): triangle + strip,
        (1, 1, 2): bend,
        (0, 0, 0, 0): 4 * triangle,
        (0, 1, 1, 2): triangle + bend,
        (1, 1, 1, 1): 2 * strip,
        (1, 1, 1, 3): 6 * triangle,
        (1, 1, 2, 2): strip + 4 * triangle,
        (2, 2, 2, 2): 1.0,
    }[tuple(degree)]


def surface_dice(prediction, reference, spacing, tolerance):
    """Nikolov et al. 2018 with boundary voxels as the elements of both surfaces."""
    a, b = boundary_points(prediction, spacing), boundary_points(reference, spacing)
    agreeing = sum(d <= tolerance + 1e-9 for d in nearest(a, b) + nearest(b, a))
    return agreeing / (len(a) + len(b))


def surface_dice_of_surfels(prediction, reference, spacing, tolerance):
    """The same with surface areas; cubic voxels only."""
    a, b = surfels(prediction, spacing), surfels(reference, spacing)
    places = [[p for p, _ in side] for side in (a, b)]
    distances = nearest(*places) + nearest(*reversed(places))
    areas = [w for _, w in a + b]
    return sum(w for w, d in zip(areas, distances, strict=True) if d <= tolerance + 1e-9) / sum(areas)
