"""Weighted sums of losses, and logits whose unlabelled classes are merged into the background."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ars_jax import losses
from ars_jax.losses._checks import ArgumentError
from tests.losses.cases import SPACE, loss, random_case, random_mask, region_map
from tests.oracles import losses as oracle

pytestmark = pytest.mark.usefixtures("quick")
sums_beside_a_mean = pytest.mark.filterwarnings("ignore:.*a sum over regions:UserWarning")
"""For laws of the arithmetic, which hold of such objectives too."""
WEIGHTS = {
    "dice": 1.0,
    "tversky": 0.3,
    "focal_tversky": 0.2,
    "generalized_dice": 3.0,
    "sensitivity_specificity": 1.5,
    "cross_entropy": 0.5,
    "adaptive_region_specific": 0.25,
    "region_specific": 2.0,
}
SHARED = ("class_weights", "include_background", "batch_dice", "eps")
OWN = {
    "tversky": ("fp_weight", "fn_weight"),
    "focal_tversky": ("fp_weight", "fn_weight", "gamma"),
    "sensitivity_specificity": ("sensitivity_weight",),
    "adaptive_region_specific": ("min_penalty", "penalty_range", "exponent", "adaptive_gradient"),
}
REGIONAL = ("regions", "levels", "absent_classes", "reduction")


PAPER = {"reduction": "sum", "adaptive_gradient": "through"}
"""Defaults of the functions, those of the paper, where an objective has its own."""


def weighted(weights: Any, **options: Any) -> Any:
    """An objective of the functions' defaults, or of other options."""
    return losses.Objective(weights, **{**PAPER, **options})


def merged(logits: Any, labelled: Any) -> jax.Array:
    return losses.merge_unlabelled(logits, labelled)


def single(name: str, options: dict[str, Any]) -> Any:
    """The loss alone, with those of the options that are its own."""
    if name == "cross_entropy":
        reduction = options.get("cross_entropy_reduction", "mean")
        return loss(name, reduction=reduction, batch_dice=options.get("batch_dice", False))
    keys = (*SHARED, *OWN.get(name, ()), *(REGIONAL if "region" in name else ()))
    return loss(name, **{key: value for key, value in options.items() if key in keys})


@sums_beside_a_mean
@pytest.mark.parametrize(
    "options",
    [
        {
            "regions": 2,
            "min_penalty": 0.1,
            "penalty_range": 0.8,
            "exponent": 2.0,
            "absent_classes": "include",
            "reduction": "class_mean",
        },
        {"regions": 2, "include_background": False, "class_weights": [0.5, 2.0], "reduction": "mean", "gamma": 2.0},
        {
            "regions": 2,
            "levels": 2,
            "eps": 1e-2,
            "fp_weight": 0.9,
            "sensitivity_weight": 0.3,
            "adaptive_gradient": "stop",
        },
        {"regions": 2, "batch_dice": True, "cross_entropy_reduction": "sum"},
    ],
    ids=str,
)
def test_total_is_the_weighted_sum_of_the_single_losses_and_the_parts_equal_them(options: dict[str, Any]) -> None:
    logits, labels = random_case(1, SPACE)
    where = random_mask(2, SPACE)
    total, parts = weighted(WEIGHTS, **options)(logits, labels, where)
    assert parts.keys() == WEIGHTS.keys()
    for name, value in parts.items():
        assert value.shape == ()
        np.testing.assert_allclose(value, single(name, options)(logits, labels, where=where), rtol=2e-6, err_msg=name)
    np.testing.assert_allclose(total, sum(WEIGHTS[name] * value for name, value in parts.items()), rtol=2e-6)


def test_a_map_reaches_the_regional_losses_and_no_other() -> None:
    logits, labels = random_case(1, SPACE)
    regions = region_map(np.random.default_rng(2).integers(-1, 4, labels.shape), 4)
    weights = {"dice": 1.0, "adaptive_region_specific": 1.0}
    _, parts = weighted(weights)(logits, labels, None, regions)
    alone = loss("adaptive_region_specific", regions=regions)(logits, labels)
    np.testing.assert_allclose(parts["adaptive_region_specific"], alone, rtol=2e-6)
    np.testing.assert_allclose(parts["dice"], loss("dice")(logits, labels), rtol=2e-6)


def test_gradient_of_the_total_is_the_weighted_sum_of_the_gradients() -> None:
    logits, labels = random_case(3, SPACE)
    options = {"regions": 2, "reduction": "class_mean"}
    by_logits, parts = jax.grad(weighted(WEIGHTS, **options), has_aux=True)(jnp.asarray(logits), labels)

    wanted = sum(weight * jax.grad(single(name, options))(logits, labels) for name, weight in WEIGHTS.items())
    np.testing.assert_allclose(by_logits, wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())
    assert set(parts) == set(WEIGHTS)


