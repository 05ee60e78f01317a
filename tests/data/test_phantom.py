"""Laws of the phantom: deterministic, complete, plausible, and readable as a data set."""

import json

import numpy as np
import pytest
from scipy import ndimage

from ars_jax.data.phantom import PHANTOM_LABELS, PHANTOM_PAIRS, phantom_case, write_phantoms
from ars_jax.data.volumes import read_volume

SEEDS = range(12)
VOXELS = {
    "Brainstem": (150, 550),
    "SpinalCord": (80, 350),
    "Mandible": (400, 1000),
    "Parotid": (80, 350),
    "Submandibular": (40, 180),
    "OpticNerve": (25, 110),
    "Larynx": (90, 420),
}
HU = {
    "Brainstem": (5, 50),
    "SpinalCord": (10, 55),
    "Mandible": (600, 1200),
    "Parotid": (-10, 60),
    "Submandibular": (50, 100),
    "OpticNerve": (0, 90),
}


@pytest.fixture(scope="module")
def cases():
    return [phantom_case(seed) for seed in SEEDS]


def masks(label):
    return {organ: label.array == value for organ, value in PHANTOM_LABELS.items()}


def pieces(mask):
    """Number of connected components with 26 neighbours, by growing them one after another."""
    left, count = {tuple(p) for p in np.argwhere(mask).tolist()}, 0
    while left:
        front, count = [left.pop()], count + 1
        while front:
            z, y, x = front.pop()
            near = {(z + a, y + b, x + c) for a in (-1, 0, 1) for b in (-1, 0, 1) for c in (-1, 0, 1)} & left
            left -= near
            front += near
    return count


def test_same_seed_gives_the_same_bits(cases):
    image, label = phantom_case(SEEDS[3])
    np.testing.assert_array_equal(image.array, cases[3][0].array)
    np.testing.assert_array_equal(label.array, cases[3][1].array)
    assert image.geometry == cases[3][0].geometry


def test_different_seeds_give_different_anatomy():
    labels = [phantom_case(seed, shape=(48, 48, 48))[1].array for seed in (0, 1, (0, 1))]
    assert not np.array_equal(labels[0], labels[1])
    assert not np.array_equal(labels[1], labels[2])


def test_types_and_grid(cases):
    for image, label in cases:
        assert image.array.dtype == np.int16
        assert label.array.dtype == np.uint8
        assert image.geometry == label.geometry
        assert image.array.shape == image.geometry.shape
        assert max(image.geometry.shape) <= 48
        assert np.reshape(image.geometry.direction, (3, 3)).tolist() == np.eye(3).tolist()
    assert len({image.geometry.shape for image, _ in cases}) > 3


def test_every_organ_is_present_in_one_piece(cases):
    for _, label in cases:
        assert set(np.unique(label.array)) == {0, *PHANTOM_LABELS.values()}
        for organ, mask in masks(label).items():
            assert pieces(mask) == 1, organ


def test_sizes_are_in_range_and_very_different(cases):
    for _, label in cases:
        counts = {organ: int(mask.sum()) for organ, mask in masks(label).items()}
        for organ, count in counts.items():
            low, high = VOXELS[organ.split("_")[0]]
            assert low <= count <= high, organ
        assert max(counts.values()) > 5 * min(counts.values())


def test_left_organs_lie_at_larger_x(cases):
    for _, label in cases:
        where = {organ: np.argwhere(mask).mean(axis=0) for organ, mask in masks(label).items()}
        for left, right in PHANTOM_PAIRS:
            assert where[left][2] > where[right][2] + 3


def test_superior_is_larger_z_and_posterior_is_larger_y(cases):
    for _, label in cases:
        where = {organ: np.argwhere(mask).mean(axis=0) for organ, mask in masks(label).items()}
        assert where["OpticNerve_L"][0] > where["Mandible"][0] > where["Larynx"][0]
        assert where["Brainstem"][0] > where["SpinalCord"][0]
        assert where["Brainstem"][1] > where["OpticNerve_L"][1]
        assert where["SpinalCord"][1] > where["Larynx"][1] > where["Mandible"][1]


def test_tissues_have_their_hounsfield_units(cases):
    for image, label in cases:
        for organ, mask in masks(label).items():
            if organ != "Larynx":  # it holds the airway, as contours of it do
                low, high = HU[organ.split("_")[0]]
                assert low < image.array[mask].mean() < high, organ
        corner = image.array[:6, :6, :6]
        assert -1024 <= corner.min() and abs(corner.mean() + 1000) < 15
        body = image.array > -300
        assert np.sum(abs(image.array - 40) < 60) > 0.5 * body.sum()
        assert (image.array > 300).sum() > 3000
        airway = image.array[16:32, 12:36, 16:32] < -700
        assert airway.sum() > 30


def test_some_borders_have_low_contrast(cases):
    steps = {"SpinalCord": [], "Parotid_L": [], "Submandibular_L": []}
    for image, label in cases:
        for organ, found in steps.items():
            mask = label.array == PHANTOM_LABELS[organ]
            around = ndimage.binary_dilation(mask, iterations=2) & (label.array == 0)
            soft = around & (abs(image.array - 40) < 60)
            found.append(abs(np.mean(image.array[mask]) - np.median(image.array[soft])))
    for organ, found in steps.items():
        assert 3 < np.mean(found) < 35, organ


def test_finer_grid_holds_the_same_anatomy():
    coarse = phantom_case(5, shape=(48, 48, 48))[1]
    fine = phantom_case(5, shape=(64, 64, 64), spacing=(3.0, 3.0, 3.0))[1]
    for organ, value in PHANTOM_LABELS.items():
        volumes = [np.sum(v.array == value) * np.prod(v.geometry.spacing) for v in (coarse, fine)]
        assert volumes[1] == pytest.approx(volumes[0], rel=0.35), organ


@pytest.mark.parametrize(("shape", "spacing"), [((48, 48, 48), (5.0, 5.0, 5.0)), ((48, 30, 48), (4.0, 4.0, 4.0))])
def test_a_grid_that_cannot_hold_the_organs_is_refused(shape, spacing):
    with pytest.raises(ValueError, match="phantom needs"):
        phantom_case(0, shape=shape, spacing=spacing)


def test_written_set_reads_back_bit_for_bit(tmp_path):
    root = write_phantoms(tmp_path / "set", 2, seed=7)
    description = json.loads((root / "dataset.json").read_text(encoding="utf-8"))
    assert description["labels"] == {"0": "background"} | {str(v): k for k, v in PHANTOM_LABELS.items()}
    assert len(description["training"]) == description["numTraining"] == 2
    for index, entry in enumerate(description["training"]):
        image, label = phantom_case((7, index))
        for wanted, path in ((image, entry["image"]), (label, entry["label"])):
            found = read_volume(root / path)
            np.testing.assert_array_equal(found.array, wanted.array)
            assert found.array.dtype == wanted.array.dtype
            np.testing.assert_allclose(found.geometry.origin, wanted.geometry.origin)
            np.testing.assert_allclose(found.geometry.spacing, wanted.geometry.spacing)
    assert sorted(p.name for p in root.iterdir()) == ["dataset.json", "imagesTr", "labelsTr"]


def test_a_larger_set_begins_with_the_smaller_one(tmp_path):
    small, large = write_phantoms(tmp_path / "a", 1, seed=2), write_phantoms(tmp_path / "b", 2, seed=2)
    name = "labelsTr/phantom_000.nii.gz"
    np.testing.assert_array_equal(read_volume(small / name).array, read_volume(large / name).array)
