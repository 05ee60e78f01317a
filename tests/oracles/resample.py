"""Resampling written as plain loops over voxels, straight from the definitions."""

import itertools
import math
from collections.abc import Sequence

import numpy as np


def linear(image: np.ndarray, lines: Sequence[np.ndarray], fill: float) -> np.ndarray:
    """Trilinear interpolation at every combination of coordinates: the eight corners by their weights."""
    out = np.empty([len(line) for line in lines])
    for at in np.ndindex(out.shape):
        point = [line[i] for line, i in zip(lines, at, strict=True)]
        total = 0.0
        for corner in itertools.product((0, 1), repeat=3):
            index = [math.floor(c) + step for c, step in zip(point, corner, strict=True)]
            weight = math.prod(1 - abs(c - i) for c, i in zip(point, index, strict=True))
            total += weight * value_at(image, index, fill)
        out[at] = total
    return out


def nearest(label: np.ndarray, lines: Sequence[np.ndarray]) -> np.ndarray:
    """The label of the voxel that a coordinate lies in; 0 outside."""
    out = np.empty([len(line) for line in lines], label.dtype)
    for at in np.ndindex(out.shape):
        out[at] = value_at(label, [math.floor(line[i] + 0.5) for line, i in zip(lines, at, strict=True)], 0)
    return out


def nearest_in_space(label: np.ndarray, source: np.ndarray, target: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The label at the physical centre of every voxel of a target grid; grids are 4x4 matrices index -> mm."""
    out = np.empty(shape, label.dtype)
    back = np.linalg.inv(source) @ target
    for at in np.ndindex(out.shape):
        out[at] = value_at(label, [math.floor(value + 0.5) for value in (back @ [*at, 1.0])[:3]], 0)
    return out


def value_at(array: np.ndarray, index: Sequence[int], fill: float) -> float:
    """The value of a voxel, or `fill` where there is none."""
    inside = all(0 <= i < side for i, side in zip(index, array.shape, strict=True))
    return array[tuple(index)] if inside else fill
