"""Every form of a convolution is the same sum; the automatic one suits the platform that it is compiled for."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from ars_jax.models.convolution import (
    FOLD_CHANNELS,
    MATMUL_VOXELS,
    TILE,
    WINOGRAD_VOXELS,
    Form,
    convolve,
    winograd_matrices,
)

FORMS: tuple[Form, ...] = ("auto", "divided", "depth_sum", "depth_fold", "matmul")
SHAPES = {
    "one channel": (2, 4, 5, 6, 1),
    "channels": (1, 3, 4, 5, 3),
    "flat": (1, 2, 4, 3, 2),
    "plane": (1, 1, 3, 4, 1),
}
LARGE = (1, TILE, 16, -(-WINOGRAD_VOXELS // (16 * TILE)), FOLD_CHANNELS + 1)
UNEVEN = (2, 2 * TILE + 3, 16, 12, FOLD_CHANNELS + 1)
MEDIUM = (1, 8, 8, 8, FOLD_CHANNELS + 1)
THIN = (1, TILE - 1, 20, 20, FOLD_CHANNELS + 1)
FEW_CHANNELS = (1, 8, 8, 8, FOLD_CHANNELS)
SMALL = (1, 5, 5, MATMUL_VOXELS // 25, 8)
CHOSEN = {
    "large": LARGE,
    "uneven": UNEVEN,
    "medium": MEDIUM,
    "thin": THIN,
    "few channels": FEW_CHANNELS,
    "small": SMALL,
}
ROUNDING = 2e-5


pytestmark = pytest.mark.usefixtures("quick")


def arrays(shape: tuple[int, ...], side: int, features: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An input, a kernel and the slope of some loss by the output."""
    rng = np.random.default_rng(sum(shape) + side)
    draws = (shape, (side, side, side, shape[-1], features), (*shape[:-1], features))
    x, kernel, slope = (rng.normal(size=size).astype(np.float32) for size in draws)
    return x, kernel, slope


def with_gradients(form: Form, x: Any, kernel: Any, slope: Any) -> list[np.ndarray]:
    """The output and the gradients by both arguments."""

    @jax.jit
    def run(x: jax.Array, kernel: jax.Array, slope: jax.Array) -> tuple[jax.Array, ...]:
        y, pull = jax.vjp(partial(convolve, form=form), x, kernel)
        return y, *pull(slope)

    return [np.asarray(array) for array in run(x, kernel, slope)]


def assert_equal(found: list[np.ndarray], wanted: list[np.ndarray], tolerance: float = ROUNDING) -> None:
    for what, one, other in zip(("value", "by input", "by kernel"), found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance * np.abs(other).max(), err_msg=what)


@pytest.mark.parametrize("side", [1, 5])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_all_forms_give_the_same_values_and_gradients(shape: tuple[int, ...], side: int) -> None:
    """Also where the volume is thinner than the kernel."""
    native = with_gradients("native", *arrays(shape, side))
    for form in FORMS:
        found = with_gradients(form, *arrays(shape, side))
        assert found[0].dtype == np.float32, form
        assert_equal(found, native)


@pytest.mark.parametrize(
    ("shape", "side"), [(SHAPES["plane"], 5), (SHAPES["flat"], 5), (SHAPES["channels"], 3), (UNEVEN, 3), (UNEVEN, 5)]
)
def test_transformed_planes_give_the_same_values_and_gradients(shape: tuple[int, ...], side: int) -> None:
    """Whatever the depth is: tiles need not fill it."""
    assert_equal(with_gradients("winograd", *arrays(shape, side)), with_gradients("native", *arrays(shape, side)))


@pytest.mark.parametrize(("shape", "side"), [*((shape, 3) for shape in CHOSEN.values()), (UNEVEN, 5), (LARGE, 7)])
def test_the_automatic_form_is_the_same_sum_wherever_it_changes_its_mind(shape: tuple[int, ...], side: int) -> None:
    assert_equal(with_gradients("auto", *arrays(shape, side, 6)), with_gradients("native", *arrays(shape, side, 6)))


def test_the_native_form_is_a_correlation_with_zeros_around() -> None:
    """Against scipy, one pair of channels at a time."""
    x, kernel, _ = arrays(SHAPES["channels"], 3)
    expected = np.zeros((*x.shape[:-1], kernel.shape[-1]))
    for batch, channel, feature in np.ndindex(x.shape[0], x.shape[-1], kernel.shape[-1]):
        volume, taps = x[batch, ..., channel], kernel[..., channel, feature]
        expected[batch, ..., feature] += ndimage.correlate(volume, taps, mode="constant")
    np.testing.assert_allclose(convolve(jnp.asarray(x), jnp.asarray(kernel), "native"), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("form", "side", "wanted"), [("auto", 4, "an odd one"), ("matmul", 2, "an odd one"), ("winograd", 7, "3 or 5")]
)
def test_a_kernel_without_that_form_is_refused_before_anything_is_computed(form: Form, side: int, wanted: str) -> None:
    x, kernel, _ = arrays(SHAPES["channels"], side)
    with pytest.raises(ValueError, match=f"kernel: found a side of {side}; wanted {wanted}"):
        jax.eval_shape(partial(convolve, form=form), x, kernel)


