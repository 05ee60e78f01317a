"""A wrong argument is named, with what was found."""

from operator import attrgetter
from typing import Any

import jax
import numpy as np
import pytest

from ars_jax import losses
from ars_jax.losses._checks import ArgumentError
from tests.losses.cases import DIVISIBLE, PRESETS, region_map

LOGITS = np.zeros((2, 8, 6, 4, 3), np.float32)
LABELS = np.zeros((2, 8, 6, 4), np.int32)
EVERY = [*DIVISIBLE, "cross_entropy", "baseline", *PRESETS]
REGIONAL = ["region_specific", "adaptive_region_specific", "overlap_statistics"]
WORDS = {"absent_classes": ["skip", "include"], "reduction": ["sum", "mean", "class_mean", "none"]}


def weighted(*arrays: Any) -> Any:
    return losses.Objective({"dice": 1, "region_specific": 1})(*arrays)


def raised(name: str, logits: Any = LOGITS, labels: Any = LABELS, **options: Any) -> ArgumentError:
    """The error, whose message is one line."""
    needs_grid = {"region_specific": "regions", "adaptive_region_specific": "regions"}
    needs_grid["presets.pytorch_ars"] = "num_region_per_axis"
    if name in needs_grid:
        options.setdefault(needs_grid[name], 2)
    with pytest.raises(ArgumentError) as caught:
        attrgetter(name)(losses)(logits, labels, **options)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("name", REGIONAL)
@pytest.mark.parametrize("grid", [9, 16, (8, 7, 4), (1, 1, 5)])
def test_a_grid_larger_than_the_side_is_refused(name: str, grid: Any) -> None:
    error = raised(name, regions=grid)
    assert (error.name, error.found) == ("regions", grid)
    side = {9: "8", 16: "8", (8, 7, 4): "6", (1, 1, 5): "4"}[grid]
    assert side in error.wanted


@pytest.mark.parametrize("name", REGIONAL)
@pytest.mark.parametrize("grid", [0, -1, (2, 2), (2, 2, 2, 2), (2, 0, 2), 2.0, (2, 2.0, 2), "2"])
def test_a_grid_of_no_regions_or_of_other_axes_is_refused(name: str, grid: Any) -> None:
    error = raised(name, regions=grid)
    assert (error.name, error.found) == ("regions", repr(grid) if isinstance(grid, str) else grid)


@pytest.mark.parametrize("name", REGIONAL)
@pytest.mark.parametrize("size", [0, -4, (2, 2), (2, 2, 0)])
def test_a_region_size_of_no_voxels_or_of_other_axes_is_refused(name: str, size: Any) -> None:
    error = raised(name, regions=losses.RegionSize(size))
    assert (error.name, error.found) == ("RegionSize", size)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("shape", [(3,), (8, 3), (2, 8, 3), (2, 2, 2, 2, 2, 3)], ids=str)
def test_logits_that_are_neither_two_nor_three_dimensional_are_refused(name: str, shape: tuple[int, ...]) -> None:
    for dimensions in (2, 3):
        error = raised(name, np.zeros(shape, np.float32), np.zeros(shape[:-1], np.int32), spatial_dims=dimensions)
        assert (error.name, error.found) == ("logits.shape", shape)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("shape", [(2, 8, 6, 5), (1, 8, 6, 4), (2, 8, 6), (2, 8, 6, 4, 2), (2, 8, 6, 4, 1)], ids=str)
def test_labels_of_another_shape_are_refused(name: str, shape: tuple[int, ...]) -> None:
    error = raised(name, labels=np.zeros(shape, np.int32))
    assert (error.name, error.found) == ("labels.shape", shape)
    assert str(LOGITS.shape) in error.wanted


@pytest.mark.parametrize("name", EVERY)
def test_a_mask_of_another_shape_is_refused(name: str) -> None:
    error = raised(name, where=np.ones((2, 8, 6), bool))
    assert (error.name, error.found) == ("where.shape", (2, 8, 6))


@pytest.mark.parametrize("name", EVERY)
def test_a_mask_of_weights_is_refused(name: str) -> None:
    error = raised(name, where=np.full(LABELS.shape, 0.5, np.float32))
    assert (error.name, error.found) == ("where.dtype", np.float32)


@pytest.mark.parametrize("name", [*DIVISIBLE, "overlap_statistics"])
@pytest.mark.parametrize(
    ("ids", "count"),
    [(LABELS[:1], 2), (LABELS[..., None], 2), (LABELS.astype(np.float32), 2), (LABELS, 0)],
    ids=["another batch", "another axis", "fractions", "no regions"],
)
def test_a_region_map_that_does_not_fit_is_refused(name: str, ids: np.ndarray, count: int) -> None:
    error = raised(name, regions=region_map(ids, count))
    assert error.name == "regions" and str(count) in str(error.found) and str(ids.shape) in str(error.found)
    with pytest.raises(ArgumentError) as caught:
        weighted(LOGITS, LABELS, None, region_map(ids, count))
    assert caught.value.name == "regions" and str(count) in str(caught.value.found)


def test_a_lone_background_cannot_be_left_out() -> None:
    statistics = losses.overlap_statistics(LOGITS, LABELS)
    assert statistics.foreground().reference.shape[-1] == 2
    with pytest.raises(ValueError, match="background"):
        statistics.foreground().foreground().foreground()


@pytest.mark.parametrize("name", EVERY)
def test_fractional_label_maps_are_refused(name: str) -> None:
    error = raised(name, labels=LABELS.astype(np.float32))
    assert (error.name, error.found) == ("labels.dtype", np.float32)


@pytest.mark.parametrize(
    ("name", "option", "words"),
    [
        ("adaptive_region_specific", "adaptive_gradient", ["through", "stop"]),
        *((name, option, words) for name in DIVISIBLE for option, words in WORDS.items()),
        ("cross_entropy", "reduction", ["mean", "sum", "none"]),
        ("baseline", "cross_entropy_reduction", ["mean", "sum"]),
    ],
)
def test_an_unknown_word_is_answered_with_the_known_ones(name: str, option: str, words: list[str]) -> None:
    error = raised(name, **{option: "sometimes"})
    assert (error.name, error.found) == (option, "'sometimes'")
    for word in words:
        assert repr(word) in error.wanted


def test_errors_are_the_same_under_jit() -> None:
    with pytest.raises(ArgumentError) as caught:
        jax.jit(lambda z, y: losses.region_specific(z, y, regions=9))(LOGITS, LABELS)
    assert (caught.value.name, caught.value.found) == ("regions", 9)


@pytest.mark.parametrize("name", [*DIVISIBLE, "baseline"])
@pytest.mark.parametrize("eps", [0, -1e-7, float("nan")])
def test_smoothing_has_to_be_above_0(name: str, eps: float) -> None:
    """At 0 a perfect or an empty pair is 0 / 0."""
    assert raised(name, eps=eps).name == "eps"


def test_the_power_of_focal_tversky_has_to_be_above_0() -> None:
    assert raised("focal_tversky", gamma=0).name == "gamma"


@pytest.mark.parametrize(
    "wrong", [{"reduction": "median"}, {"absent_classes": "no"}, {"eps": 0}, {"adaptive_gradient": "x"}]
)
def test_an_objective_is_refused_when_it_is_made(wrong: Any) -> None:
    with pytest.raises(ArgumentError) as caught:
        losses.Objective({"dice": 1}, **wrong)
    assert caught.value.name in wrong
