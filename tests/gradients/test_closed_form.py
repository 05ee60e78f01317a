"""The closed forms against automatic differentiation, against differences of plain loops, and what they say."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.typing import ArrayLike

from ars_jax import losses
from ars_jax.gradients import closed_form
from ars_jax.losses._checks import ArgumentError
from tests.losses.cases import SPACE, public_losses, random_case, random_mask
from tests.oracles import losses as oracle
from tests.oracles import partitions

pytestmark = pytest.mark.usefixtures("quick")
REGIONAL = ("region_specific", "adaptive_region_specific")
PAIR = 1152
"""Voxels of the region of a single pair."""
IDS = np.random.default_rng(0).choice([*range(6), -1, 6, 1000], (2, *SPACE)).astype(np.int32)
MAP = {"regions": losses.RegionMap(jnp.asarray(IDS), 6)}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("dice", {}),
    ("dice", {"squared": False, "absent_classes": "skip", "reduction": "mean", "include_background": False}),
    ("dice", {"regions": 3, "batch_dice": True, "reduction": "class_mean", "class_weights": [0.5, 2.0, 1.0]}),
    ("tversky", {}),
    ("tversky", {"fp_weight": 0.8, "fn_weight": 0.1, "regions": 3, "absent_classes": "include", "eps": 1e-2}),
    ("focal_tversky", {}),
    ("focal_tversky", {"gamma": 2.0, "regions": 2, "levels": 2, "fp_weight": 0.5, "fn_weight": 0.5}),
    ("generalized_dice", {}),
    (
        "generalized_dice",
        {"absent_classes": "include", "regions": 3, "class_weights": [1.0, 3.0], "include_background": False},
    ),
    ("generalized_dice", {**MAP, "reduction": "mean", "batch_dice": True, "eps": 1e-2}),
    ("sensitivity_specificity", {}),
    ("sensitivity_specificity", {"sensitivity_weight": 0.4, "regions": 3, "reduction": "mean"}),
    ("cross_entropy", {}),
    ("cross_entropy", {"reduction": "sum", "class_weights": [0.5, 2.0, 1.0]}),
    ("cross_entropy", {"batch_dice": True, "class_weights": [0.5, 2.0, 1.0]}),
    ("baseline", {}),
    ("baseline", {"cross_entropy_weight": 0.3, "cross_entropy_reduction": "sum", "eps": 1e-5}),
    ("region_specific", {"regions": 2, "levels": 2, "reduction": "mean"}),
    (
        "region_specific",
        {"regions": losses.RegionSize(4), "absent_classes": "include", "reduction": "class_mean", "squared": False},
    ),
    ("region_specific", {**MAP, "levels": 2, "class_weights": [0.5, 2.0, 1.0]}),
    ("adaptive_region_specific", {"regions": 2}),
    ("adaptive_region_specific", {"regions": 2, "adaptive_gradient": "stop"}),
    (
        "adaptive_region_specific",
        {
            "regions": 3,
            "min_penalty": 0.1,
            "penalty_range": 0.8,
            "exponent": 2.5,
            "absent_classes": "include",
            "eps": 1e-2,
        },
    ),
    ("adaptive_region_specific", {"regions": 3, "adaptive_gradient": "stop", "reduction": "mean", "eps": 1e-2}),
    ("adaptive_region_specific", {**MAP, "exponent": 0.5, "include_background": False, "reduction": "class_mean"}),
    ("adaptive_region_specific", {"regions": 2, "levels": 2, "adaptive_gradient": "stop", "batch_dice": True}),
]


def named(case: tuple[str, dict[str, Any]]) -> str:
    options = ("map" if isinstance(value, losses.RegionMap) else f"{key}={value}" for key, value in case[1].items())
    return "-".join([case[0], *options])


every_case = pytest.mark.parametrize("case", CASES, ids=named)
hard_or_soft = pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft and masked"])


def arrays(soft: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Float64 logits, labels, and the mask that soft labels come with."""
    logits, labels = random_case(1, SPACE, soft=soft)
    return logits.astype(np.float64), labels, random_mask(2, SPACE) if soft else None


