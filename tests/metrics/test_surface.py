"""Surface distances: brute force by every convention, cases known by hand, and the laws of symmetry and units."""

import itertools
import math
from functools import partial

import numpy as np
import pytest

from ars_jax.data.volumes import read_volume
from ars_jax.errors import UserError
from ars_jax.metrics.surface import CONVENTIONS, Convention, surface_metrics
from ars_jax.metrics.surfels import neighbour_codes, surfel_areas
from tests.oracles import distances
from tests.realdata import real_data

ORACLES = {
    "paper-boundary": partial(distances.paper, points=distances.boundary_points),
    "paper-volume": partial(distances.paper, points=distances.all_points),
    "monai": distances.monai,
    "medpy": distances.medpy,
    "deepmind": distances.deepmind,
}


def box(low, high, shape=(8, 9, 10)):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


def measure(prediction, reference, spacing, convention):
    found = surface_metrics(prediction, reference, spacing, convention)
    assert found is not None
    return found.hd95_mm, found.asd_mm


def pairs():
    """Scattered masks, blobs with holes that touch the border, and a far false positive."""
    rng = np.random.default_rng(11)
    for share in (0.05, 0.3, 0.8):
        yield rng.random((5, 4, 6)) < share, rng.random((5, 4, 6)) < 0.3
    blob = box((0, 1, 1), (5, 6, 6))
    blob[2, 3, 3] = False
    far = box((1, 2, 2), (5, 6, 7))
    far[7, 8, 9] = True
    yield blob, far
    yield far, blob


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_every_convention_agrees_with_brute_force(convention):
    spacing = (1.5, 1.5, 1.5) if convention == "deepmind" else (3.0, 0.7, 1.1)
    for prediction, reference in pairs():
        wanted = ORACLES[convention](prediction, reference, spacing)
        assert measure(prediction, reference, spacing, convention) == pytest.approx(wanted, abs=1e-9)


def surface_dice(prediction, reference, spacing, convention: Convention, tolerance_mm=2.0):
    found = surface_metrics(prediction, reference, spacing, convention, tolerance_mm)
    assert found is not None
    return found.surface_dice


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("tolerance", [0.0, 1.5, 2.2, 4.0])
def test_surface_dice_agrees_with_brute_force(convention, tolerance):
    spacing = (1.5, 1.5, 1.5) if convention == "deepmind" else (3.0, 0.7, 1.1)
    oracle = distances.surface_dice_of_surfels if convention == "deepmind" else distances.surface_dice
    for prediction, reference in pairs():
        wanted = oracle(prediction, reference, spacing, tolerance)
        found = surface_dice(prediction, reference, spacing, convention, tolerance_mm=tolerance)
        assert found == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_surface_dice_grows_with_the_tolerance_up_to_one(convention):
    prediction, reference = list(pairs())[3]
    found = [surface_dice(prediction, reference, (2.0, 1.0, 1.3), convention, tolerance_mm=t) for t in (0, 1, 2, 4, 99)]
    assert found == sorted(found)
    assert 0 < found[0] < found[2] < found[-1] == 1


@pytest.mark.parametrize("side", [0.1, 0.3, 0.7, 0.9765625, 1.0])
def test_a_distance_of_just_the_tolerance_agrees(side):
    """As floating-point numbers three sides of 0.1 mm are more than 0.3 mm."""
    for place in range(4):
        a, b = box((place, 0, 0), (place + 1, 9, 10)), box((place + 3, 0, 0), (place + 4, 9, 10))
        assert surface_dice(a, b, (side, 1.0, 1.0), "paper-boundary", tolerance_mm=round(3 * side, 7)) == 1
        assert surface_dice(a, b, (side, 1.0, 1.0), "paper-boundary", tolerance_mm=2.9 * side) == 0