@pytest.mark.parametrize("side", [3, 5])
def test_minimal_filtering_is_a_correlation(side: int) -> None:
    """In double precision, one line of values at a time; with side + 3 products instead of 4 side."""
    outputs, kernels, planes = winograd_matrices(side)
    assert outputs.shape == (TILE, TILE + side - 1)
    rng = np.random.default_rng(side)
    values, taps = rng.normal(size=TILE + side - 1), rng.normal(size=side)
    found = outputs @ ((kernels @ taps) * (planes @ values))
    np.testing.assert_allclose(found, np.correlate(values, taps, "valid"), rtol=0, atol=1e-13)


def test_transformed_planes_lose_less_than_a_digit() -> None:
    """Errors against double precision, beside those of the plain sum; many channels, as rounding grows with them."""
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(1, 8, 8, 8, 64)), rng.normal(size=(5, 5, 5, 64, 4))
    exact = sum(
        np.pad(x, ((0, 0), (2, 2), (2, 2), (2, 2), (0, 0)))[:, i : i + 8, j : j + 8, k : k + 8] @ kernel[i, j, k]
        for i, j, k in np.ndindex(5, 5, 5)
    )

    def error(form: Form) -> float:
        found = convolve(jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32), form)
        return float(np.sqrt(np.mean((found - exact) ** 2) / np.mean(exact**2)))

    assert error("winograd") < min(10 * error("depth_sum"), 1e-5)


def test_the_automatic_form_takes_derivatives_of_derivatives() -> None:
    x, kernel, slope = arrays(LARGE, 3)

    def by_kernel(form: Form, x: jax.Array) -> jax.Array:
        gradient = jax.grad(lambda kernel: jnp.sum(jnp.sin(convolve(x, kernel, form)) * slope))(jnp.asarray(kernel))
        return jnp.sum(gradient**2)

    found, wanted = (np.asarray(jax.jit(jax.grad(partial(by_kernel, form)))(x)) for form in ("auto", "native"))
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())


def test_the_automatic_form_can_be_mapped() -> None:
    x, kernel, _ = arrays(LARGE, 3)
    stacked = np.stack([x, 2 * x])
    found = jax.jit(jax.vmap(convolve, (0, None)))(stacked, kernel)
    np.testing.assert_allclose(found[1], 2 * found[0], atol=ROUNDING * np.abs(found).max())


def test_narrow_types_are_summed_in_float32_on_a_cpu() -> None:
    """The result and the gradients have the types of the arguments, and the error of one rounding."""
    x, kernel, slope = (jnp.asarray(array, jnp.bfloat16) for array in arrays(LARGE, 5))
    found = with_gradients("auto", x, kernel, slope)
    assert all(array.dtype == jnp.bfloat16 for array in found)
    wide = with_gradients("native", *(array.astype(jnp.float32) for array in (x, kernel, slope)))
    for one, other in zip(found, wide, strict=True):
        np.testing.assert_allclose(one.astype(np.float32), other, rtol=2**-8, atol=1e-4 * np.abs(other).max())


def lowered(platform: str, shape: tuple[int, ...], side: int = 3) -> str:
    """The program of value and gradients for a platform, which need not be there."""

    def run(x: jax.Array, kernel: jax.Array, slope: jax.Array) -> Any:
        y, pull = jax.vjp(convolve, x, kernel)
        return y, pull(slope)

    arguments = (jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays(shape, side))
    return jax.jit(run).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()


def spatial_axes(program: str) -> list[int]:
    """How many spatial axes each convolution of a program has."""
    return [match.count(",") - 1 for match in re.findall(r"dim_numbers = \[([^\]]*)\]x", program)]


@pytest.mark.parametrize("shape", CHOSEN.values(), ids=CHOSEN)
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_off_the_cpu_the_automatic_form_is_native(platform: str, shape: tuple[int, ...]) -> None:
    """For the platform of the program, not that of the process: value and both gradients, one convolution each."""
    assert spatial_axes(lowered(platform, shape)) == [3, 3, 3]


@pytest.mark.parametrize("side", [1, 3, 5, 7])
@pytest.mark.parametrize("shape", CHOSEN.values(), ids=CHOSEN)
def test_on_a_cpu_no_convolution_has_three_spatial_axes(shape: tuple[int, ...], side: int) -> None:
    """XLA's own is many times slower there."""
    assert set(spatial_axes(lowered("cpu", shape, side))) <= {2}


def counted(form: Callable[[Any, Any], jax.Array], shape: tuple[int, ...], side: int) -> int:
    arguments = (jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays(shape, side)[:2])
    return len(spatial_axes(jax.jit(form).lower(*arguments).as_text()))


@pytest.mark.parametrize(("side", "count"), [(1, 0), (3, 6), (5, 8), (7, 7)])
def test_on_a_cpu_planes_are_transformed_where_that_saves_products(side: int, count: int) -> None:
    """Kernels of 3 and 5: k + 3 convolutions of a quarter of the planes, instead of k of them all."""
    assert counted(convolve, LARGE, side) == count


@pytest.mark.parametrize(("shape", "count"), [(MEDIUM, 3), (THIN, 3), (FEW_CHANNELS, 1), (SMALL, 0)])
def test_on_a_cpu_other_shapes_take_other_forms(shape: tuple[int, ...], count: int) -> None:
    assert counted(convolve, shape, 3) == count
