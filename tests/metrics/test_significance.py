"""The signed-rank test is the count of all changes of sign, and Holm's correction is worked by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ars_jax.metrics.significance import holm, wilcoxon
from tests.oracles.signs import signed_rank_test

PROBABILITIES = st.lists(st.floats(0, 1), max_size=8)


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
@settings(max_examples=40, deadline=None)
def test_p_counts_all_changes_of_sign_with_ties_and_zeros(differences: list[int]) -> None:
    found = wilcoxon([0.01 * difference for difference in differences])
    if any(differences):
        statistic, p = signed_rank_test(differences)
        assert found.exact
        assert (found.statistic, found.p) == (statistic, pytest.approx(p, abs=1e-12))
    assert (found.n, found.zeros) == (len(differences), differences.count(0))


def test_a_test_by_hand() -> None:
    """Ranks 1 to 6, only the 1 is negative: of 64 changes of sign those with a sum of 0 or 1 on a side are 4."""
    found = wilcoxon([-0.01, 0.02, 0.03, 0.04, 0.05, 0.06])
    assert (found.n, found.zeros, found.statistic, found.exact) == (6, 0, 1.0, True)
    assert found.p == pytest.approx(4 / 64)
    assert found.least == 2 / 64
    assert found.median == pytest.approx(0.035)


def test_more_pairs_than_permutations_can_count_take_the_normal_approximation() -> None:
    rng = np.random.default_rng(0)
    tied = np.round(rng.normal(0.3, 1, 60), 1)
    found = wilcoxon(tied)
    differing = tied[tied != 0]
    ranks = stats.rankdata(np.abs(differing))
    up, n = ranks[differing > 0].sum(), len(differing)
    shared = np.unique(ranks, return_counts=True)[1]
    variance = n * (n + 1) * (2 * n + 1) / 24 - (shared**3 - shared).sum() / 48
    expected = 2 * stats.norm.sf(abs(up - n * (n + 1) / 4) / np.sqrt(variance))
    assert not found.exact
    assert found.p == pytest.approx(expected)


def test_exchanging_the_two_sides_changes_only_the_sign() -> None:
    differences = np.random.default_rng(1).normal(0.1, 1, 20)
    one, other = wilcoxon(differences), wilcoxon(-differences)
    assert (one.p, one.statistic, one.n) == (other.p, other.statistic, other.n)
    assert one.median == -(other.median or 0)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_least_p_is_reached_when_all_differences_have_one_sign(n: int) -> None:
    found = wilcoxon(np.arange(1, n + 1))
    assert found.p == found.least == 2.0 ** (1 - n)


def test_nothing_to_test_is_said_and_never_nan() -> None:
    empty, equal = wilcoxon([]), wilcoxon([0.0, 0.0, 0.0])
    assert (empty.n, empty.p, empty.statistic, empty.median) == (0, None, None, None)
    assert (equal.n, equal.zeros, equal.p, equal.statistic, equal.median) == (3, 3, 1.0, None, 0.0)


def test_rounding_errors_of_means_are_no_differences_and_break_no_ties() -> None:
    found = wilcoxon([0.1 + 0.2 - 0.3, 0.3 - 0.2, 0.1, -0.1, 0.5])
    assert found.zeros == 1
    assert found.p == pytest.approx(signed_rank_test([1, 1, -1, 5])[1])


@pytest.mark.parametrize("wrong", [[np.nan, 1.0], [np.inf], [[1.0], [2.0]]])
def test_what_is_no_row_of_numbers_is_refused(wrong: list) -> None:
    with pytest.raises(ValueError, match="finite"):
        wilcoxon(wrong)


def test_holm_by_hand() -> None:
    """0.01 x 4 = 0.04; 0.02 x 3 = 0.06; 0.03 x 2 = 0.06; 0.04 x 1 rises to the 0.06 before it."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.01, 0.6, 0.5]) == pytest.approx([0.03, 1.0, 1.0])
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


@given(PROBABILITIES, st.floats(0.001, 0.5))
@settings(max_examples=60, deadline=None)
def test_holm_rejects_what_its_step_down_procedure_rejects(p_values: list[float], level: float) -> None:
    """The smallest p is compared with level / m, the next with level / (m - 1), until one fails."""
    rejected = set()
    for step, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[index] * (len(p_values) - step) > level:
            break
        rejected.add(index)
    assert {index for index, p in enumerate(holm(p_values)) if p <= level} == rejected


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan")])
def test_what_is_no_probability_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="0 to 1"):
        holm([0.5, wrong])
