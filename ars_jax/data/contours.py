"""The voxels of a grid that lie inside of contours, which are polygons of points in the patient's space.

They are filled here, since what fills polygons elsewhere rounds their corners to voxels first and counts the whole rim
as inside.
"""

from collections.abc import Sequence

import numpy as np

from ars_jax.data.geometry import Geometry
from ars_jax.errors import UserError

_SAME_PLANE_MM = 0.1
_FLAT = 0.25  # of a slice: what a contour may leave its plane by
_SAME = 0.25  # of a voxel: what a contour that was drawn twice may differ by; no organ has a wall as thin
_THICKEST_MM = 5.0
_THICKEST_SLICES = 3
_DECIMALS = 3  # of a voxel: corners on voxel centres, as exports of label maps have, must not fall to either side


def fill_contours(contours: Sequence[np.ndarray], geometry: Geometry, name: object = "contours") -> np.ndarray:
    """Finds the voxels whose centres lie inside of an organ's contours.

    In a plane the even-odd rule counts: a contour inside of another cuts a hole, and so does a slit to an inner loop
    (PS3.3, C.8.8.6.3). A contour that is there twice, to a quarter of a voxel, counts once, and what lies in either of
    two that cross is inside. Of a centre on a line, the sides of lower index are inside and the others outside.

    Each plane stands for a slab as thick as the planes are apart (their median distance, at least one slice), so that
    contours of thicker slices, of every second slice, or between the slices, keep their volume. A slice takes the
    nearest plane whose slab holds its centre. Wider gaps stay empty, since an organ may have several parts.

    Args:
        contours: polygons [n, 3], points z, y, x in mm (LPS).
        geometry: the grid to fill.
        name: what they are, for messages.

    Returns:
        bool [z, y, x].

    Raises:
        UserError: a contour that is not parallel to the slices, a plane outside of the image, or planes that are mostly
            further apart than three slices and than 5 mm: the organ between them is then unknown.
    """
    matrix = np.reshape(geometry.direction, (3, 3))
    indices = [np.round((points - geometry.origin) @ matrix / geometry.spacing, _DECIMALS) for points in contours]
    planes = _planes(indices, geometry, name)
    heights = np.array(list(planes))
    step = _slab(heights, geometry.spacing[0], name)
    mask = np.zeros(geometry.shape, bool)
    corner, box = _box(indices, geometry.shape)
    for index, slice_mask in enumerate(mask[:, *box]):
        distance = index - heights
        inside = (distance >= -step / 2 - 1e-3) & (distance < step / 2 - 1e-3)
        if inside.any():
            nearest = heights[np.where(inside, np.abs(distance), np.inf).argmin()]
            slice_mask[:] = _filled([polygon - corner for polygon in planes[float(nearest)]], slice_mask.shape)
    return mask


