"""Values per sample, region and class, and the label that is left out."""

from typing import Any

import jax
import numpy as np
import pytest

from ars_jax import losses
from ars_jax.losses._checks import ArgumentError
from tests.losses.cases import (
    DIVISIBLE,
    SPACE,
    WHOLE,
    every_loss,
    gradient,
    loss,
    random_case,
    random_mask,
    region_map,
    statistics,
)

pytestmark = pytest.mark.usefixtures("quick")
IDS = np.random.default_rng(1).integers(-1, 5, (2, *SPACE)).astype(np.int32)
"""Four regions, and voxels of none: -1 and 4."""
DIVISIONS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "whole": (None, ()),
    "grid": ((2, 3, 1), (2, 3, 1)),
    "size": (losses.RegionSize(4), (2, 2, 1)),
    "map": (region_map(IDS, 4), (4,)),
}
every_division = pytest.mark.parametrize(("regions", "grid"), DIVISIONS.values(), ids=DIVISIONS.keys())


def lacking_case(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels without class 2 in the first sample."""
    logits, labels = random_case(seed, SPACE)
    labels[0] = np.minimum(labels[0], 1)
    return logits, labels


# --- reduction="none" ------------------------------------------------------------------------------------------------


@every_division
@pytest.mark.parametrize("absent", ["skip", "include"])
@pytest.mark.parametrize("name", DIVISIBLE)
def test_values_are_those_of_each_sample_region_and_class_and_add_up_to_the_sum(
    name: str, absent: str, regions: Any, grid: tuple[int, ...]
) -> None:
    logits, labels = lacking_case(2)
    options = {"regions": regions, "absent_classes": absent, "where": random_mask(3, SPACE)}
    values = loss(name, reduction="none", **options)(logits, labels)
    assert values.shape == (2, *grid, 1 if name == "generalized_dice" else 3)
    total = values.sum(tuple(range(1, values.ndim))).mean()
    np.testing.assert_allclose(total, loss(name, reduction="sum", **options)(logits, labels), rtol=2e-6)
    assert (np.asarray(values) != 0).any((*range(values.ndim - 1),)).all()


@pytest.mark.parametrize(
    "options", [{"class_weights": (0.5, 2.0, 4.0)}, {"include_background": False}, {"batch_dice": True}], ids=str
)
@pytest.mark.parametrize("name", DIVISIBLE)
def test_options_of_the_sum_are_those_of_the_values(name: str, options: dict[str, Any]) -> None:
    logits, labels = lacking_case(4)
    values = loss(name, regions=2, reduction="none", **options)(logits, labels)
    classes = 1 if name == "generalized_dice" else 2 if "include_background" in options else 3
    assert values.shape == (1 if "batch_dice" in options else 2, 2, 2, 2, classes)
    total = values.sum((1, 2, 3, 4)).mean()
    np.testing.assert_allclose(total, loss(name, regions=2, **options)(logits, labels), rtol=2e-6)


@every_division
@pytest.mark.parametrize("name", DIVISIBLE)
def test_a_skipped_pair_is_0_and_an_included_one_is_not(name: str, regions: Any, grid: tuple[int, ...]) -> None:
    logits, labels = lacking_case(5)
    present = np.asarray(statistics(logits, labels, regions=regions).reference) > 0
    present = present.reshape(2, *grid, 3)
    if name == "generalized_dice":
        present = present.any(-1, keepdims=True)
    skipped, included = (
        np.asarray(loss(name, regions=regions, absent_classes=absent, reduction="none")(logits, labels))
        for absent in ("skip", "include")
    )
    np.testing.assert_array_equal(skipped != 0, present)
    if name != "generalized_dice":  # whose classes are joined
        assert not present.all() and (included != 0).all()
        np.testing.assert_array_equal(skipped, np.where(present, included, 0))


def test_a_region_without_any_reference_is_0_in_the_joint_loss() -> None:
    logits, soft = random_case(6, SPACE, soft=True)
    soft[:, :4] = 0
    values = np.asarray(loss("generalized_dice", regions=2, reduction="none")(logits, soft))
    assert not values[:, 0].any() and (values[:, 1] > 0).all()


@pytest.mark.parametrize("options", [{}, {"class_weights": (0.5, 2.0, 4.0)}, {"batch_dice": True}], ids=str)
def test_values_of_the_cross_entropy_are_the_means_of_the_samples(options: dict[str, Any]) -> None:
    logits, labels = random_case(7, SPACE)
    where = random_mask(8, SPACE)
    values = loss("cross_entropy", reduction="none", **options)(logits, labels, where=where)
    assert values.shape == (1 if "batch_dice" in options else 2, 1)
    np.testing.assert_allclose(values.mean(), loss("cross_entropy", **options)(logits, labels, where=where), rtol=2e-6)
    if not options:
        for i in range(2):
            alone = loss("cross_entropy")(logits[i : i + 1], labels[i : i + 1], where=where[i : i + 1])
            np.testing.assert_allclose(values[i, 0], alone, rtol=2e-6)


def test_the_gradient_of_a_weighted_sum_of_the_values_is_that_of_the_sum() -> None:
    logits, labels = random_case(9, SPACE)
    run = loss("adaptive_region_specific", regions=2, reduction="none")
    slopes = jax.grad(lambda z: run(z, labels).sum() / 2)(logits)
    wanted = np.asarray(gradient("adaptive_region_specific", regions=2)(logits, labels))
    np.testing.assert_allclose(slopes, wanted, rtol=1e-5, atol=1e-6 * np.abs(wanted).max())


@pytest.mark.parametrize("name", DIVISIBLE)
def test_values_of_several_grids_are_refused(name: str) -> None:
    logits, labels = random_case(10, SPACE)
    with pytest.raises(ArgumentError) as caught:
        loss(name, regions=2, levels=2, reduction="none")(logits, labels)
    assert (caught.value.name, caught.value.found) == ("levels", 2)


def test_the_baseline_has_no_values_and_an_objective_none_either() -> None:
    logits, labels = random_case(10, SPACE)
    with pytest.raises(TypeError, match="reduction"):
        loss("baseline", reduction="none")(logits, labels)
    with pytest.raises(ArgumentError) as caught:
        losses.Objective({"dice": 1}, reduction="none")  # pyright: ignore[reportArgumentType]
    assert caught.value.name == "reduction"


# --- ignore_label ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True], ids=["alone", "with where"])
@pytest.mark.parametrize(("ignored", "dtype"), [(1, np.int32), (255, np.uint8), (-1, np.int8)], ids=str)
@every_loss
def test_an_ignored_label_is_the_mask_of_the_others(
    name: str, options: dict[str, Any], ignored: int, dtype: Any, masked: bool
) -> None:
    """A label of a class as one of no class."""
    logits, labels = random_case(11, SPACE)
    if ignored != 1:
        labels = np.where(random_mask(12, SPACE), labels, ignored)
    labels = labels.astype(dtype)
    where = random_mask(13, SPACE) if masked else None
    both = labels != ignored if where is None else where & (labels != ignored)
    assert not both.all()
    found, slopes = jax.value_and_grad(loss(name, ignore_label=ignored, **options))(logits, labels, where=where)
    wanted, wanted_slopes = jax.value_and_grad(loss(name, **options))(logits, labels, where=both)
    assert found == wanted
    without = loss(name, **options)(logits, labels, where=where)
    assert (found == without) == (name == "cross_entropy" and ignored != 1)  # a label of no class has no entropy
    np.testing.assert_array_equal(slopes, wanted_slopes)
    assert not np.asarray(slopes)[~both].any()


def test_an_objective_ignores_its_label_in_every_term() -> None:
    logits, labels = random_case(14, SPACE)
    terms = {**dict.fromkeys(WHOLE, 1.0), "cross_entropy": 1.0, "region_specific": 1.0}
    where = random_mask(15, SPACE)
    _, found = losses.Objective(terms, regions=2, ignore_label=2)(logits, labels, where)
    _, wanted = losses.Objective(terms, regions=2)(logits, labels, where & (labels != 2))
    assert found == wanted and len(found) == len(terms)


@pytest.mark.parametrize(
    ("labels", "ignored"),
    [
        (np.zeros((2, *SPACE, 3), np.float32), 0),
        (np.zeros((2, *SPACE, 3), np.int32), 0),
        (np.zeros((2, *SPACE), bool), 0),
        (np.zeros((2, *SPACE), np.uint8), -1),
        (np.zeros((2, *SPACE), np.uint8), 256),
        (np.zeros((2, *SPACE), np.int8), 255),
    ],
    ids=["soft", "one-hot", "boolean", "below", "above", "of the unsigned type"],
)
@every_loss
def test_a_label_that_cannot_be_there_cannot_be_ignored(
    name: str, options: dict[str, Any], labels: np.ndarray, ignored: int
) -> None:
    """An unsigned 255 is not the signed -1: the comparison would wrap around, or be false everywhere."""
    logits, _ = random_case(16, SPACE)
    with pytest.raises(ArgumentError) as caught:
        loss(name, ignore_label=ignored, **options)(logits, labels)
    assert (caught.value.name, caught.value.found) == ("ignore_label", ignored)
