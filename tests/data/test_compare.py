"""Cases beside each other, from their measures alone: outliers, turned cases, swapped sides."""

from dataclasses import replace
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest

from ars_jax.data.cases import Case
from ars_jax.data.compare import MIN_CASES, compare_cases, organ_volumes, side_gap, volume_outliers
from ars_jax.data.faults import Fault
from ars_jax.data.survey import CaseSurvey, ImageSurvey, OrganSurvey
from tests.data.synthetic import grid

ORGANS = ("Stem", "Cord", "Chin", "Gland_L", "Gland_R")
PLACES = np.array([[40.0, 10, 0], [-30, 25, 2], [-10, -50, -1], [10, 5, 55], [11, 6, -54]])
TYPICAL = (0.0, 20.0, 40.0, 60.0, 80.0)


def survey(number: int, *, places: np.ndarray = PLACES, ml: float = 20.0, intensities=TYPICAL) -> CaseSurvey:
    rng = np.random.default_rng(number)
    image = ImageSurvey(grid(), (-1000.0, -900.0, 0.0, 100.0, 900.0), (1.0,) * 5, None, f"image {number}")
    organs = {
        organ: OrganSurvey(
            100,
            ml * float(rng.uniform(0.8, 1.25)),
            tuple((place + rng.normal(0, 2, 3)).tolist()),
            tuple(value + float(rng.normal(0, 5)) for value in intensities),
        )
        for organ, place in zip(ORGANS, places, strict=True)
    }
    return CaseSurvey(f"case_{number}", image, organs, f"label {number}")


def faults_with(odd: CaseSurvey, cases: int = 8) -> list[Fault]:
    surveys = [*(survey(number) for number in range(1, cases)), replace(odd, case="odd")]
    return compare_cases([(Case(one.case, Path("image"), Path("label")), one) for one in surveys], ORGANS)


def kinds(faults: list[Fault]) -> set[tuple[str, str]]:
    return {(fault.case, fault.kind) for fault in faults}


@pytest.mark.parametrize("cases", [1, 2, MIN_CASES - 1, MIN_CASES, 30])
def test_like_cases_have_no_fault_however_many_there_are(cases: int):
    assert faults_with(survey(0), cases) == []


@pytest.mark.parametrize("axis", range(3))
def test_a_mirrored_case_is_named_by_the_axis(axis: int):
    turned = PLACES.copy()
    turned[:, axis] *= -1
    faults = faults_with(survey(0, places=turned))
    if axis == 2:  # the names of the organs tell it already
        assert kinds(faults) == {("odd", "left and right")}
        assert "mm to the right of Gland_R" in faults[0].found
    else:
        assert kinds(faults) == {("odd", "arrangement")}
        assert faults[0].found == f"organs as if {('head and feet', 'front and back')[axis]} were mirrored"


@pytest.mark.parametrize("order", list(permutations(range(3)))[1:])
def test_exchanged_axes_are_seen(order: tuple[int, ...]):
    for signs in product((1, -1), repeat=3):
        faults = faults_with(survey(0, places=PLACES[:, order] * signs))
        assert ("odd", "arrangement") in kinds(faults)
        assert {fault.case for fault in faults} == {"odd"}


def test_swapped_names_are_seen_in_a_single_case():
    swapped = PLACES[[0, 1, 2, 4, 3]]
    for cases in (1, 3, 8):
        (fault,) = faults_with(survey(0, places=swapped), cases)
        assert (fault.case, fault.kind, fault.severity) == ("odd", "left and right", "error")
    gap = side_gap(survey(0), "Gland_L", "Gland_R")
    assert gap == pytest.approx(109, abs=10)
    assert side_gap(survey(0), "Gland_L", "Nose") is None


def test_organs_on_other_intensities_are_seen_and_one_odd_organ_is_not():
    shifted = tuple(value - 200 for value in TYPICAL)
    assert kinds(faults_with(survey(0, intensities=shifted))) == {("odd", "intensities")}
    one = survey(0)
    odd = replace(one.organs["Chin"], intensities=shifted)
    assert faults_with(replace(one, organs={**one.organs, "Chin": odd})) == []


def test_the_same_label_on_two_images_is_an_error_for_both_and_the_same_case_twice_a_warning():
    twin = replace(survey(0), label_digest="label 3")
    assert kinds(faults_with(twin)) == {("odd", "same label"), ("case_3", "same label")}
    original = survey(3)
    (fault,) = faults_with(original)
    assert (fault.case, fault.kind, fault.severity) == ("odd", "same image", "warning")


