"""An objective as plain data: equality, hashing, what it refuses, what it warns of, and its own parts."""

import copy
import dataclasses
import operator
import pickle
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ars_jax import losses
from ars_jax.losses import Objective
from ars_jax.losses._checks import ArgumentError
from ars_jax.losses._objective import REGIONAL_TERMS, VOLUME_TERMS
from tests.losses.cases import SPACE, WHOLE, loss, random_case, random_mask, region_map

pytestmark = pytest.mark.usefixtures("quick")
BOTH = {"baseline": 1.0, "adaptive_region_specific": 1.0}
OTHER: dict[str, Any] = {
    "terms": {"dice": 1.0},
    "spatial_dims": 2,
    "ignore_label": 255,
    "regions": losses.RegionSize(8),
    "levels": 2,
    "absent_classes": "skip",
    "include_background": False,
    "class_weights": (1.0, 2.0),
    "batch_dice": True,
    "reduction": "mean",
    "squared": False,
    "min_penalty": 0.1,
    "penalty_range": 0.8,
    "exponent": 2.0,
    "adaptive_gradient": "through",
    "fp_weight": 0.5,
    "fn_weight": 0.5,
    "gamma": 2.0,
    "sensitivity_weight": 0.1,
    "cross_entropy_weight": 0.5,
    "cross_entropy_reduction": "sum",
    "eps": 1e-5,
    "cross_entropy_class_weights": (1.0, 2.0, 3.0),
    "from_probabilities": True,
    "depth_shards": 2,
}
"""Another value of every field."""


# --- data ------------------------------------------------------------------------------------------------------------


def test_an_objective_is_equal_and_hashed_by_value_and_differs_by_every_field() -> None:
    assert OTHER.keys() == Objective.__dataclass_fields__.keys()
    assert Objective() == Objective() and hash(Objective()) == hash(Objective())
    assert Objective(regions=[2, 3, 4]) == Objective(regions=(2, 3, 4))  # pyright: ignore[reportArgumentType]
    for name, value in OTHER.items():
        one, same = (Objective(**{name: copy.copy(value)}) for _ in range(2))
        assert one == same and hash(one) == hash(same), name
        assert one != Objective(), name


@pytest.mark.parametrize("name", OTHER)
def test_an_objective_cannot_be_changed(name: str) -> None:
    objective = Objective()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(objective, name, OTHER[name])
    assert dataclasses.replace(objective, **{name: OTHER[name]}) == Objective(**{name: OTHER[name]})


def test_the_terms_are_a_copy_of_those_that_were_given() -> None:
    terms = {"dice": 1.0}
    objective = Objective(terms)
    terms["dice"] = 7.0
    assert objective == Objective({"dice": 1.0})


@pytest.mark.parametrize(
    "change",
    [
        lambda terms: terms.__setitem__("dice", 2.0),
        lambda terms: terms.update(dice=2.0),
        lambda terms: terms.pop("dice"),
        lambda terms: terms.clear(),
        lambda terms: terms.setdefault("tversky", 1.0),
        lambda terms: operator.ior(terms, {"dice": 2.0}),
    ],
)
def test_the_terms_cannot_be_changed(change: Any) -> None:
    """A compiled function that has the objective as a static argument would not see it."""
    objective = Objective({"dice": 1.0})
    with pytest.raises(TypeError):
        change(objective.terms)
    assert objective.terms == {"dice": 1.0}


def test_arrays_and_lists_are_kept_as_plain_numbers() -> None:
    made = Objective(class_weights=np.array([1, 2, 3]), regions=np.array([2, 3, 4]))  # pyright: ignore
    assert made == Objective(class_weights=(1.0, 2.0, 3.0), regions=(2, 3, 4))
    assert hash(made) == hash(Objective(class_weights=(1.0, 2.0, 3.0), regions=(2, 3, 4)))
    assert hash(losses.RegionSize([2, 3, 4])) == hash(losses.RegionSize((2, 3, 4)))  # pyright: ignore
    with pytest.raises(ArgumentError, match="RegionMap"):
        Objective(regions=np.ones((2, 4, 4, 4), int))  # pyright: ignore


