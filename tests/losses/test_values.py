"""Every loss and statistic against its equation in float64 loops."""

from typing import Any

import numpy as np
import pytest

from ars_jax import losses
from tests.losses.cases import SPACE, loss, random_case, random_mask, statistics
from tests.oracles import losses as oracle

pytestmark = pytest.mark.usefixtures("quick")
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("dice", {}),
    ("dice", {"absent_classes": "skip", "reduction": "mean"}),
    ("dice", {"reduction": "class_mean", "eps": 1e-2}),
    ("cross_entropy", {}),
    ("cross_entropy", {"reduction": "sum"}),
    ("baseline", {}),
    ("baseline", {"cross_entropy_weight": 0.3, "cross_entropy_reduction": "sum", "eps": 1e-5}),
    ("tversky", {}),
    ("tversky", {"fp_weight": 0.8, "fn_weight": 0.1, "absent_classes": "skip", "reduction": "mean"}),
    ("region_specific", {"regions": 2}),
    ("region_specific", {"regions": 3, "absent_classes": "include", "reduction": "mean"}),
    ("region_specific", {"regions": 3, "reduction": "class_mean"}),
    ("region_specific", {"regions": losses.RegionSize(3), "reduction": "mean"}),
    ("adaptive_region_specific", {"regions": 2}),
    ("adaptive_region_specific", {"regions": 3, "absent_classes": "include"}),
    ("adaptive_region_specific", {"regions": 2, "reduction": "mean", "min_penalty": 0.1, "penalty_range": 0.8}),
    ("adaptive_region_specific", {"regions": 3, "reduction": "class_mean", "adaptive_gradient": "stop"}),
    (
        "adaptive_region_specific",
        {"regions": losses.RegionSize(3), "absent_classes": "include", "reduction": "class_mean", "eps": 1e-3},
    ),
]
STATISTICS = [
    "true_positives",
    "predicted",
    "reference",
    "squared_predicted",
    "squared_true_positives",
    "false_positives",
    "false_negatives",
    "voxels",
    "log_loss",
]


def expected(name: str, logits: np.ndarray, labels: np.ndarray, **options: Any) -> float:
    options.pop("adaptive_gradient", None)
    return getattr(oracle, name)(logits, labels, **options)


def named(case: tuple[str, dict[str, Any]]) -> str:
    return "-".join([case[0], *(f"{key}={value}" for key, value in case[1].items())])


@pytest.mark.parametrize("case", OPTIONS, ids=named)
def test_value_is_the_equation(case: tuple[str, dict[str, Any]]) -> None:
    name, options = case
    logits, labels = random_case(1, SPACE)
    np.testing.assert_allclose(
        loss(name, **options)(logits, labels), expected(name, logits, labels, **options), rtol=1e-5
    )


@pytest.mark.parametrize("case", OPTIONS, ids=named)
def test_value_is_the_equation_for_soft_labels_and_masked_voxels(case: tuple[str, dict[str, Any]]) -> None:
    name, options = case
    logits, labels = random_case(2, SPACE, soft=True)
    where = random_mask(3, SPACE)
    value = loss(name, **options)(logits, labels, where=where)
    np.testing.assert_allclose(value, expected(name, logits, labels, where=where, **options), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "options"), [("baseline", {}), ("adaptive_region_specific", {"regions": losses.RegionSize((2, 5))})]
)
def test_a_slice_has_the_loss_of_its_equation(name: str, options: dict[str, Any]) -> None:
    logits, labels = random_case(4, (9, 14))
    np.testing.assert_allclose(
        loss(name, spatial_dims=2, **options)(logits, labels), expected(name, logits, labels, **options), rtol=1e-5
    )


@pytest.mark.parametrize("name", ["region_specific", "adaptive_region_specific"])
def test_there_are_16_regions_per_axis_unless_said_otherwise(name: str) -> None:
    logits, labels = random_case(4, (16, 16, 16))
    np.testing.assert_allclose(loss(name)(logits, labels), expected(name, logits, labels), rtol=1e-5)


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize(
    ("space", "regions"),
    [
        ((9, 14), {"regions": (4, 3)}),
        (SPACE, {"regions": 2}),
        (SPACE, {"regions": 3}),
        (SPACE, {"regions": losses.RegionSize(3)}),
    ],
    ids=["2-D", "dividing", "not dividing", "region size"],
)
def test_statistics_are_the_sums_over_each_region(space: tuple[int, ...], regions: dict[str, Any], soft: bool) -> None:
    logits, labels = random_case(6, space, soft=soft)
    where = random_mask(7, space)
    found = statistics(logits, labels, where=where, spatial_dims=len(space), **regions)
    wanted = oracle.statistics(logits, labels, where=where, **regions)
    for name in STATISTICS:
        value = getattr(found, name)
        assert value.dtype == np.float32, name
        assert value.shape == wanted[name].shape, name
        np.testing.assert_allclose(value, wanted[name], rtol=1e-5, atol=1e-5, err_msg=name)


def test_statistics_of_probabilities_are_those_of_their_logits() -> None:
    logits, labels = random_case(8, SPACE)
    probabilities = oracle.softmax(logits).astype(np.float32)
    found = statistics(probabilities, labels, regions=2, from_probabilities=True)
    wanted = oracle.statistics(logits, labels, regions=2)
    for name in STATISTICS:
        np.testing.assert_allclose(getattr(found, name), wanted[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("dtype", [np.uint8, np.bool_])
def test_narrow_and_boolean_labels_give_the_same(dtype: type) -> None:
    logits, labels = random_case(9, (6, 8), classes=2)
    run = loss("adaptive_region_specific", spatial_dims=2, regions=2)
    assert run(logits, labels.astype(dtype)) == run(logits, labels)


def test_one_hot_labels_give_the_same_as_their_label_map() -> None:
    logits, labels = random_case(10, SPACE)
    one_hot = oracle.references(labels, 3, 5).astype(np.float32)
    for name, options in [
        ("adaptive_region_specific", {"regions": 2}),
        ("baseline", {}),
        ("region_specific", {"regions": 2}),
    ]:
        run = loss(name, **options)
        np.testing.assert_allclose(run(logits, one_hot), run(logits, labels), rtol=2e-6)


def test_every_loss_is_a_float32_scalar() -> None:
    logits, labels = random_case(1, SPACE)
    for name, options in OPTIONS:
        value = loss(name, **options)(logits, labels)
        assert value.shape == () and value.dtype == np.float32, name