def test_a_weight_of_zero_keeps_the_part_for_the_log() -> None:
    logits, labels = random_case(4, SPACE)
    total, parts = weighted({"dice": 1, "cross_entropy": 0})(logits, labels)
    np.testing.assert_allclose(total, parts["dice"], rtol=1e-6)
    np.testing.assert_allclose(parts["cross_entropy"], loss("cross_entropy")(logits, labels), rtol=2e-6)


def test_one_loss_alone_is_itself() -> None:
    logits, labels = random_case(5, SPACE)
    for name in ("dice", "cross_entropy"):
        total, parts = weighted({name: 1})(logits, labels)
        np.testing.assert_allclose(total, loss(name)(logits, labels), rtol=2e-6)
        assert list(parts) == [name]


def test_an_unknown_loss_is_named() -> None:
    with pytest.raises(ArgumentError) as caught:
        weighted({"dice": 1, "lovasz": 1})
    assert (caught.value.name, caught.value.found) == ("terms", "lovasz")


# --- unlabelled organs -----------------------------------------------------------------------------------------------

LABELLED = np.array([[True, True, False, True, False], [True, False, True, True, True]])


def test_all_classes_labelled_changes_nothing() -> None:
    logits, _ = random_case(6, SPACE, classes=5)
    np.testing.assert_array_equal(merged(logits, np.ones((2, 5), bool)), logits)


def test_logits_of_low_precision_are_merged_in_float32() -> None:
    """In bfloat16 itself the background's logit, a logarithm of a sum, would be off by a part of 1e-2."""
    logits, labels = random_case(10, SPACE, classes=5)
    low = jnp.asarray(logits, jnp.bfloat16)
    found, wanted = merged(low, LABELLED), merged(low.astype(jnp.float32), LABELLED)
    assert found.dtype == wanted.dtype == jnp.float32
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    labels = np.where(np.take_along_axis(LABELLED, labels.reshape(2, -1), 1).reshape(labels.shape), labels, 0)
    for name in ("dice", "cross_entropy"):
        values = [loss(name)(merged(x, LABELLED), labels) for x in (low, low.astype(jnp.float32))]
        np.testing.assert_allclose(*values, rtol=1e-6)
    slopes = jax.grad(lambda z: loss("dice")(merged(z, LABELLED), labels))(low)
    assert slopes.dtype == jnp.bfloat16


def test_unlabelled_classes_are_background_and_the_others_keep_their_probability() -> None:
    logits, _ = random_case(7, SPACE, classes=5)
    p = oracle.softmax(logits)
    wanted = np.where(LABELLED[:, None, None, None], p, 0)
    wanted[..., 0] = 1 - wanted[..., 1:].sum(-1)
    found = jax.nn.softmax(merged(logits, LABELLED), axis=-1)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dice", {}),
        ("cross_entropy", {}),
        ("region_specific", {"regions": 2}),
        ("adaptive_region_specific", {"regions": 2, "absent_classes": "include"}),
    ],
)
def test_no_loss_sees_how_background_and_unlabelled_classes_share(name: str, options: dict[str, Any]) -> None:
    """Every slope among background and unlabelled classes is that of their sum: in proportion to their shares."""
    logits, labels = random_case(8, SPACE, classes=5)
    labels = np.where(np.take_along_axis(LABELLED, labels.reshape(2, -1), 1).reshape(labels.shape), labels, 0)
    run = loss(name, **options)
    value, slopes = jax.value_and_grad(lambda z: run(merged(z, LABELLED), labels))(logits)
    assert np.isfinite(value) and np.isfinite(slopes).all()
    together = ~LABELLED
    together[:, 0] = True
    for i in range(2):
        shares = oracle.softmax(logits[i][..., together[i]])
        mine = np.asarray(slopes[i], np.float64)[..., together[i]]
        np.testing.assert_allclose(mine, shares * mine.sum(-1, keepdims=True), atol=2e-6 * np.abs(slopes).max() + 1e-9)


@sums_beside_a_mean
@pytest.mark.parametrize("one_hot", [False, True], ids=["label map", "one-hot"])
def test_merged_logits_survive_extreme_logits(one_hot: bool) -> None:
    _, labels = random_case(9, SPACE, classes=5)
    logits = np.where(oracle.references(labels, 5, 5) > 0, 1e4, -1e4).astype(np.float32)
    labels = np.where(np.take_along_axis(LABELLED, labels.reshape(2, -1), 1).reshape(labels.shape), labels, 0)
    if one_hot:
        labels = oracle.references(labels, 5, 5).astype(np.float32)
    function = weighted({"dice": 1, "cross_entropy": 1, "adaptive_region_specific": 1}, regions=2)
    (total, _), slopes = jax.jit(jax.value_and_grad(lambda z: function(merged(z, LABELLED), labels), has_aux=True))(
        logits
    )
    np.testing.assert_allclose(total, 0, atol=1e-5)
    assert np.isfinite(slopes).all()
