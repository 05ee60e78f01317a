"""Arrays and arguments as other libraries have them: refused, and answered with what is meant."""

import inspect
import re
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import numpy as np
import pytest

from ars_jax import losses
from ars_jax.losses import presets
from ars_jax.losses._checks import OTHER_NAMES, ArgumentError
from tests.losses.cases import LOSSES, SPACE, every_loss, every_loss_and_preset, loss, public_losses, random_case

pytestmark = pytest.mark.usefixtures("quick")
LOGITS, LABELS = random_case(0, SPACE)
THEIRS = {
    "mask": "where",
    "ignore_index": "ignore_label",
    "smooth": "eps",
    "smooth_nr": "eps",
    "alpha": "fp_weight",
    "beta": "fn_weight",
    "squared_pred": "squared",
    "batch": "batch_dice",
    "whole_batch": "batch_dice",
    "do_bg": "include_background",
    "absent": "absent_classes",
    "grid": "regions",
    "region_size": "regions",
    "region_map": "regions",
    "a": "min_penalty",
    "b": "penalty_range",
    "gird": "regions",
    "smoth": "eps",
}
"""Names of MONAI, nnU-Net, the public module and version 0.1, slips of the pen, and the names here."""
OURS: list[tuple[str, str, str]] = [
    ("pytorch_ars", "regions", "num_region_per_axis"),
    ("pytorch_ars", "min_penalty", "A"),
    ("pytorch_ars", "penalty_range", "B"),
    ("pytorch_ars", "eps", "smooth"),
    ("pytorch_ars", "include_background", "do_bg"),
    ("monai_dice", "squared", "squared_pred"),
    ("monai_dice", "batch_dice", "batch"),
    ("monai_dice_ce", "cross_entropy_weight", "lambda_ce"),
    ("monai_tversky", "fp_weight", "alpha"),
    ("monai_tversky", "fn_weight", "beta"),
    ("monai_generalized_dice", "batch_dice", "batch"),
    ("nnunet_dice_ce", "cross_entropy_weight", "weight_ce"),
    ("nnunet_dice_ce", "include_background", "do_bg"),
    ("nnunet_dice_ce", "mask", "where"),
]
"""A preset, the name that a loss here has for an argument, and the preset's own."""


def refused(call: Callable[[], Any], kind: type[Exception] = ArgumentError) -> Any:
    """The error of a call, whose message is one line without names of private things."""
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert re.search(r"(?<![A-Za-z0-9])_[A-Za-z_]", message) is None, message
    return caught.value


def quoted(error: Exception) -> list[str]:
    """The words in quotation marks, of which the first is the one that was given."""
    return re.findall(r"'(\w+)'", str(error))


# --- arrays ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dimensions", [2, 3])
@every_loss_and_preset
def test_one_class_alone_is_refused(name: str, options: dict[str, Any], dimensions: int) -> None:
    """The softmax over one class is 1 everywhere: such a network would learn nothing, at a loss of 0."""
    logits, labels = LOGITS[..., :1], np.zeros_like(LABELS)
    if dimensions == 2:
        logits, labels = logits[:, 0], labels[:, 0]
    for y in (labels, labels[..., None]):
        error = refused(lambda y=y: loss(name, spatial_dims=dimensions, **options)(logits, y))
        assert (error.name, error.found) == ("logits.shape", logits.shape)


def test_statistics_of_one_class_are_refused_also_of_probabilities() -> None:
    for from_probabilities in (False, True):
        error = refused(
            lambda p=from_probabilities: losses.overlap_statistics(LOGITS[..., :1], LABELS, from_probabilities=p)
        )
        assert error.name == "logits.shape"
    error = refused(lambda: losses.Objective({"dice": 1})(LOGITS[..., :1], LABELS))
    assert error.name == "logits.shape"


@pytest.mark.parametrize("dimensions", [2, 3])
@every_loss_and_preset
def test_channels_first_are_refused_and_told_how_to_move_them(
    name: str, options: dict[str, Any], dimensions: int
) -> None:
    logits, labels = (LOGITS, LABELS) if dimensions == 3 else (LOGITS[:, 0], LABELS[:, 0])
    first = np.moveaxis(logits, -1, 1)
    error = refused(lambda: loss(name, spatial_dims=dimensions, **options)(first, labels))
    assert (error.name, error.found) == ("logits.shape", first.shape)
    fix = re.search(r"moveaxis\(logits, (-?\d+), (-?\d+)\)", error.wanted)
    assert fix is not None
    np.testing.assert_array_equal(np.moveaxis(first, int(fix[1]), int(fix[2])), logits)


@every_loss_and_preset
def test_a_volume_without_its_batch_is_refused_and_with_it_accepted(name: str, options: dict[str, Any]) -> None:
    logits, labels = LOGITS[0], LABELS[0]
    error = refused(lambda: loss(name, **options)(logits, labels))
    assert (error.name, error.found) == ("logits.shape", logits.shape)
    assert "logits[None]" in error.wanted and "spatial_dims=2" in error.wanted
    value = loss(name, **options)(logits[None], labels[None])
    assert value == loss(name, **options)(LOGITS[:1], LABELS[:1])


