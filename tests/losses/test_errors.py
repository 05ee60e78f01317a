"""A wrong argument is named, with what was found."""

from operator import attrgetter
from typing import Any

import jax
import numpy as np
import pytest

from ars_jax import losses
from tests.losses.cases import DIVISIBLE, PRESETS, region_map

LOGITS = np.zeros((2, 8, 6, 4, 3), np.float32)
LABELS = np.zeros((2, 8, 6, 4), np.int32)
EVERY = [*DIVISIBLE, "cross_entropy", "baseline", *PRESETS]
REGIONAL = ["region_specific", "adaptive_region_specific", "overlap_statistics"]


WORDS = {"absent": ["skip", "count"], "reduction": ["sum", "mean", "class_mean"]}


def weighted(*arrays: Any) -> Any:
    return losses.weighted_sum({"dice": 1, "region_specific": 1})(*arrays)


def raised(name: str, logits: Any = LOGITS, labels: Any = LABELS, **options: Any) -> str:
    """The one-line message of the ValueError."""
    needs_grid = name in ("region_specific", "adaptive_region_specific", "presets.pytorch_ars")
    if needs_grid and not options.keys() & {"grid", "region_size", "region_map"}:
        options["grid"] = 2
    with pytest.raises(ValueError) as caught:
        attrgetter(name)(losses)(logits, labels, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", REGIONAL)
@pytest.mark.parametrize("grid", [9, 16, (8, 7, 4), (1, 1, 5)])
def test_a_grid_larger_than_the_side_is_refused(name: str, grid: Any) -> None:
    message = raised(name, grid=grid)
    assert "grid" in message
    side = {9: "8", 16: "8", (8, 7, 4): "6", (1, 1, 5): "4"}[grid]
    assert side in message


@pytest.mark.parametrize("name", REGIONAL)
@pytest.mark.parametrize("grid", [0, -1, (2, 2), (2, 2, 2, 2), (2, 0, 2), 2.0, (2, 2.0, 2), "2"])
def test_a_grid_of_no_regions_or_of_other_axes_is_refused(name: str, grid: Any) -> None:
    assert "grid" in raised(name, grid=grid)


@pytest.mark.parametrize("name", REGIONAL)
@pytest.mark.parametrize("region_size", [0, -4, (2, 2), (2, 2, 0)])
def test_a_region_size_of_no_voxels_or_of_other_axes_is_refused(name: str, region_size: Any) -> None:
    assert "region_size" in raised(name, region_size=region_size)


@pytest.mark.parametrize("name", REGIONAL)
def test_grid_and_region_size_together_are_refused(name: str) -> None:
    message = raised(name, grid=2, region_size=4)
    assert "grid" in message and "region_size" in message


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("shape", [(3,), (8, 3), (2, 8, 3), (2, 2, 2, 2, 2, 3)], ids=str)
def test_logits_that_are_neither_two_nor_three_dimensional_are_refused(name: str, shape: tuple[int, ...]) -> None:
    message = raised(name, np.zeros(shape, np.float32), np.zeros(shape[:-1], np.int32))
    assert "logits" in message and str(shape) in message


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("shape", [(2, 8, 6, 5), (1, 8, 6, 4), (2, 8, 6), (2, 8, 6, 4, 2), (2, 8, 6, 4, 1)], ids=str)
def test_labels_of_another_shape_are_refused(name: str, shape: tuple[int, ...]) -> None:
    message = raised(name, labels=np.zeros(shape, np.int32))
    assert "labels" in message and str(shape) in message and str(LOGITS.shape) in message


@pytest.mark.parametrize("name", EVERY)
def test_a_mask_of_another_shape_is_refused(name: str) -> None:
    message = raised(name, where=np.ones((2, 8, 6), bool))
    assert "where" in message and "(2, 8, 6)" in message


@pytest.mark.parametrize("name", EVERY)
def test_a_mask_of_weights_is_refused(name: str) -> None:
    message = raised(name, where=np.full(LABELS.shape, 0.5, np.float32))
    assert "where" in message and "float32" in message


@pytest.mark.parametrize("name", [*DIVISIBLE, "overlap_statistics"])
@pytest.mark.parametrize(
    ("ids", "count"),
    [(LABELS[:1], 2), (LABELS[..., None], 2), (LABELS.astype(np.float32), 2), (LABELS, 0)],
    ids=["another batch", "another axis", "fractions", "no regions"],
)
def test_a_region_map_that_does_not_fit_is_refused(name: str, ids: np.ndarray, count: int) -> None:
    message = raised(name, region_map=region_map(ids, count))
    assert "region_map" in message and str(count) in message and str(ids.shape) in message
    with pytest.raises(ValueError, match=f"region_map of {count}"):
        weighted(LOGITS, LABELS, None, region_map(ids, count))


@pytest.mark.parametrize("division", [{"grid": 2}, {"region_size": 2}], ids=str)
@pytest.mark.parametrize("name", [*DIVISIBLE, "overlap_statistics"])
def test_a_map_beside_another_division_is_refused(name: str, division: dict[str, int]) -> None:
    message = raised(name, region_map=region_map(LABELS, 3), **division)
    assert "region_map" in message and next(iter(division)) in message


@pytest.mark.parametrize("name", DIVISIBLE)
def test_a_lone_background_cannot_be_left_out(name: str) -> None:
    message = raised(name, LOGITS[..., :1], include_background=False)
    assert "background" in message


@pytest.mark.parametrize("name", EVERY)
def test_fractional_label_maps_are_refused(name: str) -> None:
    message = raised(name, labels=LABELS.astype(np.float32))
    assert "labels" in message and "float32" in message


@pytest.mark.parametrize(
    ("name", "option", "words"),
    [
        ("adaptive_region_specific", "adaptive_gradient", ["through", "stop"]),
        *((name, option, words) for name in DIVISIBLE for option, words in WORDS.items()),
        ("cross_entropy", "reduction", ["mean", "sum"]),
        ("baseline", "cross_entropy_reduction", ["mean", "sum"]),
    ],
)
def test_an_unknown_word_is_answered_with_the_known_ones(name: str, option: str, words: list[str]) -> None:
    message = raised(name, **{option: "sometimes"})
    for word in ["sometimes", *words]:
        assert word in message


def test_errors_are_the_same_under_jit() -> None:
    with pytest.raises(ValueError, match="grid"):
        jax.jit(lambda z, y: losses.region_specific(z, y, grid=9))(LOGITS, LABELS)


@pytest.mark.parametrize("name", [*DIVISIBLE, "baseline"])
@pytest.mark.parametrize("eps", [0, -1e-7, float("nan")])
def test_smoothing_has_to_be_above_0(name: str, eps: float) -> None:
    """At 0 a perfect or an empty pair is 0 / 0."""
    assert "eps" in raised(name, eps=eps)


def test_the_power_of_focal_tversky_has_to_be_above_0() -> None:
    assert "gamma" in raised("focal_tversky", gamma=0)


@pytest.mark.parametrize("name", DIVISIBLE)
def test_a_misspelt_option_is_answered_with_the_known_ones(name: str) -> None:
    with pytest.raises(TypeError, match=r"gird.*grid, region_size.*class_weights"):
        getattr(losses, name)(LOGITS, LABELS, gird=2)


@pytest.mark.parametrize("wrong", [{"reduction": "median"}, {"absent": "no"}, {"eps": 0}, {"adaptive_gradient": "x"}])
def test_a_weighted_sum_is_refused_when_it_is_made(wrong: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        losses.weighted_sum({"dice": 1}, **wrong)