def test_by_volume_the_surface_dice_is_that_of_the_boundary():
    for prediction, reference in pairs():
        by_volume = surface_dice(prediction, reference, (2.0, 1.0, 1.3), "paper-volume")
        assert by_volume == surface_dice(prediction, reference, (2.0, 1.0, 1.3), "paper-boundary")


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_equal_masks_have_distance_zero(convention):
    mask = box((1, 2, 3), (4, 6, 5))
    assert measure(mask, mask, (2.0, 1.0, 1.0), convention) == (0.0, 0.0)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize(("axis", "expected"), [(0, 7.5), (1, 3.6), (2, 2.4)])
def test_two_parallel_planes_are_their_gap_apart(convention, axis, expected):
    planes = []
    for place in (2, 5):
        mask = np.zeros((8, 8, 8), bool)
        mask[(slice(None),) * axis + (place,)] = True
        planes.append(mask)
    hd95, asd = measure(planes[0], planes[1], (2.5, 1.2, 0.8), convention)
    if convention == "deepmind":  # it sees both faces of a plane, one of them nearer by its thickness
        assert hd95 == pytest.approx(expected)
        assert expected * 2 / 3 < asd < expected
    else:
        assert (hd95, asd) == pytest.approx((expected, expected))


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_single_voxels_are_their_distance_apart(convention):
    a, b = box((1, 1, 1), (2, 2, 2)), box((3, 1, 5), (4, 2, 6))
    wanted = {"deepmind": ORACLES["deepmind"](a, b, (2.0, 2.0, 2.0))}.get(convention, (math.hypot(4, 8),) * 2)
    assert measure(a, b, (2.0, 2.0, 2.0), convention) == pytest.approx(wanted)


def test_cube_shifted_by_one_voxel_by_hand():
    a, b = box((2, 2, 2), (5, 5, 5)), box((2, 2, 3), (5, 5, 6))
    # Of the 26 boundary voxels of either cube 9 stick out by 2 mm, one lies in the other's hollow middle, 1 mm from its
    # boundary, and 16 lie on that boundary.
    assert measure(a, b, (1.0, 1.0, 2.0), "paper-volume") == pytest.approx((2.0, 9 * 2 / 27))
    hd95, asd = measure(a, b, (1.0, 1.0, 2.0), "paper-boundary")
    assert (hd95, asd) == pytest.approx((2.0, (9 * 2.0 + 1 * 1.0) / 26))


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_an_empty_mask_has_no_distance(convention):
    mask, empty = box((1, 1, 1), (3, 3, 3)), np.zeros((8, 9, 10), bool)
    for pair in ((mask, empty), (empty, mask), (empty, empty)):
        assert surface_metrics(*pair, (1.0, 1.0, 1.0), convention) is None


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_distances_scale_with_the_voxel(convention):
    prediction, reference = next(pairs())
    small = measure(prediction, reference, (1.0, 0.5, 2.0), convention)
    assert measure(prediction, reference, (3.0, 1.5, 6.0), convention) == pytest.approx([3 * v for v in small])


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_empty_space_around_the_masks_changes_nothing(convention):
    prediction, reference = list(pairs())[3]
    padded = [np.pad(mask, ((2, 3), (5, 0), (1, 4))) for mask in (prediction, reference)]
    spacing = (2.0, 1.0, 1.3)
    wanted = measure(prediction, reference, spacing, convention)
    assert measure(padded[0], padded[1], spacing, convention) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("convention", ["paper-boundary", "paper-volume", "medpy", "deepmind"])
def test_swapping_the_masks_changes_nothing(convention):
    for prediction, reference in pairs():
        there = measure(prediction, reference, (2.0, 1.0, 1.3), convention)
        assert measure(reference, prediction, (2.0, 1.0, 1.3), convention) == pytest.approx(there)


def test_monai_average_goes_from_prediction_to_reference_only():
    reference = box((2, 2, 2), (5, 5, 5))
    prediction = reference.copy()
    prediction[7, 8, 9] = True
    assert measure(prediction, reference, (1.0, 1.0, 1.0), "monai")[1] > 0.1
    assert measure(reference, prediction, (1.0, 1.0, 1.0), "monai")[1] == 0.0


