"""Confident predictions keep all digits: of the sums, the losses, and their derivatives of any order and mode."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ars_jax import losses
from ars_jax.losses import _pass
from tests.losses.cases import LOSSES, loss, region_map

pytestmark = pytest.mark.usefixtures("quick")
SPACE = (4, 4, 4)
MARGINS = (8.0, 12.0, 16.0, 25.0)
# The distance of two logits is rounded to half of float32's spacing there, and it is an exponent.
TOLERANCES = {8.0: 1e-6, 12.0: 1e-6, 16.0: 1e-6, 25.0: 2.5e-6}
"""Of single sums, relative to each; values and gradients of the losses keep 1e-6 at every margin."""
WRONG = (0.0, 0.2, 1.0)
"""Fractions of the voxels that are given another class with the same confidence."""


def confident(margin: float, wrong: float, space: tuple[int, ...] = SPACE) -> tuple[Any, Any]:
    """Logits that are sure of a class by a margin, and labels."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, (2, *space)).astype(np.uint8)
    said = np.where(rng.random(labels.shape) < wrong, (labels + 1) % 3, labels)
    logits = rng.normal(size=(*labels.shape, 3)) + margin * (said[..., None] == np.arange(3))
    return logits.astype(np.float32), labels


def longdouble_sums(logits: np.ndarray, g: np.ndarray, where: np.ndarray) -> dict[str, np.ndarray]:
    """The sums of the whole volume with the 64 bits of a long double."""
    x = logits.astype(np.longdouble)
    e = np.exp(x - x.max(-1, keepdims=True))
    p = np.where(where[..., None], e / e.sum(-1, keepdims=True), 0)
    others = np.stack([np.delete(e, c, -1).sum(-1) for c in range(x.shape[-1])], -1)
    q = others / e.sum(-1, keepdims=True)
    g = np.where(where[..., None], g, 0).astype(np.longdouble)
    lost = x.max(-1, keepdims=True) - x + np.log1p(np.sort(e, -1)[..., :-1].sum(-1, keepdims=True))
    terms = {
        "false_positives": p * (1 - g),
        "false_negatives": q * g,
        "reference": g,
        "squared_false_positives": p**2 * (1 - g),
        "squared_false_negatives": q**2 * g,
        "log_loss": lost * g,
    }
    return {name: term.sum((1, 2, 3)) for name, term in terms.items()}


@pytest.mark.parametrize("platform", ["cpu", "tpu", "cuda"])
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
def test_every_sum_keeps_its_digits(platform: str, soft: bool) -> None:
    bounds = losses.region_bounds(SPACE, None)
    where: Any = np.random.default_rng(2).random((2, *SPACE)) < 0.8
    spread = np.random.default_rng(3).dirichlet(np.ones(3), (2, *SPACE)).astype(np.float32)

    @jax.jit
    def sums(logits: jax.Array, labels: jax.Array) -> _pass.Sums:
        return _pass._sum_volume(bounds, False, 1, platform, _pass.Volume(logits, labels, where, None))

    for margin in MARGINS:
        for wrong in WRONG:
            logits, labels = confident(margin, wrong)
            reference = spread if soft else labels
            found = sums(logits, reference)
            g = spread if soft else (labels[..., None] == np.arange(3))
            for name, wanted in longdouble_sums(logits, g, where).items():
                value = np.asarray(getattr(found, name), np.float64).reshape(wanted.shape)
                tolerance = TOLERANCES[margin] * (2 if name.startswith("squared") else 1)
                np.testing.assert_allclose(value, np.float64(wanted), rtol=tolerance, err_msg=f"{name} {margin}")


def every_value(labels: Any, where: Any, ids: Any, soft: bool) -> Callable[[jax.Array], jax.Array]:
    """All losses, region-specific ones too and one of a map, as one vector."""
    reference = (labels[..., None] == np.arange(3)).astype(np.float32) if soft else labels

    def values(logits: jax.Array) -> jax.Array:
        found = [loss(name, **options)(logits, reference, where=where) for name, options in LOSSES.values()]
        found.append(loss("adaptive_region_specific")(logits, reference, where=where, regions=region_map(ids, 3)))
        return jnp.stack(found)

    return values


def assert_digits(found: Any, wanted: Any, tolerance: float, message: str = "") -> None:
    """Loss by loss, relative to the loss's largest entry."""
    found, wanted = (np.asarray(x, np.float64).reshape(len(wanted), -1) for x in (found, wanted))
    largest = np.abs(wanted).max(1)
    assert (largest > 0).all()
    errors = np.abs(found - wanted).max(1) / largest
    assert errors.max() <= tolerance, f"{message}: {dict(zip([*LOSSES, 'map'], errors, strict=True))}"