def test_all_but_the_terms_is_given_by_name() -> None:
    with pytest.raises(TypeError):
        Objective({"dice": 1.0}, 2)  # pyright: ignore


def test_a_traced_weight_is_differentiated_also_where_a_sum_is_warned_of() -> None:
    logits, labels = random_case(7, SPACE)

    def total(weight: Any) -> jax.Array:
        return Objective({"baseline": 1.0, "region_specific": weight}, regions=2, reduction="sum")(logits, labels)[0]

    with pytest.warns(UserWarning):
        slope = jax.grad(total)(1.0)
    np.testing.assert_allclose(slope, loss("region_specific", regions=2)(logits, labels), rtol=2e-6)


def test_class_weights_of_the_cross_entropy_are_its_own() -> None:
    logits, labels = random_case(8, SPACE)
    weights = (1.0, 9.0, 0.5)
    objective = Objective({"cross_entropy": 1.0, "dice": 1.0}, cross_entropy_class_weights=weights)
    _, parts = objective(logits, labels)
    np.testing.assert_allclose(
        parts["cross_entropy"], loss("cross_entropy", class_weights=weights)(logits, labels), rtol=2e-6
    )
    np.testing.assert_allclose(parts["dice"], loss("dice")(logits, labels), rtol=2e-6)


@pytest.mark.parametrize("absent", ["skip", "include", None])
def test_absent_classes_reach_generalised_dice(absent: Any) -> None:
    logits, labels = random_case(9, SPACE)
    labels = np.where(labels == 2, 0, labels)
    found = Objective({"generalized_dice": 1.0}, absent_classes=absent)(logits, labels)[0]
    np.testing.assert_allclose(found, loss("generalized_dice", absent_classes=absent)(logits, labels), rtol=2e-6)


def test_the_docstring_names_every_term() -> None:
    text = Objective.__doc__ or ""
    assert [term for term in (*VOLUME_TERMS, *REGIONAL_TERMS) if f"`{term}`" not in text] == []


def test_an_objective_survives_a_copy_and_a_file() -> None:
    objective = Objective(BOTH, regions=losses.RegionSize((8, 4, 4)), class_weights=(1.0, 2.0))
    assert copy.deepcopy(objective) == pickle.loads(pickle.dumps(objective)) == objective


def test_an_objective_is_a_static_argument_of_jit_that_is_traced_once_per_value() -> None:
    logits, labels = random_case(1, SPACE)
    traces = []

    def total(objective: Objective, logits: Any, labels: Any) -> jax.Array:
        traces.append(objective)
        return objective(logits, labels)[0]

    run = jax.jit(total, static_argnums=0)
    for _ in range(2):
        np.testing.assert_allclose(
            run(Objective(BOTH, regions=2), logits, labels), Objective(BOTH, regions=2)(logits, labels)[0], rtol=2e-6
        )
    assert len(traces) == 1
    others = [Objective({**BOTH, "dice": 1.0}, regions=2), Objective(BOTH, regions=2, penalty_range=0.8)]
    for count, other in enumerate(others, start=2):
        np.testing.assert_allclose(run(other, logits, labels), other(logits, labels)[0], rtol=2e-6)
        assert len(traces) == count


# --- terms -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"cross_entropy_weight": 0.3, "cross_entropy_reduction": "sum", "eps": 1e-5},
        {"squared": False, "include_background": False, "class_weights": (0.5, 2.0), "batch_dice": True},
        {"ignore_label": 2},
    ],
    ids=str,
)
def test_the_baseline_of_an_objective_is_the_baseline(options: dict[str, Any]) -> None:
    logits, labels = random_case(2, SPACE)
    where = random_mask(3, SPACE)
    total, parts = Objective({"baseline": 2.0}, **options)(logits, labels, where)
    np.testing.assert_allclose(total, 2 * loss("baseline", **options)(logits, labels, where=where), rtol=2e-6)
    assert list(parts) == ["dice", "cross_entropy"]


