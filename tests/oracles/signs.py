"""The Wilcoxon signed-rank test from its definition: every change of sign is tried, plain loops."""

import itertools


def mean_ranks(sizes):
    """Rank 1 for the smallest; equal sizes share the mean of their ranks."""
    ordered = sorted(sizes)
    return [
        sum(place for place, other in enumerate(ordered, start=1) if other == size) / ordered.count(size)
        for size in sizes
    ]


def signed_rank_test(differences):
    """The smaller sum of ranks, and the share of all changes of sign whose smaller sum is at most as large."""
    differing = [difference for difference in differences if difference != 0]
    ranks = mean_ranks([abs(difference) for difference in differing])
    found = smaller_sum([difference > 0 for difference in differing], ranks)
    changes = list(itertools.product((False, True), repeat=len(differing)))
    as_extreme = sum(smaller_sum(positive, ranks) <= found for positive in changes)
    return found, as_extreme / len(changes)


def smaller_sum(positive, ranks):
    up = sum(rank for rank, sign in zip(ranks, positive, strict=True) if sign)
    return min(up, sum(ranks) - up)