def autodiff(name: str, *inputs: Any, **options: Any) -> tuple[float, np.ndarray]:
    """The package's own loss, differentiated in float64."""
    with jax.enable_x64(True):
        value, slopes = jax.value_and_grad(getattr(losses, name))(*inputs, **options)
        return float(value), np.asarray(slopes)


def assert_same_gradient(found: np.ndarray, wanted: np.ndarray, tolerance: float = 1e-9) -> None:
    """To a relative tolerance, but for the rounding of the largest slopes."""
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=1e-3 * tolerance * np.abs(wanted).max())


# --- that they are right ---------------------------------------------------------------------------------------------


def test_every_public_loss_has_a_closed_form_that_is_tested() -> None:
    assert set(closed_form.NAMES) == public_losses(losses) == {name for name, _ in CASES}


@hard_or_soft
@every_case
def test_closed_form_is_the_gradient_of_autodiff(case: tuple[str, dict[str, Any]], soft: bool) -> None:
    name, options = case
    logits, labels, where = arrays(soft)
    value, slopes = closed_form.value_and_gradient(name, logits, labels, where=where, **options)
    wanted_value, wanted = autodiff(name, logits, labels, where=where, **options)
    np.testing.assert_allclose(value, wanted_value, rtol=1e-12)
    assert_same_gradient(slopes, wanted)


def loops(name: str, x: np.ndarray, /, labels: np.ndarray, **options: Any) -> float:
    """The value by plain loops over the voxels of every region."""
    if name in ("cross_entropy", "baseline"):
        return getattr(oracle, name)(x, labels, **options)
    return partitions.value(name, x, labels, levels=divisions(options), **options)


