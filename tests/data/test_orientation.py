"""The same case, stored in different orders of its voxels and in every layout, is the same case to the network."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ars_jax.data.geometry import Geometry
from ars_jax.data.layouts import find_dataset
from ars_jax.data.plan import Plan
from ars_jax.data.prepare import prepare_case
from ars_jax.data.volumes import Volume, canonical, write_volume
from tests.data.dicom_files import box_contours, write_series, write_structures
from tests.data.synthetic import ct, grid

STORED = {
    "canonical": ((0, 1, 2), ()),
    "nifti": ((0, 1, 2), (1, 2)),
    "feet first": ((0, 1, 2), (0, 2)),
    "sagittal": ((2, 0, 1), ()),
    "coronal, turned": ((1, 2, 0), (0, 1)),
}
"""How the axes are ordered on disk, and which of them then run backwards; right-handed, as DICOM and NIfTI demand."""

IMAGE, LABEL = ct(grid())


def stored(volume: Volume, order: tuple[int, ...], backwards: tuple[int, ...]) -> Volume:
    """The same voxels at the same points in another order."""
    old = volume.geometry
    matrix = np.reshape(old.direction, (3, 3))[:, order]
    spacing, array = np.array(old.spacing)[list(order)], volume.array.transpose(order)
    origin = np.array(old.origin)
    for axis in backwards:
        origin = origin + matrix[:, axis] * spacing[axis] * (array.shape[axis] - 1)
        matrix[:, axis] *= -1
        array = np.flip(array, axis)
    z, y, x = array.shape
    a, b, c = (float(value) for value in spacing)
    o, p, q = (float(value) for value in origin)
    return Volume(array, Geometry((z, y, x), (a, b, c), (o, p, q), tuple(float(value) for value in matrix.ravel())))


def mask(label: Volume, value: int) -> Volume:
    return Volume((label.array == value).astype(np.uint8), label.geometry)


def msd(root: Path, image: Volume, label: Volume) -> dict[str, int]:
    write_volume(root / "imagesTr" / "a.nii.gz", image)
    write_volume(root / "labelsTr" / "a.nii.gz", label)
    (root / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "Ball_L": 3, "Ball_R": 7}}))
    return {"Ball_L": 3, "Ball_R": 7}


def nnunet(root: Path, image: Volume, label: Volume) -> dict[str, int]:
    msd(root, image, label)
    (root / "imagesTr" / "a.nii.gz").rename(root / "imagesTr" / "a_0000.nii.gz")
    return {"Ball_L": 3, "Ball_R": 7}


def maps(root: Path, image: Volume, label: Volume) -> dict[str, int]:
    write_volume(root / "images" / "a.mha", image)
    write_volume(root / "labels" / "a.nrrd", label)
    return {"Ball_L": 3, "Ball_R": 7}


def masks(root: Path, image: Volume, label: Volume) -> dict[str, int]:
    write_volume(root / "images" / "a.nrrd", image)
    write_volume(root / "labels" / "a" / "Left.nii.gz", mask(label, 3))
    write_volume(root / "labels" / "a" / "Right.nii.gz", mask(label, 7))
    return {"Left": 1, "Right": 2}


def pddca(root: Path, image: Volume, label: Volume) -> dict[str, int]:
    write_volume(root / "0522c0001" / "img.nrrd", image)
    write_volume(root / "0522c0001" / "structures" / "Parotid_L.nrrd", mask(label, 3))
    write_volume(root / "0522c0001" / "structures" / "Parotid_R.nrrd", mask(label, 7))
    return {"Parotid_L": 1, "Parotid_R": 2}


def total(root: Path, image: Volume, label: Volume) -> dict[str, int]:
    write_volume(root / "s0001" / "ct.nii.gz", image)
    write_volume(root / "s0001" / "segmentations" / "kidney_left.nii.gz", mask(label, 3))
    write_volume(root / "s0001" / "segmentations" / "kidney_right.nii.gz", mask(label, 7))
    return {"kidney_left": 1, "kidney_right": 2}


def btcv(root: Path, image: Volume, label: Volume) -> dict[str, int]:
    write_volume(root / "img" / "img0001.nii.gz", image)
    write_volume(root / "label" / "label0001.nii.gz", label)
    return {"Kidney_L": 3, "Stomach": 7}


def lits(root: Path, image: Volume, label: Volume) -> dict[str, int]:
    write_volume(root / "Training Batch 1" / "volume-0.nii", image)
    values = np.array([0, 0, 0, 1, 0, 0, 0, 2], np.uint8)
    write_volume(root / "Training Batch 1" / "segmentation-0.nii", Volume(values[label.array], label.geometry))
    return {"Liver": 1, "Tumour": 2}


def dicom_map(root: Path, image: Volume, label: Volume) -> dict[str, int]:
    write_series(root / "a" / "ct", image)
    write_volume(root / "a" / "label.nii.gz", label)
    return {"Ball_L": 3, "Ball_R": 7}


def dicom_contours(root: Path, image: Volume, label: Volume) -> dict[str, int]:
    write_series(root / "a" / "ct", image)
    contours = {name: box_contours(label.array, label.geometry, value) for name, value in (("Left", 3), ("Right", 7))}
    write_structures(root / "a" / "rs.dcm", contours)
    return {"Left": 1, "Right": 2}


LAYOUTS = (msd, nnunet, maps, masks, pddca, total, btcv, lits, dicom_map, dicom_contours)


@pytest.mark.parametrize(("order", "backwards"), STORED.values(), ids=STORED)
@pytest.mark.parametrize("write", LAYOUTS, ids=[layout.__name__ for layout in LAYOUTS])
def test_the_prepared_case_does_not_depend_on_layout_or_orientation(
    tmp_path: Path,
    write: Callable[[Path, Volume, Volume], dict[str, int]],
    order: tuple[int, ...],
    backwards: tuple[int, ...],
):
    image, label = (stored(volume, order, backwards) for volume in (IMAGE, LABEL))
    np.testing.assert_array_equal(canonical(image).array, IMAGE.array)
    labels = write(tmp_path, image, label)
    (case,) = find_dataset(tmp_path, labels=labels).cases
    sample = prepare_case(case, labels, Plan(tuple(labels), intensity="window", window=(-200, 400)))
    np.testing.assert_allclose(sample.image, np.clip((IMAGE.array + 200.0) / 300 - 1, -1, 1), atol=1e-6)
    np.testing.assert_array_equal(sample.label, (LABEL.array == 3) + 2 * (LABEL.array == 7))
