"""Data sets of a few hundred voxels without any likeness to a patient, for the tests of check and repair."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ars_jax.data.cases import Case, Dataset
from ars_jax.data.geometry import Geometry
from ars_jax.data.layouts import find_dataset
from ars_jax.data.volumes import Volume, write_volume

GRID = Geometry((6, 7, 8), (2.0, 1.0, 1.0), (10.0, 20.0, 30.0))
LABELS = {"Heart": 3, "Lung": 5}


def image_of(grid: Geometry = GRID, dtype: str = "int16", seed: int = 0) -> Volume:
    return Volume(np.random.default_rng(seed).integers(-100, 100, grid.shape).astype(dtype), grid)


def bright_of(label: Volume, seed: int = 0) -> Volume:
    """An image that shows where the label lies: bright in the organs, with noise."""
    noise = image_of(label.geometry, seed=seed).array
    return Volume((1000 * (label.array > 0) + noise).astype(np.int16), label.geometry)


def label_of(grid: Geometry = GRID, dtype: str = "uint8", mark: int = 0) -> Volume:
    """Two boxes; with a mark above 0 one voxel more, so that labels of several cases differ."""
    array = np.zeros(grid.shape, dtype)
    array[1:3, 1:3, 1:4] = LABELS["Heart"]
    array[4, 4:6, 4:7] = LABELS["Lung"]
    array[4, 3, 3 : 3 + mark] = LABELS["Lung"]
    return Volume(array, grid)


def map_case(root: Path, *, image: Volume | None = None, label: Volume | None = None, name: str = "a") -> Case:
    case = Case(name, root / "images" / f"{name}.nii.gz", root / "labels" / f"{name}.nii.gz")
    write_volume(case.image, image or image_of())
    write_volume(root / "labels" / f"{name}.nii.gz", label or label_of())
    return case


def mask_case(root: Path, image: Volume | None = None, **masks: Volume) -> Case:
    paths = {organ: root / "labels" / "a" / f"{organ}.nrrd" for organ in masks}
    for organ, path in paths.items():
        write_volume(path, masks[organ])
    write_volume(root / "images" / "a.nrrd", image or image_of())
    return Case("a", root / "images" / "a.nrrd", masks=paths)


def organ(value: int, grid: Geometry = GRID) -> Volume:
    return Volume((label_of(grid).array == value).astype(np.uint8), grid)


def flipped(volume: Volume, axis: int = 1) -> Volume:
    """The same points stored with an axis the other way round."""
    origin, direction = list(volume.geometry.origin), np.eye(3)
    origin[axis] += (volume.array.shape[axis] - 1) * volume.geometry.spacing[axis]
    direction[axis, axis] = -1
    z, y, x = origin
    grid = Geometry(volume.geometry.shape, volume.geometry.spacing, (z, y, x), tuple(direction.ravel().tolist()))
    return Volume(np.ascontiguousarray(np.flip(volume.array, axis)), grid)


def set_voxel(value: float, dtype: str) -> Callable[[Volume], Volume]:
    def change(volume: Volume) -> Volume:
        array = volume.array.astype(dtype)
        array[0, 0, 0] = value
        return Volume(array, volume.geometry)

    return change


def folder(root: Path) -> Dataset:
    """Four cases: sound, flipped label, unknown value, no label; and a label without an image."""
    map_case(root, name="sound", image=image_of(seed=1))
    turned = label_of(mark=1)
    map_case(root, name="turned", image=bright_of(turned, seed=2), label=flipped(turned))
    map_case(root, name="wrong", image=image_of(seed=3), label=set_voxel(9, "uint8")(label_of()))
    write_volume(root / "images" / "bare.nrrd", image_of(seed=4))
    write_volume(root / "labels" / "alone.nrrd", label_of())
    (root / "labels.json").write_text(json.dumps(LABELS))
    return find_dataset(root)
