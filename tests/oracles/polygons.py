"""Which pixels lie inside of polygons, point by point: a ray goes up from each centre and counts the edges it meets."""

from collections.abc import Sequence

import numpy as np


def inside(polygons: Sequence[np.ndarray], y: float, x: float) -> bool:
    meets = 0
    for corners in polygons:
        for (y0, x0), (y1, x1) in zip(corners, [*corners[1:], corners[0]], strict=True):
            if (x0 > x) != (x1 > x) and y0 + (x - x0) / (x1 - x0) * (y1 - y0) > y:
                meets += 1
    return meets % 2 == 1


def filled(polygons: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    return np.array([[inside(polygons, y, x) for x in range(shape[1])] for y in range(shape[0])])
