"""Two arms are compared on the cases and seeds that both have, case by case."""

import statistics

import numpy as np
import pytest

from ars_jax.metrics.significance import holm, wilcoxon
from ars_jax.report.pairs import (
    CASE_MEAN,
    Difference,
    Pair,
    compare,
    compare_all,
    differs,
    least_corrected,
    reference_of,
    seed_interval,
)
from tests.objectives import ARS, RS
from tests.report.made_up_scores import ABSENT, INVENTED, made_up


def of(pair: Pair, organ: str) -> Difference:
    return next(difference for difference in pair.differences if difference.organ == organ)


def random_scores(name: str, seed: int, seeds: int = 3, cases: int = 8):
    rng = np.random.default_rng(seed)
    organs = ("Liver", "Spleen")
    return made_up(name, {s: {o: rng.uniform(0.3, 0.9, cases).tolist() for o in organs} for s in range(seeds)})


def dsc(scores, seed: int, organ: str) -> np.ndarray:
    return np.array([row.dsc for row in scores.rows[seed] if row.organ == organ])


def test_cases_are_tested_by_their_mean_difference_over_seeds() -> None:
    one, other = random_scores("one", 1), random_scores("other", 2)
    pair = compare(one, other)
    for organ in ("Liver", "Spleen"):
        by_seed = np.array([dsc(one, s, organ) - dsc(other, s, organ) for s in range(3)])
        found = of(pair, organ)
        assert found.test == wilcoxon(by_seed.mean(axis=0))
        assert found.seeds.mean == pytest.approx(by_seed.mean())
        assert found.seeds.sd == pytest.approx(statistics.stdev(by_seed.mean(axis=1).tolist()))
        assert found.better == (by_seed.mean(axis=1) > 0).sum()
    corrected = [difference.corrected for difference in pair.differences]
    assert corrected == holm([difference.test.p or 0 for difference in pair.differences])
    assert [difference.organ for difference in pair.differences] == ["Liver", "Spleen", CASE_MEAN]


def test_exchanging_the_arms_turns_only_the_sign() -> None:
    one, other = random_scores("one", 1), random_scores("other", 2)
    for there, back in zip(compare(one, other).differences, compare(other, one).differences, strict=True):
        assert there.seeds.mean == pytest.approx(-(back.seeds.mean or 0))
        assert (there.test.p, there.corrected) == (back.test.p, back.corrected)


def test_only_common_seeds_and_common_cases_are_compared() -> None:
    one = made_up("one", {0: {"Liver": [0.5, 0.6]}, 1: {"Liver": [0.9, 0.9]}})
    other = made_up("other", {0: {"Liver": [0.4, 0.4, 0.1]}, 2: {"Liver": [0.0, 0.1, 0.2]}})
    pair = compare(one, other)
    assert pair.seeds == (0,)
    assert of(pair, "Liver").test.n == 2
    assert of(pair, "Liver").seeds.mean == pytest.approx(0.15)


def test_without_a_common_seed_nothing_is_compared() -> None:
    pair = compare(made_up("one", {0: {"Liver": [0.5]}}), made_up("other", {1: {"Liver": [0.4]}}))
    assert (pair.seeds, pair.differences, least_corrected(pair)) == ((), (), None)


def test_a_missed_organ_counts_as_nothing_and_an_absent_one_not_at_all() -> None:
    """The spleen is in the reference of the first two cases only; one arm misses it once, and invents it once."""
    one = made_up("one", {0: {"Liver": [0.8, 0.8, 0.8], "Spleen": [0.0, 0.6, INVENTED]}})
    other = made_up("other", {0: {"Liver": [0.7, 0.7, 0.7], "Spleen": [0.5, 0.5, ABSENT]}})
    pair = compare(one, other)
    assert of(pair, "Spleen").test.n == 2
    assert of(pair, "Spleen").seeds.mean == pytest.approx((-0.5 + 0.1) / 2)
    means = [(0.8 + 0.0) / 2 - 0.6, (0.8 + 0.6) / 2 - 0.6, 0.8 - 0.7]
    assert of(pair, CASE_MEAN).seeds.mean == pytest.approx(statistics.mean(means))


def test_an_organ_that_no_case_has_is_no_test_of_the_family() -> None:
    one = made_up("one", {0: {"Liver": [0.8, 0.7], "Spleen": [ABSENT, ABSENT]}})
    other = made_up("other", {0: {"Liver": [0.7, 0.5], "Spleen": [INVENTED, ABSENT]}})
    pair = compare(one, other)
    spleen = of(pair, "Spleen")
    assert (spleen.test.n, spleen.test.p, spleen.corrected, spleen.seeds.mean) == (0, None, None, None)
    assert of(pair, "Liver").corrected == pytest.approx(2 * 0.5)


