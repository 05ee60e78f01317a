"""Paired tests of two ways of training on the same cases, and the correction for testing several organs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

DECIMALS = 9
"""Differences are compared to this many decimals: rounding errors of means must neither break ties nor hide zeros."""


@dataclass(frozen=True)
class Wilcoxon:
    """The outcome of a two-sided Wilcoxon signed-rank test.

    Args:
        n: number of pairs.
        zeros: pairs without any difference, which the test leaves out.
        median: median difference over all pairs, also those without difference; None without a pair.
        statistic: the smaller of the two sums of ranks, usually called W or T; None where nothing differs.
        p: chance of a statistic at most this large if each difference were as likely to have the other sign; 1 where
            nothing differs, None without a pair.
        least: the smallest p that this many differing pairs can give, 2^(1 - n); None without a pair.
        exact: whether p counts all changes of sign, rather than being the normal approximation.
    """

    n: int
    zeros: int
    median: float | None
    statistic: float | None
    p: float | None
    least: float | None
    exact: bool


def wilcoxon(differences: ArrayLike) -> Wilcoxon:
    """Tests whether paired differences lie around zero (Wilcoxon 1945).

    Pairs without difference are left out, as Wilcoxon did; equal differences share their mean rank. p is exact up to 50
    differing pairs without equal ones and up to 13 with them; beyond, it is the normal approximation, corrected for
    ties.

    Args:
        differences: one finite number per pair, such as one case's DSC by two networks; may be empty.

    Returns:
        The test; where there is nothing to test, its numbers say so.

    Raises:
        ValueError: a difference is not finite, or there is more than one axis.
    """
    values = np.round(np.asarray(differences, np.float64), DECIMALS)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(f"differences must be one row of finite numbers, not of shape {values.shape}: {values}")
    differing = values[values != 0]
    n, zeros = len(values), len(values) - len(differing)
    median = float(np.median(values)) if n else None
    least = min(1.0, 2.0 ** (1 - len(differing))) if n else None
    if not len(differing):
        return Wilcoxon(n, zeros, median, None, 1.0 if n else None, least, True)
    tied = len(np.unique(np.abs(differing))) < len(differing)
    method = _method(len(differing), tied)
    result: Any = stats.wilcoxon(differing, method=method)
    return Wilcoxon(n, zeros, median, float(result.statistic), float(result.pvalue), least, method != "asymptotic")


def _method(differing: int, tied: bool) -> Any:
    """SciPy's exact distribution knows no ties; its permutations are complete up to 13 pairs (2^13 changes of sign)."""
    if not tied and differing <= 50:
        return "exact"
    return stats.PermutationMethod(n_resamples=2**13) if differing <= 13 else "asymptotic"


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrects p-values for their number by Holm's step-down method (1979).

    The k-th smallest of m is multiplied by m - k + 1, but is never below a smaller one's and never above 1. Whoever
    trusts what is below a level is wrong in any of the tests with at most that chance, however they depend on each
    other.

    Args:
        p_values: of one family of tests, each in 0 to 1.

    Returns:
        The corrected values in the same order.

    Raises:
        ValueError: a value is outside 0 to 1.
    """
    p = np.asarray(p_values, np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p-values must lie in 0 to 1: {p_values}")
    order = np.argsort(p, kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return corrected.tolist()