def divisions(options: dict[str, Any]) -> list[list[np.ndarray]] | None:
    """Takes the division out of a loss's options, and returns its levels as masks."""
    regions, halvings = options.pop("regions", None), range(options.pop("levels", 1))
    if isinstance(regions, losses.RegionMap):
        return [partitions.ids(IDS >> i, regions.count >> i) for i in halvings]
    if isinstance(regions, losses.RegionSize):
        assert isinstance(regions.voxels, int)
        return [partitions.grid((2, *SPACE), *(-(-side // regions.voxels) for side in SPACE))]
    return None if regions is None else [partitions.grid((2, *SPACE), *[regions >> i] * 3) for i in halvings]


def assert_slopes_along_directions(value: Callable[[np.ndarray], float], x: np.ndarray, slopes: np.ndarray) -> None:
    """Central differences along directions that change every entry in proportion to its size."""
    for direction in np.random.default_rng(3).normal(size=(3, *x.shape)) * np.abs(x):
        difference = (value(x + 1e-5 * direction) - value(x - 1e-5 * direction)) / 2e-5
        np.testing.assert_allclose((slopes * direction).sum(), difference, rtol=1e-6)


@hard_or_soft
@pytest.mark.parametrize("case", [case for case in CASES if case[1].get("adaptive_gradient") != "stop"], ids=named)
def test_closed_form_is_the_slope_of_plain_loops(case: tuple[str, dict[str, Any]], soft: bool) -> None:
    name, options = case
    logits, labels, where = arrays(soft)
    points: dict[closed_form.By, np.ndarray] = {"logits": logits, "probabilities": oracle.softmax(logits)}
    for by, x in points.items():
        given = {"where": where, "from_probabilities": by == "probabilities", **options}
        value = partial(loops, name, labels=labels, **given)

        found, slopes = closed_form.value_and_gradient(name, logits, labels, by=by, where=where, **options)
        np.testing.assert_allclose(found, value(x), rtol=1e-12)
        assert_slopes_along_directions(value, x, slopes)


@hard_or_soft
@pytest.mark.parametrize(
    "options", [{"regions": 2}, {"regions": 3, "reduction": "mean", "absent_classes": "include", "eps": 1e-2}]
)
def test_closed_form_with_stopped_penalties_is_the_slope_with_frozen_ones(options: dict[str, Any], soft: bool) -> None:
    logits, labels, where = arrays(soft)
    value, slopes = closed_form.value_and_gradient(
        "adaptive_region_specific", logits, labels, where=where, adaptive_gradient="stop", **options
    )

    def frozen(x: np.ndarray) -> float:
        return oracle.adaptive_region_specific(x, labels, where=where, frozen=logits, **options)

    np.testing.assert_allclose(value, frozen(logits), rtol=1e-12)
    assert_slopes_along_directions(frozen, logits, slopes)


@pytest.mark.parametrize(
    ("division", "counts"),
    [({"regions": (4, 3)}, (4, 3)), ({"regions": losses.RegionSize((2, 5))}, (5, 3))],
    ids=["grid", "size"],
)
def test_regions_may_differ_per_axis_and_volumes_be_images(division: dict[str, Any], counts: tuple[int, ...]) -> None:
    logits, labels = random_case(5, (9, 14))
    levels = [partitions.grid((2, 9, 14), *counts)]
    name = "adaptive_region_specific"
    value, slopes = closed_form.value_and_gradient(name, logits, labels, spatial_dims=2, **division)
    np.testing.assert_allclose(value, partitions.value(name, logits, labels, levels=levels), rtol=1e-12)
    assert_slopes_along_directions(
        lambda x: partitions.value(name, x, labels, levels=levels), logits.astype(np.float64), slopes
    )


def test_probabilities_may_be_given_in_the_place_of_logits() -> None:
    logits, labels, _ = arrays(soft=False)
    for name in closed_form.NAMES:
        options: dict[str, Any] = {"regions": 2} if name in REGIONAL else {}
        wanted = closed_form.value_and_gradient(name, logits, labels, by="probabilities", **options)
        found = closed_form.value_and_gradient(
            name, oracle.softmax(logits), labels, by="probabilities", from_probabilities=True, **options
        )
        np.testing.assert_allclose(found[0], wanted[0], rtol=1e-12)
        assert_same_gradient(found[1], wanted[1], 1e-10)


def test_focal_loss_below_its_chord_is_the_tversky_loss_times_a_constant() -> None:
    _, labels, _ = arrays(soft=False)
    logits = np.where(oracle.references(labels, 3, 5) > 0, 8.0, -8.0)
    value, slopes = closed_form.value_and_gradient("focal_tversky", logits, labels)
    straight = closed_form.value_and_gradient("tversky", logits, labels)
    np.testing.assert_allclose(value, straight[0] * 1e-6**-0.25, rtol=1e-12)
    assert_same_gradient(slopes, straight[1] * 1e-6**-0.25)
    assert_same_gradient(slopes, autodiff("focal_tversky", logits, labels)[1])


# --- at the edges ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", closed_form.NAMES)
def test_a_voxel_that_does_not_count_has_no_gradient_whatever_its_logits(name: str) -> None:
    logits, labels, where = arrays(soft=True)
    assert where is not None
    options: dict[str, Any] = {"regions": 2} if name in REGIONAL else {}
    wanted = closed_form.value_and_gradient(name, logits, labels, where=where, **options)
    logits = np.where(where[..., None], logits, np.nan)
    value, slopes = closed_form.value_and_gradient(name, logits, labels, where=where, **options)
    assert value == wanted[0]
    np.testing.assert_array_equal(slopes, wanted[1])
    np.testing.assert_array_equal(slopes[~where], 0)


@pytest.mark.parametrize("name", closed_form.NAMES)
def test_extreme_logits_have_a_finite_gradient(name: str) -> None:
    """A probability that underflows still pulls: the cross-entropy's slope by a logit is (p - g) / N."""
    logits, labels, _ = arrays(soft=False)
    options: dict[str, Any] = {"regions": 2} if name in REGIONAL else {}
    extreme = 1e4 * np.sign(logits)
    value, slopes = closed_form.value_and_gradient(name, extreme, labels, **options)
    assert np.isfinite(value) and np.isfinite(slopes).all()
    if name == "cross_entropy":
        wanted = (oracle.softmax(extreme) - oracle.references(labels, 3, 5)) / logits.size * 3
        np.testing.assert_allclose(slopes, wanted, atol=1e-18)


REFUSED = {
    "more regions than voxels": ("dice", {"regions": 9}),
    "the paper's 16 regions along 8 voxels": ("adaptive_region_specific", {}),
    "odd grid halved": ("dice", {"regions": 3, "levels": 2}),
    "no level": ("dice", {"levels": 0}),
    "absent": ("dice", {"absent_classes": "drop"}),
    "absent of generalised Dice": ("generalized_dice", {"absent_classes": "drop"}),
    "reduction": ("dice", {"reduction": "median"}),
    "reduction of the cross-entropy": ("cross_entropy", {"reduction": "class_mean"}),
    "reduction of the baseline": ("baseline", {"cross_entropy_reduction": "median"}),
    "mode": ("adaptive_region_specific", {"regions": 2, "adaptive_gradient": "detach"}),
    "class weights": ("dice", {"class_weights": [1.0, 2.0]}),
    "class weights of generalised Dice": ("generalized_dice", {"class_weights": [1.0]}),
    "mask of weights": ("dice", {"where": np.full((2, *SPACE), 0.5)}),
    "mask of another shape": ("dice", {"where": np.ones((2, 8, 6), bool)}),
}


@pytest.mark.parametrize(("name", "options"), REFUSED.values(), ids=REFUSED.keys())
def test_options_that_the_loss_refuses_are_refused(name: str, options: dict[str, Any]) -> None:
    logits, labels, _ = arrays(soft=False)
    for refuse in (getattr(losses, name), partial(closed_form.value_and_gradient, name)):
        with pytest.raises(ValueError, match=r"must|cannot|divide|asks"):
            refuse(logits, labels, **options)


def test_names_and_arrays_that_do_not_fit_are_refused() -> None:
    logits, labels, _ = arrays(soft=False)
    run = closed_form.value_and_gradient
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("dice", {"gamma": 1}),
        ("baseline", {"regions": 2}),
        ("cross_entropy", {"eps": 1}),
    ]
    for name, options in wrong:
        with pytest.raises(TypeError, match=next(iter(options))):
            run(name, logits, labels, **options)
    with pytest.raises(ValueError, match="lovasz"):
        run("lovasz", logits, labels)
    with pytest.raises(ValueError, match="by="):
        run("dice", logits, labels, from_probabilities=True)
    misfits: dict[str, tuple[np.ndarray, np.ndarray, dict[str, Any]]] = {
        "labels.dtype": (logits, labels.astype(float), {}),
        "labels.shape": (logits, labels[:1], {}),
        "logits.shape": (logits[0, 0], labels[0, 0], {}),
        "regions": (logits, labels, {"regions": losses.RegionMap(jnp.zeros((2, 8, 6), int), 2)}),
        "reduction": (logits, labels, {"reduction": "none"}),
    }
    for argument, (x, y, options) in misfits.items():
        with pytest.raises(ArgumentError) as caught:
            run("dice", x, y, **options)
        assert caught.value.name == argument
    with pytest.raises(ArgumentError) as caught:
        run("dice", logits[..., :1], labels)
    assert caught.value.name == "logits.shape"


# --- what they say ---------------------------------------------------------------------------------------------------


def one_class(p: ArrayLike, g: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and references [1, n, 1, 2] of a pair of region and class, beside a background without either."""
    p, g = (np.stack([np.zeros(np.shape(x)), np.asarray(x, np.float64)], -1)[None, :, None] for x in (p, g))
    return p, g


def by_probability(name: str, p: ArrayLike, g: ArrayLike, **options: Any) -> tuple[float, np.ndarray]:
    """Value and slopes [n] of a single pair: the closed form, once autodiff has agreed."""
    x, y = one_class(p, g)
    options = {"spatial_dims": 2, "include_background": False, **options}
    wanted_value, wanted = autodiff(name, x, y, from_probabilities=True, **options)
    value, slopes = closed_form.value_and_gradient(name, x, y, by="probabilities", from_probabilities=True, **options)
    np.testing.assert_allclose(value, wanted_value, rtol=1e-12)
    assert_same_gradient(slopes, wanted)
    return value, slopes[..., 1].ravel()


def test_equation_3_of_the_paper_has_the_wrong_sign() -> None:
    """It is the gradient of the Dice coefficient, so descending by it would make the overlap worse."""
    rng = np.random.default_rng(4)
    p, g = rng.random(PAIR), (rng.random(PAIR) < 0.4).astype(np.float64)
    size = (p**2).sum() + (g**2).sum()
    equation_3 = 2 * (g * size - 2 * p * (p * g).sum()) / size**2
    _, slopes = by_probability("dice", p, g, eps=1e-15)
    np.testing.assert_allclose(slopes, -equation_3, rtol=1e-9)
    assert (slopes[g > 0] < 0).all() and (equation_3[g > 0] > 0).all()


FLIP = np.sqrt((1 + 0.3 / 0.4) / 2)  # 0.935
MODES = ("through", "stop")


@pytest.mark.parametrize(("share", "rewarded"), [(FLIP - 1e-3, False), (FLIP + 1e-3, True), (0.5, False)])
def test_false_positives_are_rewarded_above_a_share_of_false_negatives_unless_the_penalties_are_stopped(
    share: float, rewarded: bool
) -> None:
    g = np.arange(PAIR) < PAIR // 2
    fn = 0.9 * g.sum()
    p = np.where(g, 0.1, fn * (1 / share - 1) / (~g).sum())
    slopes = {
        mode: by_probability("adaptive_region_specific", p, g, regions=1, adaptive_gradient=mode)[1] for mode in MODES
    }
    assert (slopes["through"][~g] < 0).all() == rewarded
    assert (slopes["stop"][~g] > 0).all()


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.7])
def test_effective_weights_are_the_slopes_of_the_denominator(exponent: float) -> None:
    fp, fn = np.meshgrid(np.linspace(0.1, 8, 7), np.linspace(0.2, 5, 6))
    n, eps = exponent, 0.3
    how = {"min_penalty": 0.2, "penalty_range": 0.7, "exponent": n, "eps": eps}

    def penalties(fp: np.ndarray, fn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        size = fp + fn + eps
        return 0.2 + 0.7 * ((fp + eps) / size) ** n, 0.2 + 0.7 * ((fn + eps) / size) ** n

    def errors(fp: np.ndarray, fn: np.ndarray) -> np.ndarray:
        alpha, beta = penalties(fp, fn)
        return alpha * fp + beta * fn

    h = 1e-5
    through = closed_form.effective_weights(fp, fn, adaptive_gradient="through", **how)
    np.testing.assert_allclose(through[0], (errors(fp + h, fn) - errors(fp - h, fn)) / (2 * h), rtol=1e-8)
    np.testing.assert_allclose(through[1], (errors(fp, fn + h) - errors(fp, fn - h)) / (2 * h), rtol=1e-8)
    stopped = closed_form.effective_weights(fp, fn, adaptive_gradient="stop", **how)
    np.testing.assert_allclose(stopped, penalties(fp, fn), rtol=1e-12)


def test_effective_weights_without_eps_depend_on_the_share_of_false_negatives_alone() -> None:
    s = np.linspace(0, 1, 101)
    assert np.isnan(closed_form.effective_weights(0, 0)).all()
    for size in (1e-3, 1.0, 1e5):
        by_fp, by_fn = closed_form.effective_weights(size * (1 - s), size * s)
        np.testing.assert_allclose(by_fp, 0.3 + 0.4 * (1 - 2 * s**2), atol=1e-12)
        np.testing.assert_allclose(by_fn, 0.3 + 0.4 * (1 - 2 * (1 - s) ** 2), atol=1e-12)
        np.testing.assert_array_equal(by_fp < 0, s > FLIP)
        stopped = closed_form.effective_weights(size * (1 - s), size * s, adaptive_gradient="stop")
        np.testing.assert_allclose(stopped, (0.3 + 0.4 * (1 - s), 0.3 + 0.4 * s), atol=1e-12)


def test_a_counted_absent_class_has_a_spike_of_gradient_near_zero_and_a_skipped_one_none() -> None:
    """The gradient of eps / (P2 + eps): the better the region, the steeper, until p is far below sqrt(eps / n)."""
    for p, steepness, value in [(1e-2, 1.5e-7, 1.0), (5e-6, 60.3, 0.224)]:
        found, slopes = by_probability("dice", np.full(PAIR, p), np.zeros(PAIR), absent_classes="include")
        np.testing.assert_allclose(slopes, steepness, rtol=1e-2)
        np.testing.assert_allclose(found, value, rtol=5e-3)
        found, slopes = by_probability("dice", np.full(PAIR, p), np.zeros(PAIR), absent_classes="skip")
        assert found == 0 and not slopes.any()