@every_loss
def test_a_batch_of_images_is_refused_as_volumes(name: str, options: dict[str, Any]) -> None:
    """And volumes as images: neither is taken for the other where the numbers of axes are alike."""
    images, labels = LOGITS[:, 0], LABELS[:, 0]
    assert refused(lambda: loss(name, **options)(images, labels)).name == "logits.shape"
    assert refused(lambda: loss(name, spatial_dims=2, **options)(LOGITS, LABELS)).name == "logits.shape"
    assert np.isfinite(loss(name, spatial_dims=2, **options)(images, labels))


# --- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(public_losses(losses)))
def test_a_loss_names_arguments_with_its_own(name: str) -> None:
    function = getattr(losses, name)
    own = inspect.signature(function).parameters
    for theirs, ours in THEIRS.items():
        error = refused(lambda theirs=theirs: function(LOGITS, LABELS, **{theirs: 1}), TypeError)
        assert quoted(error) == [theirs, *([ours] if ours in own else [])], (name, theirs)
        assert str(error).startswith(f"{name}()")
        if ours not in own:
            assert all(re.search(rf"\b{each}\b", str(error)) for each in own)


def test_every_other_name_is_answered_by_some_loss() -> None:
    own = set().union(*(inspect.signature(getattr(losses, name)).parameters for name, _ in LOSSES.values()))
    assert set(THEIRS.values()) <= own


@pytest.mark.parametrize(("theirs", "ours"), THEIRS.items(), ids=THEIRS.keys())
def test_an_objective_and_the_statistics_answer_other_names_with_their_own(theirs: str, ours: str) -> None:
    objective = losses.Objective({"dice": 1})
    makes: Callable[..., Any] = losses.Objective
    calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [(makes, ())]
    calls += [(function, (LOGITS, LABELS)) for function in (objective, losses.overlap_statistics)]
    for function, arrays in calls:
        own = inspect.signature(function).parameters
        error = refused(lambda f=function, a=arrays: f(*a, **{theirs: 1}), TypeError)
        meant = ours if ours in own else OTHER_NAMES.get(ours)  # an ignored label is a mask to a call
        assert quoted(error) == [theirs, *([meant] if meant in own else [])]
    assert ours in {*inspect.signature(makes).parameters, *inspect.signature(objective).parameters}


@pytest.mark.parametrize(("preset", "ours", "theirs"), OURS, ids=[f"{preset}-{ours}" for preset, ours, _ in OURS])
def test_a_preset_answers_the_names_here_with_its_own(preset: str, ours: str, theirs: str) -> None:
    error = refused(lambda: getattr(presets, preset)(LOGITS, LABELS, **{ours: 1}), TypeError)
    assert quoted(error) == [ours, theirs]


@pytest.mark.parametrize("preset", presets.NAMES)
@pytest.mark.parametrize("ours", ["gamma", "fp_weight", "absent_classes"])
def test_what_a_preset_does_not_have_is_not_guessed(preset: str, ours: str) -> None:
    """The name of a weight of false positives is not that of a weight of the cross-entropy, though it looks alike."""
    error = refused(lambda: getattr(presets, preset)(LOGITS, LABELS, **{ours: 1}), TypeError)
    assert quoted(error) == ([ours, "alpha"] if (preset, ours) == ("monai_tversky", "fp_weight") else [ours])


CALLS: dict[str, Callable[[], Any]] = {
    "regions": lambda: losses.region_specific(LOGITS, LABELS),
    "RegionSize": lambda: losses.dice(LOGITS, LABELS, regions=losses.RegionSize(0)),
    "levels": lambda: losses.dice(LOGITS, LABELS, levels=0),
    "eps": lambda: losses.dice(LOGITS, LABELS, eps=0),
    "gamma": lambda: losses.focal_tversky(LOGITS, LABELS, gamma=-1),
    "spatial_dims": lambda: losses.dice(LOGITS, LABELS, spatial_dims=4),  # pyright: ignore[reportArgumentType]
    "min_penalty, penalty_range": lambda: losses.Objective(min_penalty=0, penalty_range=0),
    "class_weights.shape": lambda: losses.dice(LOGITS, LABELS, class_weights=(1.0, 2.0)),
    "labels.dtype": lambda: losses.dice(LOGITS, LABELS.astype(np.float32)),
    "where.shape": lambda: losses.dice(LOGITS, LABELS, where=LABELS[:1] > 0),
    "ignore_label": lambda: losses.dice(LOGITS, LABELS.astype(np.uint8), ignore_label=-1),
    "terms": lambda: losses.Objective({"dise": 1}),
    "terms.dice": lambda: losses.Objective({"dice": -1}),
}


@pytest.mark.parametrize("argument", CALLS)
def test_a_wrong_value_is_refused_by_the_name_of_its_argument(argument: str) -> None:
    error = refused(CALLS[argument])
    assert error.name == argument
    assert str(error).startswith(argument) and error.wanted in str(error) and str(error.found) in str(error)


def test_halving_what_cannot_be_halved_shows_nothing_private() -> None:
    refused(lambda: losses.dice(LOGITS, LABELS, regions=3, levels=2), ValueError)
    refused(lambda: losses.overlap_statistics(LOGITS, LABELS).coarser(), ValueError)


@pytest.mark.parametrize("name", [name for name, _ in list(LOSSES.values())[:1]])
def test_arrays_that_are_missing_or_too_many_show_nothing_private(name: str) -> None:
    refused(lambda: attrgetter(name)(losses)(LOGITS), TypeError)
    refused(lambda: attrgetter(name)(losses)(LOGITS, LABELS, LABELS > 0), TypeError)