def even_odd(polygons: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Finds the pixels whose centres are inside of an odd number of polygons.

    Args:
        polygons: [n, 2], corners y, x in pixels; the last is joined to the first.
        shape: pixels y, x.

    Returns:
        bool [y, x].
    """
    height, width = shape
    crossings = np.zeros((height, width + 1), np.uint8)  # only their parity counts, so they may wrap round
    for corners in polygons:
        (y0, x0), (y1, x1) = corners.T, np.roll(corners, -1, axis=0).T
        first, stop = np.ceil(np.minimum(y0, y1)).astype(int), np.ceil(np.maximum(y0, y1)).astype(int)
        edge = np.repeat(np.arange(len(corners)), stop - first)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(stop - first) - stop, stop - first)
        x = x0[edge] + (row - y0[edge]) * (x1 - x0)[edge] / (y1 - y0)[edge]
        column = np.clip(np.ceil(np.round(x, 2 * _DECIMALS)), 0, width).astype(int)
        inside = (row >= 0) & (row < height)
        np.add.at(crossings, (row[inside], column[inside]), 1)
    return np.bitwise_xor.accumulate(crossings[:, :width] % 2, axis=1).astype(bool)


def _filled(polygons: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """The pixels inside of a plane's polygons: even-odd, where those that cross count as one."""
    parts: list[np.ndarray] = []
    for polygon in _distinct(polygons):
        part, apart = even_odd([polygon], shape), []
        for other in parts:
            if _cross(part, other):
                part = part | other
            else:
                apart.append(other)
        parts = [*apart, part]
    return np.logical_xor.reduce(parts)


def _cross(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two sets of pixels overlap and neither holds the other."""
    common = np.count_nonzero(first & second)
    return bool(0 < common < min(np.count_nonzero(first), np.count_nonzero(second)))


def _distinct(polygons: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The polygons without those that repeat another one, from whatever corner and in whatever direction."""
    distinct: list[np.ndarray] = []
    for polygon in polygons:
        if not any(_is_same(polygon, other) for other in distinct):
            distinct.append(polygon)
    return distinct


def _is_same(first: np.ndarray, second: np.ndarray) -> bool:
    ends = [np.concatenate([polygon.min(axis=0), polygon.max(axis=0)]) for polygon in (first, second)]
    if np.abs(ends[0] - ends[1]).max() > _SAME:
        return False
    return bool(max(_distances(first, second).max(), _distances(second, first).max()) <= _SAME)


def _distances(points: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """How far points [n, 2] lie from a polygon's outline."""
    edges = np.roll(polygon, -1, axis=0) - polygon
    lengths = np.maximum((edges**2).sum(axis=1), np.finfo(float).tiny)
    steps = points[:, None] - polygon
    along = np.clip((steps * edges).sum(axis=2) / lengths, 0, 1)
    return np.linalg.norm(steps - along[..., None] * edges, axis=2).min(axis=1)


def _planes(indices: Sequence[np.ndarray], geometry: Geometry, name: object) -> dict[float, list[np.ndarray]]:
    """The polygons y, x of every plane by its height in slices."""
    thickness, slices = geometry.spacing[0], geometry.shape[0]
    planes: dict[float, list[np.ndarray]] = {}
    height = -np.inf
    for points in sorted(indices, key=lambda points: points[:, 0].mean()):
        if np.ptp(points[:, 0]) > _FLAT:
            found = f"a contour {np.ptp(points[:, 0]) * thickness:.3g} mm out of its plane"
            fix = "use the series that it was drawn on"
            raise UserError(name, found=found, wanted="contours parallel to the image's slices", fix=fix)
        if (points[:, 0].mean() - height) * thickness > _SAME_PLANE_MM:
            height = float(points[:, 0].mean())
        planes.setdefault(height, []).append(points[:, 1:])
    for height in planes:
        if not -1 < height < slices:
            place = f"{height * thickness:.4g} mm from the first slice"
            wanted = f"from 0 to {(slices - 1) * thickness:.4g} mm"
            raise UserError(name, found=f"a contour {place}", wanted=wanted, fix="use the series that it was drawn on")
    return planes


def _box(indices: Sequence[np.ndarray], shape: Sequence[int]) -> tuple[np.ndarray, tuple[slice, slice]]:
    """The pixels y, x that polygons may reach, and the first of them: filling whole slices takes most of the time."""
    points = np.concatenate(indices)[:, 1:]
    first = np.clip(np.floor(points.min(axis=0)), 0, shape[1:]).astype(int)
    stop = np.clip(np.ceil(points.max(axis=0)) + 1, first, shape[1:]).astype(int)
    return first, (slice(first[0], stop[0]), slice(first[1], stop[1]))


def _slab(heights: np.ndarray, thickness: float, name: object) -> float:
    """How many slices a plane stands for."""
    apart = float(np.median(np.diff(heights))) if len(heights) > 1 else 1.0
    if apart > max(_THICKEST_SLICES, _THICKEST_MM / thickness) + _FLAT:
        found = f"contours {apart * thickness:.3g} mm apart"
        wanted = f"contours in every slice of {thickness:.3g} mm, or in every second or third"
        raise UserError(name, found=found, wanted=wanted, fix="draw or interpolate the slices between")
    return max(1.0, apart)
