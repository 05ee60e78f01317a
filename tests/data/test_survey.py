"""Measures of a case: in millimetres, whatever way round it is stored, and by hand."""

import math

import numpy as np
import pytest

from ars_jax.data.geometry import Geometry
from ars_jax.data.sides import left_right_pairs, mirror_name
from ars_jax.data.survey import (
    as_float32,
    label_digest,
    organ_voxels,
    orientation,
    survey_image,
    survey_organ,
    without_place,
)
from ars_jax.data.volumes import Volume, canonical
from tests.data.synthetic import LABELS, ORIENTATIONS, ct, grid


def test_an_organ_has_the_volume_centroid_and_intensities_of_its_voxels():
    geometry = Geometry((4, 5, 6), (3.0, 2.0, 1.5), (-10.0, 20.0, 5.0))
    image = np.arange(120.0).reshape(4, 5, 6)
    inside = np.zeros((4, 5, 6), bool)
    inside[1:3, 2, 3:6] = True
    (voxels,) = organ_voxels(inside.astype(np.uint8), 1)
    organ = survey_organ(voxels, geometry, image)
    assert (organ.voxels, organ.volume_ml) == (6, pytest.approx(6 * 3 * 2 * 1.5 / 1000))
    assert organ.centroid == pytest.approx((-10 + 3 * 1.5, 20 + 2 * 2, 5 + 1.5 * 4))
    assert organ.intensities == pytest.approx(np.percentile(image[inside], (5, 25, 50, 75, 95)))
    assert survey_organ(voxels, geometry, None).intensities is None


@pytest.mark.parametrize("name", [name for name in ORIENTATIONS if name != "oblique"])
def test_a_case_measures_the_same_whatever_way_round_it_is_stored(name: str):
    image, label = ct(grid(direction=ORIENTATIONS[name]))
    turned = canonical(image), canonical(label)
    for value in LABELS.values():
        one, other = (
            survey_organ(np.flatnonzero(drawn.array == value), drawn.geometry, ct_image.array)
            for ct_image, drawn in ((image, label), turned)
        )
        assert one.centroid == pytest.approx(other.centroid)
        assert (one.volume_ml, one.intensities) == (pytest.approx(other.volume_ml), pytest.approx(other.intensities))
    first, second = survey_image(image), survey_image(turned[0])
    assert first is not None
    assert second is not None
    assert first.body_centre == pytest.approx(second.body_centre)
    assert (first.intensities, first.body) == (pytest.approx(second.intensities), pytest.approx(second.body))
    assert orientation(turned[0].geometry) == "LPS"


def test_orientation_names_where_the_indices_grow_to():
    assert orientation(grid()) == "LPS"
    assert orientation(grid(direction=np.diag([1.0, -1.0, -1.0]))) == "RAS"
    assert orientation(grid(direction=np.diag([-1.0, 1.0, 1.0]))) == "LPI"
    swapped = np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]])  # index z grows to Posterior, index y to Superior
    assert orientation(grid(direction=swapped)) == "LSP"
    angle = math.radians(20)
    about_z = np.array([[1, 0, 0], [0, math.cos(angle), -math.sin(angle)], [0, math.sin(angle), math.cos(angle)]])
    assert orientation(grid(direction=about_z)) == "LPS turned by 20 deg"


def test_a_header_without_place_is_told_from_one_with():
    nowhere = Geometry((4, 4, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    assert without_place(nowhere)
    assert without_place(Geometry((4, 4, 4), (1.0, 1.0, 1.0), (1.0, -1.0, -1.0), (1.0, 0, 0, 0, -1.0, 0, 0, 0, -1.0)))
    assert not without_place(Geometry((4, 4, 4), (1.0, 1.0, 1.0), (0.0, -71.5, 3.0)))
    assert not without_place(Geometry((4, 4, 4), (2.5, 1.0, 1.0), (0.0, 0.0, 0.0)))


def test_images_and_labels_have_equal_digests_only_where_they_are_equal():
    image, label = ct(grid())
    changed = image.array.copy()
    changed[0, 0, 0] += 1
    digests = [getattr(survey_image(Volume(array, image.geometry)), "digest", None) for array in (image.array, changed)]
    assert digests[0] == getattr(survey_image(image), "digest", None) != digests[1]
    first, second = (
        organ_voxels(label.array == LABELS["Ball_L"], 1)[0],
        organ_voxels(label.array == LABELS["Ball_R"], 1)[0],
    )
    assert label_digest({"a": first, "b": second}) == label_digest({"b": second, "a": first})
    assert label_digest({"a": first, "b": second}) != label_digest({"a": second, "b": first})
    assert label_digest({}) is None


def test_an_image_without_numbers_has_no_measures_and_others_leave_nan_out():
    assert survey_image(Volume(np.full((3, 3, 3), np.nan), grid((3, 3, 3)))) is None
    array = np.arange(27.0).reshape(3, 3, 3)
    array[0, 0, 0] = np.nan
    survey = survey_image(Volume(array, grid((3, 3, 3))))
    assert survey is not None
    assert survey.intensities == pytest.approx(np.percentile(np.arange(1.0, 27), (0.5, 5, 50, 95, 99.5)))
    assert survey.body is None


def test_numbers_beyond_float32_come_to_its_end():
    values = np.array([1e300, -1e300, np.nan, np.inf, 2.5])
    ends = np.finfo(np.float32)
    np.testing.assert_array_equal(as_float32(values), np.array([ends.max, ends.min, np.nan, np.inf, 2.5], np.float32))
    assert as_float32(np.array([7], np.int64)).dtype == np.float32
    image = Volume(np.where(np.arange(27).reshape(3, 3, 3) > 13, 1e300, 0.0), grid((3, 3, 3)))
    assert survey_image(image) is not None


def test_a_large_image_is_measured_on_a_part_of_its_voxels():
    rng = np.random.default_rng(0)
    array = rng.normal(0, 400, (160, 160, 160)).astype(np.float32)
    survey = survey_image(Volume(array, grid((160, 160, 160))))
    assert survey is not None
    assert survey.intensities == pytest.approx(np.percentile(array, (0.5, 5, 50, 95, 99.5)), abs=8)
    centre = np.array(grid().origin) + 79.5 * np.array(grid().spacing)
    assert survey.body_centre == pytest.approx(centre, abs=3.5)


@pytest.mark.parametrize(
    ("organ", "other"),
    [
        ("Parotid_L", "parotid_r"),
        ("left kidney", "right kidney"),
        ("LungRight", "lungleft"),
        ("Parotid Lt", "parotid rt"),
        ("OPTICNERVE-R", "opticnerve-l"),
        ("Liver", "liver"),
        ("Larynx", "larynx"),
    ],
)
def test_the_other_side_is_found_by_name(organ: str, other: str):
    assert mirror_name(organ) == other


def test_pairs_are_left_first_and_need_both():
    organs = ["Kidney_R", "Liver", "Kidney_L", "Parotid_L", "rightLung", "LeftLung"]
    assert left_right_pairs(organs) == [("Kidney_L", "Kidney_R"), ("LeftLung", "rightLung")]
