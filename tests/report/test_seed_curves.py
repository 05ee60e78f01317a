import numpy as np
import pytest

from ars_jax.report.seed_curves import (
    MEAN,
    common_name,
    final_curve,
    final_dsc,
    mean_and_sd,
    mean_case_dsc,
    median_trial,
    validation_curve,
)
from tests.objectives import RS
from tests.report.fake_arms import made_arm, made_trial

ONE = {"a": {"liver": 0.5, "spleen": 0.7}}


def test_cases_of_all_folds_weigh_the_same() -> None:
    folds = [
        made_trial(7, {"a": {"liver": 0.9}, "b": {"liver": 0.6, "spleen": 0.5}}, 0),
        made_trial(7, {"c": {"liver": 0.3, "spleen": 0.1}}, 1),
    ]
    (found,) = final_dsc(made_arm("B", "baseline", folds)).values()
    assert found == pytest.approx({"liver": 0.6, "spleen": 0.3, MEAN: 0.45})


def test_validation_curve_has_a_column_per_seed_and_averages_its_folds() -> None:
    trials = [
        made_trial(0, ONE, 0, {1: {"liver": 0.2, "spleen": 0.4}, 2: {"liver": 0.6, "spleen": 0.8}}),
        made_trial(0, ONE, 1, {1: {"liver": 0.4, "spleen": 0.4}}),
        *(made_trial(1, ONE, fold, {2: {"liver": 0.5, "spleen": None}}) for fold in (0, 1)),
    ]
    curve = validation_curve(made_arm("B", "baseline", trials))
    assert list(curve.positions) == [1, 2]
    nan = np.nan
    assert np.allclose(curve.values["liver"], [[0.3, nan], [nan, 0.5]], equal_nan=True)
    assert np.allclose(curve.values[MEAN], [[0.35, nan], [nan, nan]], equal_nan=True)


def test_final_curve_rises_and_keeps_seeds_apart() -> None:
    arms = [
        made_arm("B+RS, DC 4", RS, [made_trial(0, ONE), made_trial(2, {"a": {"liver": 0.1}})]),
        made_arm("B+RS, DC 2", RS, [made_trial(2, ONE)]),
    ]
    curve = final_curve(arms, [4, 2])
    assert curve.name == "B+RS"
    assert list(curve.positions) == [2, 4]
    assert np.allclose(curve.values["liver"], [[np.nan, 0.5], [0.5, 0.1]], equal_nan=True)
    assert np.allclose(curve.values[MEAN], [[np.nan, 0.6], [0.6, 0.1]], equal_nan=True)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["B+ARS, DC 2, stop", "B+ARS, DC 4, stop"], "B+ARS, stop"),
        (["B+ARS, [0.1, 0.3]", "B+ARS, [0.1, 0.5]"], "B+ARS"),
        (["B+RS, DC 2"], "B+RS, DC 2"),
        (["left", "right"], "left"),
    ],
)
def test_arms_are_called_by_what_they_share(names: list[str], expected: str) -> None:
    assert common_name(names) == expected


def test_mean_and_spread_are_over_the_seeds_that_have_a_value() -> None:
    values = np.array([[0.1, 0.3, np.nan], [np.nan, 0.4, np.nan], [np.nan] * 3])
    mean, sd = mean_and_sd(values)
    assert np.allclose(mean, [0.2, 0.4, np.nan], equal_nan=True)
    assert np.allclose(sd, [np.sqrt(0.02), np.nan, np.nan], equal_nan=True)


def test_a_case_is_ranked_by_its_mean_over_seeds() -> None:
    seeds = [made_trial(0, ONE), made_trial(1, {"a": {"liver": 0.2, "spleen": 0.2}, "b": {"liver": 0.9}})]
    assert mean_case_dsc(made_arm("B", "baseline", seeds)) == pytest.approx({"a": 0.4, "b": 0.9})


def test_the_median_seed_of_those_with_the_case_is_shown() -> None:
    def trial(seed: int, dsc: float, case: str = "a", fold: int | None = None):
        return made_trial(seed, {case: {"liver": dsc}}, fold)

    odd = made_arm("B", "baseline", [trial(0, 0.9), trial(1, 0.1), trial(2, 0.5), trial(3, 0.6, "other")])
    even = made_arm("B", "baseline", [trial(0, 0.9), trial(1, 0.1), trial(2, 0.5), trial(3, 0.6)])
    folds = made_arm("B", "baseline", [trial(0, 0.9, "b", 0), trial(0, 0.2, "a", 1)])
    shown = [median_trial(arm, "a") for arm in (odd, even, folds)]
    assert [(it.seed, it.fold) for it in shown if it] == [(2, None), (2, None), (0, 1)]
    assert median_trial(odd, "nobody") is None
