"""Grids of voxels in physical space: compared in words, cropped and divided anew.

Every tuple is ordered z, y, x; lengths are millimetres in the patient's LPS system (x grows to the Left, y to
Posterior, z to Superior).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Geometry:
    """The grid of a volume in physical space.

    Args:
        shape: voxels along z, y, x.
        spacing: mm between voxel centres along z, y, x.
        origin: LPS point in mm of the centre of voxel (0, 0, 0), in z, y, x order.
        direction: 3x3 matrix, row-major, rows and columns both in z, y, x order; column k is the unit step of array
            axis k. The identity is the canonical orientation.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Mismatch:
    """One way in which two grids differ; `str` gives it in words.

    Args:
        kind: "size", "spacing", "origin" or "direction".
        found: the first grid's value with its unit.
        wanted: the second grid's value with its unit.
    """

    kind: str
    found: str
    wanted: str

    def __str__(self) -> str:
        return f"{self.kind} {self.found} against {self.wanted}"


def mismatches(a: Geometry, b: Geometry, tolerance: float = 1e-3) -> list[Mismatch]:
    """Compares two grids.

    Args:
        a: the grid that was found.
        b: the grid that was wanted.
        tolerance: largest difference of spacing (mm) and of direction cosines. Origins may differ by ten times
            this, in mm or in voxels, whichever is larger: headers round to float32.

    Returns:
        What differs, in the order size, spacing, origin, direction; empty if the grids are the same.
    """
    slack = 10 * tolerance * max(1.0, *b.spacing)
    tests = (
        ("size", a.shape, b.shape, 0.0, " voxels"),
        ("spacing", a.spacing, b.spacing, tolerance, " mm"),
        ("origin", a.origin, b.origin, slack, " mm"),
        ("direction", a.direction, b.direction, tolerance, ""),
    )
    return [
        Mismatch(kind, in_words(found, unit), in_words(wanted, unit))
        for kind, found, wanted, limit, unit in tests
        if np.abs(np.subtract(found, wanted)).max() > limit
    ]


def cropped(geometry: Geometry, box: Box) -> Geometry:
    """The grid of a box of voxels of another grid.

    Args:
        geometry: the whole grid.
        box: one slice per axis, with start and stop.

    Returns:
        The box's grid, same points in space.
    """
    z, y, x = (side.stop - side.start for side in box)
    return replace(geometry, shape=(z, y, x), origin=_point(geometry, [side.start for side in box]))


def divided(geometry: Geometry, shape: Sequence[int]) -> Geometry:
    """Divides the same box in space, from voxel edge to voxel edge, into another number of voxels.

    Args:
        geometry: the grid.
        shape: voxels z, y, x.

    Returns:
        The new grid; the same one if the shape is the same.
    """
    factors = np.divide(geometry.shape, shape)
    z, y, x = (int(side) for side in shape)
    dz, dy, dx = (float(step) for step in factors * geometry.spacing)
    return replace(geometry, shape=(z, y, x), spacing=(dz, dy, dx), origin=_point(geometry, (factors - 1) / 2))


def in_words(values: Sequence[float], unit: str) -> str:
    """Writes three values with their unit, for messages."""
    return f"({', '.join(f'{value:.6g}' for value in values)}){unit}"


def _point(geometry: Geometry, index: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    step = np.multiply(geometry.spacing, index)
    z, y, x = (float(value) for value in geometry.origin + np.reshape(geometry.direction, (3, 3)) @ step)
    return z, y, x