def test_transposed_masks_with_transposed_spacing_are_as_far_apart():
    prediction, reference = list(pairs())[1]
    for convention, order in itertools.product(CONVENTIONS, itertools.permutations(range(3))):
        spacing = (2.0, 1.0, 1.3)
        turned = [mask.transpose(order) for mask in (prediction, reference)]
        z, y, x = (spacing[k] for k in order)
        wanted = measure(prediction, reference, spacing, convention)
        assert measure(turned[0], turned[1], (z, y, x), convention) == pytest.approx(wanted)


def test_surfel_areas_of_every_pattern_are_those_worked_by_hand():
    areas = surfel_areas((1.0, 1.0, 1.0))
    assert areas[0] == areas[255] == 0
    for code in range(1, 255):
        corners = [c for k, c in enumerate(itertools.product((0, 1), repeat=3)) if code >> k & 1]
        assert areas[code] == pytest.approx(distances.unit_area(corners)), f"{code:08b}"


def test_surfel_areas_of_flat_pieces_follow_the_spacing():
    z, y, x = 3.0, 0.7, 1.1
    areas = surfel_areas((z, y, x))
    assert areas[0b00001111] == pytest.approx(y * x)
    assert areas[0b00110011] == pytest.approx(z * x)
    assert areas[0b01010101] == pytest.approx(z * y)
    assert areas[0b00000011] == pytest.approx(x * math.hypot(z, y) / 2)
    corner = math.sqrt((y * x) ** 2 + (z * x) ** 2 + (z * y) ** 2) / 8
    assert areas[0b00000001] == pytest.approx(corner)


def test_surface_of_a_box_is_closed():
    codes = neighbour_codes(np.ones((2, 3, 4), bool))
    on_surface = (codes != 0) & (codes != 255)
    assert codes.shape == (3, 4, 5)
    assert np.count_nonzero(on_surface) == 3 * 4 * 5 - 1 * 2 * 3
    assert set(codes[0, 1:-1, 1:-1].ravel().tolist()) == {0b11110000}


@pytest.mark.parametrize(
    ("keywords", "named"),
    [
        ({"convention": "hausdorff"}, "paper-boundary"),
        ({"spacing": (1.0, 0.0, 1.0)}, "positive"),
        ({"spacing": (1.0, math.nan, 1.0)}, "positive"),
        ({"spacing": (1.0, 1.0)}, "three"),
        ({"tolerance_mm": -0.5}, "tolerance"),
        ({"tolerance_mm": math.nan}, "tolerance"),
        ({"reference": np.ones((2, 2, 2), bool)}, "shape"),
    ],
)
def test_bad_arguments_are_named(keywords, named):
    mask = box((1, 1, 1), (3, 3, 3))
    arguments = {"prediction": mask, "reference": mask, "spacing": (1.0, 1.0, 1.0)} | keywords
    with pytest.raises(UserError, match=named):
        surface_metrics(**arguments)


def test_two_readers_differ_by_millimetres_not_by_nothing():
    folder = real_data("headneck_two_readers", "0522c0057")
    masks = [read_volume(folder / reader / "Parotid-Lt.nrrd") for reader in ("oncologist", "radiographer")]
    spacing = masks[0].geometry.spacing
    found = {c: measure(masks[0].array > 0, masks[1].array > 0, spacing, c) for c in CONVENTIONS}
    assert 1.0 < found["paper-boundary"][1] < 3.0
    assert found["paper-volume"][1] < found["paper-boundary"][1] < found["paper-boundary"][0] < found["monai"][0]
    # By the surface-distance package these two masks are 9.99 mm and (mean of its two averages) 1.761 mm apart.
    assert found["deepmind"] == pytest.approx((9.99, 1.761), abs=0.005)
