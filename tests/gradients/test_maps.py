"""Maps against plain loops, slopes and curvature against finite differences, the phase diagram against Eq. 6."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ars_jax import losses
from ars_jax.gradients import closed_form
from ars_jax.gradients.maps import (
    critical_share,
    gradient_maps,
    gradient_norm,
    hessian_vector_product,
    phase_diagram,
    region_maps,
    trained_regions,
    voxels_of_regions,
)
from ars_jax.losses._checks import ArgumentError
from ars_jax.losses._objective import AdaptiveGradient
from tests.losses.cases import SPACE, random_case, random_mask
from tests.oracles import losses as oracle

pytestmark = pytest.mark.usefixtures("quick")
A, B, EPS = 0.3, 0.4, 1e-7
GRID = (2, 3, 2)
MODES = ("through", "stop")


def denominator(fp: np.ndarray, fn: np.ndarray, held: tuple[np.ndarray, np.ndarray] | None = None) -> np.ndarray:
    """The sum alpha FP + beta FN of Eq. 6, with penalties that follow the errors or are those of other errors."""
    by_fp, by_fn = held or (fp, fn)
    alpha, beta = ((error + EPS) / (by_fp + by_fn + EPS) for error in (by_fp, by_fn))
    return (A + B * alpha) * fp + (A + B * beta) * fn


@pytest.mark.parametrize("grid", [2, (2, 3, 2)], ids=["divides", "does not divide"])
def test_the_maps_are_those_of_plain_loops(grid: int | tuple[int, ...]) -> None:
    logits, labels = random_case(0, SPACE)
    where = random_mask(0, SPACE)
    maps = region_maps(logits, labels, regions=grid, where=where)
    s = oracle.statistics(logits, labels, regions=grid, where=where)
    fp, fn = s["false_positives"], s["false_negatives"]
    expected = {
        "false_positives": fp,
        "false_negatives": fn,
        "alpha": A + B * (fp + EPS) / (fp + fn + EPS),
        "beta": A + B * (fn + EPS) / (fp + fn + EPS),
        "loss": 1 - (s["true_positives"] + EPS) / (s["true_positives"] + denominator(fp, fn) + EPS),
        "present": s["reference"] > 0,
        "negatives": s["voxels"] - s["reference"],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(maps.arrays()[name], values, rtol=2e-5, atol=1e-6, err_msg=name)
    assert not maps.present.all()


def test_the_maps_add_up_to_the_loss() -> None:
    """The sum over present pairs is the adaptive region-specific loss of the mean sample."""
    logits, labels = random_case(1, SPACE)
    maps = region_maps(logits, labels, regions=2)
    value = losses.adaptive_region_specific(jnp.asarray(logits), jnp.asarray(labels), regions=2)
    assert float(maps.loss[maps.present].sum()) / len(logits) == pytest.approx(float(value), rel=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_slopes_are_the_derivatives_of_the_denominator(mode: AdaptiveGradient) -> None:
    """By central differences; with stopped penalties of the denominator whose penalties stay."""
    maps = region_maps(*random_case(2, SPACE), regions=GRID, adaptive_gradient=mode)
    fp, fn = (np.asarray(part, np.float64) for part in (maps.false_positives, maps.false_negatives))
    held = (fp, fn) if mode == "stop" else None
    step = 1e-5
    by_fp = (denominator(fp + step, fn, held) - denominator(fp - step, fn, held)) / (2 * step)
    by_fn = (denominator(fp, fn + step, held) - denominator(fp, fn - step, held)) / (2 * step)
    large = np.minimum(fp, fn) > 1e-2
    assert large.sum() > 20
    np.testing.assert_allclose(maps.effective_fp_weight[large], by_fp[large], atol=1e-4)
    np.testing.assert_allclose(maps.effective_fn_weight[large], by_fn[large], atol=1e-4)


IDS = np.random.default_rng(4).integers(-1, 6, (2, *SPACE)).astype(np.int32)
DIVISIONS: dict[str, Any] = {
    "grid": GRID,
    "size": losses.RegionSize((3, 4, 2)),
    "map": losses.RegionMap(jnp.asarray(IDS), 5),
    "whole": None,
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("regions", DIVISIONS.values(), ids=DIVISIONS.keys())
def test_maps_are_the_same_under_jit(regions: Any, mode: AdaptiveGradient) -> None:
    """A map of regions is an argument of the compiled function; a grid or a size is a constant of it."""
    logits, labels = random_case(4, SPACE)
    where = random_mask(5, SPACE)
    how: dict[str, Any] = {"adaptive_gradient": mode, "exponent": 1.5, "eps": 1e-3}
    wanted = region_maps(logits, labels, where=where, regions=regions, **how).arrays()
    if isinstance(regions, losses.RegionMap):
        found = jax.jit(lambda z, y, w, m: region_maps(z, y, where=w, regions=m, **how))(logits, labels, where, regions)
    else:
        found = jax.jit(lambda z, y, w: region_maps(z, y, where=w, regions=regions, **how))(logits, labels, where)
    assert found.arrays().keys() == wanted.keys()
    for name, values in found.arrays().items():
        assert values.dtype == (bool if name == "present" else np.float32), name
        assert values.shape == wanted[name].shape
        np.testing.assert_allclose(values, wanted[name], rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("exponent", [1.0, 2.0])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("regions", DIVISIONS.values(), ids=DIVISIONS.keys())
def test_effective_weights_are_those_of_the_closed_form(regions: Any, mode: AdaptiveGradient, exponent: float) -> None:
    """The package differentiates the denominator in float32; the closed form has the slopes written out in float64."""
    how: dict[str, Any] = {"min_penalty": 0.2, "penalty_range": 0.7, "exponent": exponent, "adaptive_gradient": mode}
    maps = region_maps(*random_case(6, SPACE), regions=regions, eps=1e-7, **how)
    fp, fn = np.asarray(maps.false_positives, np.float64), np.asarray(maps.false_negatives, np.float64)
    by_fp, by_fn = closed_form.effective_weights(fp, fn, eps=1e-7, **how)
    np.testing.assert_allclose(maps.effective_fp_weight, by_fp, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(maps.effective_fn_weight, by_fn, rtol=1e-5, atol=1e-5)
    assert isinstance(maps.alpha, jax.Array)
    stopped = closed_form.effective_weights(fp, fn, eps=1e-7, **{**how, "adaptive_gradient": "stop"})
    assert np.allclose(by_fp, stopped[0]) == np.allclose(by_fn, stopped[1]) == (mode == "stop")
    np.testing.assert_allclose((maps.alpha, maps.beta), stopped, rtol=1e-5)


def test_regions_of_a_map_are_one_axis() -> None:
    logits, labels = random_case(0, SPACE)
    numbers = np.arange(8).reshape(2, 2, 2)
    ids = np.broadcast_to(voxels_of_regions(numbers, SPACE), labels.shape)
    by_map = region_maps(logits, labels, regions=losses.RegionMap(jnp.asarray(ids), 8)).arrays()
    by_grid = region_maps(logits, labels, regions=2).arrays()
    for name, values in by_map.items():
        assert values.shape == (2, 8, 3)
        np.testing.assert_allclose(values, by_grid[name].reshape(2, 8, 3), rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("space", [SPACE, (7, 5)])
def test_every_voxel_gets_its_regions_value(space: tuple[int, ...]) -> None:
    grid = (3, 2, 4)[: len(space)]
    values = np.random.default_rng(0).random((*grid, 2))
    voxels = voxels_of_regions(values, space)
    assert voxels.shape == (*space, 2)
    for value, box in zip(values.reshape(-1, 2), oracle.boxes(space, grid), strict=True):
        assert (voxels[box] == value).all()


def test_gradient_maps_are_the_gradients_and_their_lengths() -> None:
    logits, labels = random_case(0, SPACE)
    where = random_mask(0, SPACE)
    functions = {"dice": losses.dice, "entropy": losses.cross_entropy}
    maps = gradient_maps(
        {name: lambda x, y, w, f=f: f(x, y, where=w) for name, f in functions.items()}, logits, labels, where
    )
    for name, function in functions.items():
        expected = np.asarray(jax.grad(function)(logits, labels, where=where))
        np.testing.assert_allclose(maps[name], expected, rtol=1e-4, atol=1e-8)
        norm = gradient_norm(maps[name])
        assert norm.shape == labels.shape
        np.testing.assert_allclose(norm**2, (expected**2).sum(-1), rtol=1e-3, atol=1e-12)
        assert not norm[~where].any()


@pytest.mark.parametrize("name", ["dice", "adaptive_region_specific"])
def test_the_hessian_is_symmetric_and_the_gradients_derivative(name: str) -> None:
    """Forward over reverse, in float64: a central difference of gradients along the vector, and u Hv = v Hu."""
    logits, labels = random_case(3, SPACE)
    objective = partial(getattr(losses, name), regions=2)
    u, v = np.random.default_rng(0).standard_normal((2, *logits.shape))
    with jax.enable_x64(True):
        x = jnp.asarray(logits, jnp.float64)
        by_v, by_u = (np.asarray(hessian_vector_product(objective, x, labels, one)) for one in (v, u))
        gradient = jax.jit(jax.grad(objective))
        step = 1e-5
        difference = np.asarray(gradient(x + step * v, labels) - gradient(x - step * v, labels)) / (2 * step)
    np.testing.assert_allclose(by_v, difference, atol=1e-7 * np.abs(difference).max() + 1e-9)
    assert (u * by_v).sum() == pytest.approx((v * by_u).sum(), rel=1e-9)


def test_curvature_with_stopped_penalties_is_that_of_held_penalties() -> None:
    logits, labels = random_case(3, SPACE)
    vector = np.random.default_rng(0).standard_normal(logits.shape).astype(np.float32)
    stopped = partial(losses.adaptive_region_specific, regions=2, adaptive_gradient="stop", absent_classes="include")
    maps = region_maps(logits, labels, regions=2)
    alpha, beta = jnp.asarray(maps.alpha), jnp.asarray(maps.beta)

    def held(x: jax.Array, y: jax.Array) -> jax.Array:
        s = losses.overlap_statistics(x, y, regions=2)
        values = losses.tversky_loss(s, fp_weight=alpha, fn_weight=beta)
        return losses.reduce_loss(values, s, absent_classes="include")

    expected = np.asarray(hessian_vector_product(held, logits, labels, vector))
    found = np.asarray(hessian_vector_product(stopped, logits, labels, vector))
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_differentiated_penalties_reward_errors_beyond_the_critical_share() -> None:
    """The weight of FP changes its sign at s = sqrt((1 + A / B) / 2), and that of FN at the mirrored place."""
    diagram = phase_diagram(min_penalty=A, penalty_range=B, points=101)
    fp, fn = np.meshgrid(diagram.false_positives, diagram.false_negatives)
    critical = math.sqrt((1 + A / B) / 2)
    assert diagram.critical == pytest.approx(critical, abs=2e-5)
    share = fn / (fp + fn)
    clear = np.abs(share - critical) > 1e-3
    assert ((diagram.effective_fp_weight < 0) == (share > critical))[clear].all()
    np.testing.assert_array_equal(diagram.effective_fn_weight, diagram.effective_fp_weight.T)
    np.testing.assert_allclose(diagram.effective_fp_weight, A + B * (1 - 2 * share**2), atol=1e-12)


def test_stopped_penalties_never_reward_an_error() -> None:
    diagram = phase_diagram(min_penalty=A, penalty_range=B, adaptive_gradient="stop", points=51)
    assert diagram.critical is None
    for weight in (diagram.effective_fp_weight, diagram.effective_fn_weight):
        assert A <= weight.min() <= weight.max() <= A + B


def test_without_range_no_share_is_critical() -> None:
    assert critical_share(min_penalty=0.5, penalty_range=0.4) is None
    assert critical_share(min_penalty=0.5, penalty_range=0.0) is None
    assert critical_share(min_penalty=0.4, penalty_range=0.4) is None


@pytest.mark.parametrize("a", [0.0, 0.1, 0.3, 0.3999])
def test_the_critical_share_is_the_closed_formula(a: float) -> None:
    """To the last bits for an exponent of 1, where the search of other exponents ends at 1e-5."""
    found = critical_share(min_penalty=a, penalty_range=B)
    assert found == pytest.approx(math.sqrt((1 + a / B) / 2), rel=1e-15)
    assert critical_share(min_penalty=a, penalty_range=B, exponent=1 + 1e-9) == pytest.approx(found, abs=2e-5)


@pytest.mark.parametrize(
    ("space", "grid", "expected"),
    [((88, 73, 125), (4, 4, 5), (6, 5, 8)), ((64, 60, 40), (4, 4, 5), (4, 4, 5)), ((128, 65, 81), 4, (8, 4, 4))],
)
def test_regions_keep_the_size_that_was_trained(space: tuple[int, ...], grid: int, expected: tuple[int, ...]) -> None:
    """A canvas of 64 x 64 x 80: longer axes get more regions, shorter ones none fewer."""
    assert trained_regions(space, (64, 64, 80), grid) == expected


@pytest.mark.parametrize(
    ("canvas", "regions"),
    [(None, (4, 4, 5)), ((64, 64, 80), losses.RegionSize((16, 16, 16))), ((64, 64, 80), None)],
)
def test_regions_without_a_trained_size_stay(canvas: tuple[int, ...] | None, regions: Any) -> None:
    assert trained_regions((88, 73, 125), canvas, regions) is regions


def test_a_division_that_does_not_fit_is_refused() -> None:
    for refused in (
        lambda: region_maps(*random_case(0, SPACE)),
        lambda: voxels_of_regions(np.zeros((9, 2, 2)), SPACE),
    ):
        with pytest.raises(ArgumentError) as caught:
            refused()
        assert caught.value.name == "regions"