def test_equal_arms_differ_nowhere() -> None:
    one = random_scores("one", 1)
    for difference in compare(one, one).differences:
        assert (difference.seeds.mean, difference.better, difference.test.p, difference.corrected) == (0, 0, 1, 1)
        assert differs(difference) is False


STUDENT_95 = {2: 12.706, 3: 4.303, 5: 2.776}
"""Number of seeds to the table value of t with one degree of freedom less, 2.5 % above it."""


@pytest.mark.parametrize("seeds", STUDENT_95)
def test_the_interval_over_seeds_is_that_of_the_printed_tables_of_t(seeds: int) -> None:
    liver = [0.6, 0.7, 0.55, 0.8, 0.65][:seeds]
    one = made_up("one", {seed: {"Liver": [dsc]} for seed, dsc in enumerate(liver)})
    other = made_up("other", {seed: {"Liver": [0.5]} for seed in range(seeds)})
    half = STUDENT_95[seeds] * statistics.stdev(liver) / seeds**0.5
    middle = statistics.mean(liver) - 0.5
    interval = seed_interval(of(compare(one, other), "Liver"))
    assert interval == pytest.approx((middle - half, middle + half), rel=1e-3)


@pytest.mark.parametrize("sign", [1, -1])
def test_arms_differ_where_seeds_agree_better_than_chance_makes_them(sign: int) -> None:
    """A mean above the spread is no more than chance with three seeds; a steadily worse arm differs as a better one."""
    other = made_up("other", {s: {"Liver": [0.5]} for s in range(3)})
    arms = {
        name: made_up(name, {s: {"Liver": [0.5 + sign * (0.1 + step * (s - 1))]} for s in range(3)})
        for name, step in (("steady", 0.01), ("shaky", 0.09))
    }
    assert differs(of(compare(arms["steady"], other), "Liver")) is True
    assert differs(of(compare(arms["shaky"], other), "Liver")) is False
    single = made_up("single", {0: {"Liver": [0.6]}})
    assert differs(of(compare(single, other), "Liver")) is None


def test_the_least_corrected_p_is_that_of_differences_of_one_sign() -> None:
    better = made_up("better", {0: {"Liver": [0.6, 0.7, 0.9, 0.8], "Spleen": [0.8, 0.6, 0.9, 0.7]}})
    worse = made_up("worse", {0: {"Liver": [0.5, 0.5, 0.5, 0.5], "Spleen": [0.5, 0.5, 0.5, 0.5]}})
    pair = compare(better, worse)
    assert least_corrected(pair) == min(difference.corrected or 0 for difference in pair.differences) == 3 / 8


def names(scores) -> list[tuple[str, str]]:
    return [(pair.arm, pair.reference) for pair in compare_all(scores)]


def arm(name: str, objective: str, **settings):
    return made_up(name, {0: {"Liver": [0.5]}}, objective, settings)


def test_every_arm_meets_the_baseline_and_the_adaptive_arm_the_regional_one() -> None:
    arms = [
        arm("D", "dice"),
        arm("B", "baseline"),
        arm("RS", RS),
        arm("ARS", ARS),
    ]
    assert names(arms) == [("D", "B"), ("RS", "B"), ("ARS", "B"), ("ARS", "RS")]


def test_without_a_baseline_the_first_arm_is_the_reference() -> None:
    assert reference_of([arm("D", "dice"), arm("B", "baseline")]).arm.name == "B"
    assert reference_of([arm("D", "dice"), arm("C", "cross_entropy")]).arm.name == "D"
    assert names([arm("RS", RS), arm("ARS", ARS)]) == [("ARS", "RS")]
    assert names([arm("D", "dice"), arm("C", "cross_entropy")]) == [("C", "D")]
    assert names([arm("B", "baseline")]) == []


def test_adaptive_arms_meet_the_regional_arms_of_their_settings() -> None:
    arms = [
        arm("B", "baseline"),
        arm("RS sum", RS, reduction="sum"),
        arm("RS mean", RS, reduction="mean"),
        arm("ARS sum stop", ARS, reduction="sum", gradient="stop"),
        arm("ARS mean through", ARS, reduction="mean", gradient="through"),
    ]
    assert names(arms)[-2:] == [("ARS sum stop", "RS sum"), ("ARS mean through", "RS mean")]
    assert len(names(arms)) == 6