@pytest.mark.parametrize("soft", [False, True], ids=["integers", "one-hot, masked"])
def test_every_loss_and_its_gradient_keep_their_digits(soft: bool) -> None:
    ids = np.random.default_rng(4).integers(-1, 3, (2, *SPACE))
    where = np.random.default_rng(5).random((2, *SPACE)) < 0.8 if soft else None

    def both(labels: np.ndarray) -> Callable[[jax.Array], tuple[jax.Array, jax.Array]]:
        values = every_value(labels, where, ids, soft)
        return jax.jit(lambda x: (values(x), jax.jacrev(values)(x)))

    for wrong in WRONG:
        _, labels = confident(1.0, wrong)
        with jax.enable_x64(True):
            wanted = [both(labels)(confident(margin, wrong)[0].astype(np.float64)) for margin in MARGINS]
        single = both(labels)
        for margin, (value, slopes) in zip(MARGINS, wanted, strict=True):
            found_value, found_slopes = single(confident(margin, wrong)[0])
            assert found_value.dtype == np.float32 and value.dtype == np.float64
            assert_digits(found_value, value, 1e-6, f"value at {margin}, {wrong}")
            assert_digits(found_slopes, slopes, 1e-6, f"gradient at {margin}, {wrong}")


def test_every_mode_of_differentiation_keeps_the_digits() -> None:
    """Forward, reverse, each over the other, and both under vmap; plain 1 - p has no digit left at these margins."""
    _, labels = confident(1.0, 0.2)
    rng = np.random.default_rng(6)
    along, across = rng.normal(size=(2, *labels.shape, 3)).astype(np.float32)

    def value(x: jax.Array) -> jax.Array:
        return loss("baseline")(x, labels) + loss("adaptive_region_specific", regions=2)(x, labels)

    def slope(x: jax.Array, t: jax.Array) -> jax.Array:
        return jax.jvp(value, (x,), (t,))[1]

    def modes(x: jax.Array, t: jax.Array, s: jax.Array) -> dict[str, jax.Array]:
        return {
            "vmap of grad": jax.vmap(jax.grad(value))(jnp.stack([x, x]))[1],
            "vmap of jvp": jax.vmap(lambda t: slope(x, t))(jnp.stack([t, s])),
            "grad of jvp": jax.grad(slope)(x, t),
            "jvp of grad": jax.jvp(jax.grad(value), (x,), (t,))[1],
            "grad of grad": jax.grad(lambda x: jnp.vdot(jax.grad(value)(x), t))(x),
            "jvp of grad of jvp": jax.jvp(lambda x: jax.grad(slope)(x, t), (x,), (s,))[1],
        }

    logits = [confident(margin, wrong)[0] for margin in MARGINS for wrong in (0.0, 0.2)]
    with jax.enable_x64(True):
        double = jax.jit(modes)
        wanted = [double(*(np.float64(v) for v in (x, along, across))) for x in logits]
    single = jax.jit(modes)
    for x, expected in zip(logits, wanted, strict=True):
        for name, found in single(x, along, across).items():
            entries = np.asarray(expected[name])
            assert np.abs(entries).max() > 0
            np.testing.assert_allclose(found, entries, rtol=0, atol=2e-6 * np.abs(entries).max(), err_msg=name)


def test_forward_and_reverse_jacobians_agree() -> None:
    logits, labels = confident(12.0, 0.5, (2, 2, 2))
    values = every_value(labels, None, np.zeros(labels.shape, np.int32), False)
    assert_digits(jax.jit(jax.jacfwd(values))(logits), jax.jit(jax.jacrev(values))(logits), 2e-6)


@pytest.mark.parametrize("platform", ["cpu", "tpu", "cuda"])
def test_ties_have_the_gradient_of_the_equation(platform: str) -> None:
    """Two largest logits that are equal, and all: no class may be taken for the largest alone."""
    logits = np.array([[3.0, 3.0, 0.0], [1.0, 1.0, 1.0], [0.0, 20.0, 20.0]], np.float32).reshape(1, 3, 1, 3)
    labels: Any = np.array([[[0], [1], [0]]])
    p = np.exp(logits.astype(np.float64)) / np.exp(logits.astype(np.float64)).sum(-1, keepdims=True)
    wanted = p - (labels[..., None] == np.arange(3))
    bounds = losses.region_bounds((3, 1), None)

    def entropy(x: jax.Array) -> jax.Array:
        return _pass._sum_volume(bounds, False, 1, platform, _pass.Volume(x, labels, None, None)).log_loss.sum()

    np.testing.assert_allclose(jax.jit(jax.grad(entropy))(logits), wanted, atol=2e-7)


def test_soft_references_are_differentiated_too() -> None:
    """By differences of the float64 value, which depends on each reference smoothly."""
    logits, _ = confident(3.0, 0.0)
    soft = np.random.default_rng(7).dirichlet(np.ones(3), (2, *SPACE)).astype(np.float32)

    def value(g: Any) -> jax.Array:
        return loss("baseline")(logits, g) + loss("adaptive_region_specific", regions=2)(logits, g)

    slopes = np.asarray(jax.jit(jax.grad(value))(soft), np.float64)
    direction = np.random.default_rng(8).normal(size=soft.shape)
    with jax.enable_x64(True):
        run = jax.jit(
            lambda g: (
                loss("baseline")(np.float64(logits), g)
                + loss("adaptive_region_specific", regions=2)(np.float64(logits), g)
            )
        )
        up, down = (float(run(np.float64(soft) + sign * 1e-6 * direction)) for sign in (1, -1))
    assert np.abs(slopes).max() > 0
    np.testing.assert_allclose((slopes * direction).sum(), (up - down) / 2e-6, rtol=1e-4)