def test_a_baseline_beside_its_own_parts_adds_to_their_weights() -> None:
    logits, labels = random_case(4, SPACE)
    objective = Objective({"cross_entropy": 0.5, "baseline": 2.0, "dice": 0.25}, cross_entropy_weight=0.3)
    assert objective.weights == pytest.approx({"cross_entropy": 0.5 + 2 * 0.3, "dice": 2.25})
    total, parts = objective(logits, labels)
    dice, entropy = (loss(name)(logits, labels) for name in ("dice", "cross_entropy"))
    assert parts.keys() == {"dice", "cross_entropy"}
    np.testing.assert_allclose([parts["dice"], parts["cross_entropy"]], [dice, entropy], rtol=2e-6)
    np.testing.assert_allclose(total, 2.25 * dice + 1.1 * entropy, rtol=2e-6)


@pytest.mark.parametrize(
    ("written", "meant"),
    [("dise", "dice"), ("cross_entorpy", "cross_entropy"), ("adaptive_region", "adaptive_region_specific")],
)
def test_an_unknown_term_is_named_with_the_nearest_known_one(written: str, meant: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        Objective({"baseline": 1.0, written: 1.0})
    assert (caught.value.name, caught.value.found) == ("terms", written)
    assert caught.value.wanted.endswith(f"{meant}?)")
    with pytest.raises(ArgumentError) as caught:
        Objective({"zzz": 1.0})
    assert "?" not in caught.value.wanted and "focal_tversky" in caught.value.wanted


@pytest.mark.parametrize("terms", [{}, "dice", ["dice"], None], ids=repr)
def test_terms_are_at_least_one_weight_by_name(terms: Any) -> None:
    with pytest.raises(ArgumentError) as caught:
        Objective(terms)
    assert (caught.value.name, caught.value.found) == ("terms", terms)


WRONG: list[tuple[str, Any]] = [
    *(("eps", value) for value in (0, -1e-7, float("nan"))),
    *(("gamma", value) for value in (0, -1.0)),
    *(("levels", value) for value in (0, -1)),
    *(
        (name, value)
        for name in ("min_penalty", "penalty_range", "exponent", "fp_weight", "fn_weight", "cross_entropy_weight")
        for value in (-0.1, float("nan"))
    ),
    *(("sensitivity_weight", value) for value in (-0.1, 1.1)),
    *(("spatial_dims", value) for value in (1, 4)),
    *(("regions", value) for value in (0, (2, 0, 2), 2.5, "many", True, losses.RegionSize(-1))),
    *(("levels", value) for value in (1.5, True)),
    *(("ignore_label", value) for value in (1.5, "255")),
    *(
        (name, (1.0, value, 1.0))
        for name in ("class_weights", "cross_entropy_class_weights")
        for value in (-1.0, np.nan)
    ),
    *((name, value) for name in ("eps", "fp_weight") for value in ("a", np.float32(-1), jnp.float32(-1))),
    ("depth_shards", 0),
    *(("reduction", word) for word in ("none", "median", None)),
    *((name, "sometimes") for name in ("absent_classes", "adaptive_gradient", "cross_entropy_reduction")),
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=[f"{name}={value}" for name, value in WRONG])
def test_a_value_that_does_not_fit_is_refused_by_name_when_the_objective_is_made(name: str, value: Any) -> None:
    with pytest.raises(ArgumentError) as caught:
        Objective(**{name: value})
    assert caught.value.name == name
    value = getattr(value, "voxels", value)
    assert caught.value.found in (value, repr(value)) or str(value) in ("nan", "(1.0, nan, 1.0)")


@pytest.mark.parametrize("pair", [("min_penalty", "penalty_range"), ("fp_weight", "fn_weight")], ids=str)
def test_penalties_may_not_both_be_0(pair: tuple[str, str]) -> None:
    """The loss would be 0 for every prediction with a hit."""
    for name in pair:
        Objective(**{name: 0})  # pyright: ignore[reportArgumentType]
    with pytest.raises(ArgumentError) as caught:
        Objective(**dict.fromkeys(pair, 0))  # pyright: ignore[reportArgumentType]
    assert caught.value.name == ", ".join(pair)


@pytest.mark.parametrize("weight", [-1, float("inf"), float("nan")], ids=str)
def test_a_weight_is_a_finite_number_of_at_least_0(weight: float) -> None:
    with pytest.raises(ArgumentError) as caught:
        Objective({"dice": 1, "tversky": weight})
    assert caught.value.name == "terms.tversky"


# --- a sum beside a mean ---------------------------------------------------------------------------------------------

UNEQUAL: dict[str, tuple[dict[str, float], dict[str, Any]]] = {
    "baseline": (BOTH, {}),
    "cross-entropy": ({"cross_entropy": 0.1, "region_specific": 1}, {}),
    "both regional terms, one without weight": ({"region_specific": 0, **BOTH}, {}),
}
EQUAL: dict[str, tuple[dict[str, float], dict[str, Any]]] = {
    "class_mean": (BOTH, {"reduction": "class_mean"}),
    "mean": (BOTH, {"reduction": "mean"}),
    "sums of both": (BOTH, {"cross_entropy_reduction": "sum"}),
    "no weight of the baseline": ({**BOTH, "baseline": 0}, {}),
    "no weight of the regional term": ({**BOTH, "adaptive_region_specific": 0}, {}),
    "no weight of the cross-entropy": ({"cross_entropy": 0, "region_specific": 1}, {}),
    "no weight of the cross-entropy in the baseline": (BOTH, {"cross_entropy_weight": 0}),
    "no cross-entropy": ({"dice": 1, "region_specific": 1}, {}),
    "no regional term": ({"baseline": 1, "tversky": 1}, {}),
}


@pytest.mark.parametrize(("terms", "options"), UNEQUAL.values(), ids=UNEQUAL.keys())
def test_a_regional_sum_beside_a_mean_cross_entropy_is_warned_of_where_it_is_written(
    terms: dict[str, float], options: dict[str, Any]
) -> None:
    with pytest.warns(UserWarning, match="class_mean") as caught:
        objective = Objective(terms, reduction="sum", **options)
    assert objective.sums_beside_mean
    assert [each.filename for each in caught] == [__file__]


@pytest.mark.parametrize(("terms", "options"), EQUAL.values(), ids=EQUAL.keys())
def test_nothing_else_is_warned_of(terms: dict[str, float], options: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objective = Objective(terms, **{"reduction": "sum", **options})
    assert not objective.sums_beside_mean


# --- regions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("regions", [2, (2, 3, 1), losses.RegionSize(3)], ids=str)
def test_regions_of_the_call_replace_those_of_the_objective(regions: Any) -> None:
    logits, labels = random_case(5, SPACE)
    terms = {"baseline": 1.0, "region_specific": 1.0, "adaptive_region_specific": 0.5}
    own = Objective(terms, regions=1)
    found, wanted = own(logits, labels, None, regions), Objective(terms, regions=regions)(logits, labels)
    assert found == wanted
    assert found != own(logits, labels)
    assert found == Objective(terms, regions=99)(logits, labels, regions=regions)


def test_terms_of_the_whole_volume_count_voxels_of_no_region() -> None:
    logits, labels = random_case(6, SPACE)
    where = random_mask(7, SPACE)
    ids = np.random.default_rng(8).integers(-2, 6, labels.shape)
    regions = region_map(ids, 4)
    assert ((ids < 0) | (ids >= 4)).mean() > 0.3
    terms = {**dict.fromkeys((*WHOLE, "cross_entropy"), 1.0), "region_specific": 1.0, "adaptive_region_specific": 1.0}
    _, parts = Objective(terms, regions=2, adaptive_gradient="through")(logits, labels, where, regions)
    for name, part in parts.items():
        options = {"regions": regions, "reduction": "class_mean"} if "region_specific" in name else {}
        wanted = loss(name, **options)(logits, labels, where=where)
        np.testing.assert_allclose(part, wanted, rtol=2e-6, err_msg=name)
    inside = where & (ids >= 0) & (ids < 4)
    assert parts["dice"] != pytest.approx(float(loss("dice")(logits, labels, where=inside)), rel=1e-3)


def test_regions_are_no_matter_to_an_objective_of_the_whole_volume() -> None:
    logits, labels = random_case(9, SPACE)
    objective = Objective({"baseline": 1.0}, regions=99)
    assert objective(logits, labels) == Objective({"baseline": 1.0})(logits, labels)