@pytest.mark.parametrize("shifted", [(), ("odd",), ("case_3",), ("odd", "case_3")])
def test_a_label_on_two_images_is_likely_the_one_whose_organs_look_like_the_others(shifted: tuple[str, ...]):
    away = tuple(value - 200 for value in TYPICAL)
    surveys = [replace(survey(number), case=f"case_{number}" if number else "odd") for number in range(12)]
    surveys = [
        replace(
            one,
            label_digest="one label" if one.case in ("odd", "case_3") else one.label_digest,
            organs={
                organ: replace(found, intensities=away) if one.case in shifted else found
                for organ, found in one.organs.items()
            },
        )
        for one in surveys
    ]
    cases = [(Case(one.case, Path("image"), Path("label")), one) for one in surveys]
    fixes = {fault.case: fault.fix for fault in compare_cases(cases, ORGANS) if fault.kind == "same label"}
    if len(shifted) == 1:
        (right,) = {"odd", "case_3"} - set(shifted)
        assert "this one is likely wrong" in fixes[shifted[0]]
        assert fixes[right].startswith(f"look at {shifted[0]}: ")
    else:
        assert set(fixes.values()) == {"find out whose it is and restore the other's"}


def test_volumes_of_cases_without_a_place_are_compared_only_where_most_have_none():
    """What counts is the grid that the organ was measured on, not the image's."""
    surveys = [survey(number) for number in range(8)]

    def placeless(one: CaseSurvey, ml: float) -> CaseSurvey:
        organs = {name: replace(organ, volume_ml=ml, placed=False) for name, organ in one.organs.items()}
        return replace(one, organs=organs)

    few = [placeless(one, 900.0) if number < 2 else one for number, one in enumerate(surveys)]
    assert organ_volumes(few, "Chin").keys() == {f"case_{number}" for number in range(2, 8)}
    most = [placeless(one, 20.0) if number < 4 else one for number, one in enumerate(surveys)]
    assert len(organ_volumes(most, "Chin")) == 8
    cases = [(Case(one.case, Path("image"), Path("label")), one) for one in few]
    assert compare_cases(cases, ORGANS) == []
    lost = replace(grid(), spacing=(1.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0))
    image = surveys[0].image
    assert image is not None
    shrunk = {name: replace(organ, volume_ml=2.0) for name, organ in surveys[0].organs.items()}
    beside = replace(surveys[0], image=replace(image, geometry=lost), organs=shrunk)
    assert kinds(faults_with(beside)) == {("odd", "identity affine"), ("odd", "volume")}


def test_an_outlier_is_beyond_three_and_a_half_robust_deviations():
    """Of many volumes, so that caution for few counts little: 3.2 deviations are usual, 4.2 are not."""
    logs = np.linspace(-1.349, 1.349, 201)  # half of them within 0.6745, as of a normal distribution of deviation 1
    usual = {f"case_{number}": float(np.exp(value)) for number, value in enumerate(logs)}
    for deviations, found in ((3.2, set()), (-3.2, set()), (4.2, {"odd"}), (-4.2, {"odd"})):
        assert volume_outliers(usual | {"odd": float(np.exp(deviations))}).keys() == found


def test_outliers_do_not_depend_on_the_unit():
    volumes = {f"case_{number}": float(value) for number, value in enumerate((9, 10, 10.5, 11, 11.5, 12, 3))}
    assert volume_outliers(volumes) == {"case_6": pytest.approx(3 / 10.5)}
    scaled = {name: 1000 * value for name, value in volumes.items()}
    assert volume_outliers(scaled).keys() == {"case_6"}
    assert volume_outliers(dict(list(volumes.items())[-4:])) == {}
    equal = dict.fromkeys(map(str, range(6)), 5.0)
    assert volume_outliers(equal) == {}
    assert volume_outliers(equal | {"odd": 11.0}) == {"odd": pytest.approx(2.2)}


def test_missing_organs_and_unread_images_stop_nothing():
    one = survey(0)
    assert faults_with(replace(one, organs={"Chin": one.organs["Chin"]})) == []
    assert faults_with(replace(one, image=None)) == []
    assert faults_with(CaseSurvey("odd")) == []
    assert compare_cases([], ORGANS) == []
