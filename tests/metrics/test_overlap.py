"""DSC, recall and precision are counts of voxels, and every empty case has its stated value."""

import numpy as np
import pytest

from ars_jax.errors import UserError
from ars_jax.metrics.overlap import Overlap, overlap_metrics


def cube(low, high, shape=(6, 7, 8)):
    mask = np.zeros(shape, bool)
    mask[low[0] : high[0], low[1] : high[1], low[2] : high[2]] = True
    return mask


def test_counts_of_two_boxes_by_hand():
    found = overlap_metrics(cube((0, 0, 0), (2, 2, 4)), cube((0, 0, 2), (2, 3, 4)))
    assert found == Overlap(dsc=16 / 28, recall=8 / 12, precision=8 / 16, volume_prediction=16, volume_reference=12)


def test_random_masks_agree_with_loops():
    rng = np.random.default_rng(3)
    for share in (0.1, 0.5, 0.9):
        prediction, reference = rng.random((4, 5, 6)) < share, rng.random((4, 5, 6)) < 0.4
        pairs = list(zip(prediction.ravel().tolist(), reference.ravel().tolist(), strict=True))
        both, p, g = sum(a and b for a, b in pairs), sum(a for a, _ in pairs), sum(b for _, b in pairs)
        found = overlap_metrics(prediction, reference)
        assert found.dsc == pytest.approx(2 * both / (p + g))
        assert found.recall == pytest.approx(both / g)
        assert found.precision == pytest.approx(both / p)


def test_equal_masks_score_one_and_disjoint_masks_zero():
    a, b = cube((0, 0, 0), (2, 2, 2)), cube((3, 3, 3), (5, 5, 5))
    assert overlap_metrics(a, a) == Overlap(1.0, 1.0, 1.0, 8, 8)
    assert overlap_metrics(a, b) == Overlap(0.0, 0.0, 0.0, 8, 8)


def test_dsc_is_symmetric_and_swapping_exchanges_recall_and_precision():
    a, b = cube((0, 0, 0), (3, 2, 4)), cube((1, 0, 1), (4, 4, 4))
    one, other = overlap_metrics(a, b), overlap_metrics(b, a)
    assert one.dsc == other.dsc
    assert (one.recall, one.precision) == (other.precision, other.recall)


def test_miss_has_dsc_and_recall_zero():
    assert overlap_metrics(cube((0, 0, 0), (0, 0, 0)), cube((1, 1, 1), (2, 2, 3))) == Overlap(0.0, 0.0, None, 0, 2)


def test_false_alarm_has_dsc_and_precision_zero():
    assert overlap_metrics(cube((1, 1, 1), (2, 2, 3)), cube((0, 0, 0), (0, 0, 0))) == Overlap(0.0, None, 0.0, 2, 0)


def test_organ_in_neither_mask_counts_for_nothing():
    empty = cube((0, 0, 0), (0, 0, 0))
    assert overlap_metrics(empty, empty) == Overlap(None, None, None, 0, 0)


def test_integer_masks_count_as_their_non_zero_voxels():
    a, b = cube((0, 0, 0), (2, 2, 4)), cube((0, 0, 2), (2, 3, 4))
    assert overlap_metrics(a.astype(np.uint8) * 7, b.astype(np.int16)) == overlap_metrics(a, b)


@pytest.mark.parametrize("shapes", [((2, 3, 4), (2, 3, 5)), ((3, 4), (3, 4))])
def test_masks_that_cannot_be_compared_are_refused(shapes):
    with pytest.raises(UserError, match="shape"):
        overlap_metrics(np.ones(shapes[0], bool), np.ones(shapes[1], bool))
