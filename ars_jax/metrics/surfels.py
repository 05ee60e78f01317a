"""Areas of the pieces of surface between voxel centres: the weights of the `deepmind` surface distances.

Eight neighbouring voxel centres are the corners of a cube, and which of them lie inside a mask decides how the mask's
surface passes through it. The polygons are traced here from that pattern alone: a vertex at the middle of every edge
between an inside and an outside corner, joined across the cube's faces; where a face leaves a choice, the corners
of the side with fewer corners are kept apart. A polygon that is not flat is cut into a fan of triangles, the one with
the largest area on a unit grid.
"""

import itertools
from functools import cache

import numpy as np

Point = tuple[float, ...]
_CORNERS: tuple[Point, ...] = tuple(itertools.product((0, 1), repeat=3))


def neighbour_codes(mask: np.ndarray) -> np.ndarray:
    """Which of the eight voxels round each voxel corner lie in the mask.

    Args:
        mask: boolean [z, y, x]; everything outside of the array is outside of the mask.

    Returns:
        uint8 [z + 1, y + 1, x + 1]; 0 and 255 lie outside and inside, all other codes on the surface. Bit k belongs to
        the neighbour (k // 4, k // 2 % 2, k % 2).
    """
    padded = np.pad(mask, 1).astype(np.uint8)
    codes = np.zeros([n + 1 for n in mask.shape], np.uint8)
    for bit, corner in enumerate(_CORNERS):
        window = tuple(slice(int(c), int(c) + n) for c, n in zip(corner, codes.shape, strict=True))
        codes |= padded[window] << np.uint8(bit)
    return codes


@cache
def surfel_areas(spacing: tuple[float, float, float]) -> np.ndarray:
    """The area of surface that each neighbour code stands for.

    Args:
        spacing: mm z, y, x.

    Returns:
        float64 [256], mm²; read-only.
    """
    areas = np.array([sum(_area(t, spacing) for t in _triangles(code)) for code in range(256)])
    areas.setflags(write=False)
    return areas


def _area(triangle: tuple[Point, ...], spacing: Point) -> float:
    a, b, c = np.asarray(triangle) * spacing
    return float(np.linalg.norm(np.cross(b - a, c - a)) / 2)


@cache
def _triangles(code: int) -> tuple[tuple[Point, ...], ...]:
    """The triangles in the unit cube of one code."""
    fewer = code if code.bit_count() <= 4 else 255 - code
    inside = {corner: bool(fewer >> bit & 1) for bit, corner in enumerate(_CORNERS)}
    unit = (1.0, 1.0, 1.0)
    chosen = []
    for polygon in _polygons(inside):
        fans = [_fan(polygon[k:] + polygon[:k]) for k in range(len(polygon))]
        chosen += max(fans, key=lambda fan: round(sum(_area(t, unit) for t in fan), 9))
    return tuple(chosen)


def _fan(polygon: list[Point]) -> list[tuple[Point, ...]]:
    return [(polygon[0], b, c) for b, c in itertools.pairwise(polygon[1:])]


def _polygons(inside: dict[Point, bool]) -> list[list[Point]]:
    """Closed rings of edge middles; every middle lies on two faces and so ends two segments."""
    segments = list(itertools.chain.from_iterable(_face_segments(ring, inside) for ring in _faces()))
    polygons = []
    while segments:
        first, last = segments.pop()
        ring = [first]
        while last != first:
            ring.append(last)
            follower = next(s for s in segments if last in s)
            segments.remove(follower)
            last = follower[1] if follower[0] == last else follower[0]
        polygons.append(ring)
    return polygons


def _faces() -> list[list[Point]]:
    """The cube's six faces, each as its four corners in turn."""
    faces = []
    for axis, side in itertools.product(range(3), (0, 1)):
        turn = ((0, 0), (0, 1), (1, 1), (1, 0))
        faces.append([tuple(int(v) for v in np.insert(corner, axis, side)) for corner in turn])
    return faces


def _face_segments(ring: list[Point], inside: dict[Point, bool]) -> list[tuple[Point, Point]]:
    """Where the surface crosses one face: no, one or two segments between edge middles."""
    middles = [tuple((np.add(a, b) / 2).tolist()) for a, b in zip(ring, ring[1:] + ring[:1], strict=True)]
    crossed = [k for k in range(4) if inside[ring[k]] != inside[ring[(k + 1) % 4]]]
    if len(crossed) == 4:
        return [(middles[k - 1], middles[k]) for k in range(4) if inside[ring[k]]]
    return [(middles[crossed[0]], middles[crossed[1]])] if crossed else []
