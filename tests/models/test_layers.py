"""Every form of a layer is the same sum, with the same parameters."""

from collections.abc import Callable
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ars_jax.models import Convolution, Downsampling, PReLU, Upsampling, VNet
from ars_jax.models.convolution import Form

LAYER = ("NDHWC", "DHWIO", "NDHWC")


pytestmark = pytest.mark.usefixtures("quick")


def with_gradients(function: Callable[..., jax.Array], *arguments: np.ndarray, slope: np.ndarray) -> list[np.ndarray]:
    """The output and the gradients by both arguments."""

    @jax.jit
    def run(*inputs: jax.Array) -> tuple[jax.Array, ...]:
        y, pull = jax.vjp(function, *inputs)
        return y, *pull(slope)

    return [np.asarray(array) for array in run(*arguments)]


def assert_equal(found: list[np.ndarray], wanted: list[np.ndarray]) -> None:
    for what, one, other in zip(("value", "by input", "by kernel"), found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5 * np.abs(other).max(), err_msg=what)


def test_downsampling_is_a_strided_convolution() -> None:
    rng = np.random.default_rng(0)
    x, kernel, slope = (
        rng.normal(size=size).astype(np.float32) for size in ((2, 4, 6, 2, 3), (2, 2, 2, 3, 5), (2, 2, 3, 1, 5))
    )

    def layer(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.asarray(Downsampling(5).apply({"params": {"kernel": kernel}}, x))

    def reference(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, kernel, (2, 2, 2), "VALID", dimension_numbers=LAYER)

    assert_equal(with_gradients(layer, x, kernel, slope=slope), with_gradients(reference, x, kernel, slope=slope))


def test_upsampling_is_a_transposed_convolution() -> None:
    """The transposed convolution of jax reads its kernel from the far end."""
    rng = np.random.default_rng(1)
    x, kernel, slope = (
        rng.normal(size=size).astype(np.float32) for size in ((2, 2, 3, 1, 3), (2, 2, 2, 3, 5), (2, 4, 6, 2, 5))
    )

    def layer(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.asarray(Upsampling(5).apply({"params": {"kernel": kernel}}, x))

    def reference(x: jax.Array, kernel: jax.Array) -> jax.Array:
        flipped = jnp.flip(kernel, (0, 1, 2))
        return jax.lax.conv_transpose(x, flipped, (2, 2, 2), "SAME", dimension_numbers=LAYER)

    assert_equal(with_gradients(layer, x, kernel, slope=slope), with_gradients(reference, x, kernel, slope=slope))


def test_upsampling_is_the_transpose_of_downsampling() -> None:
    """<down(x), y> = <x, up(y)> with the kernel's channels exchanged."""
    rng = np.random.default_rng(2)
    x, y, kernel = (
        rng.normal(size=size).astype(np.float32) for size in ((1, 4, 4, 2, 3), (1, 2, 2, 1, 5), (2,) * 3 + (3, 5))
    )
    down = Downsampling(5).apply({"params": {"kernel": kernel}}, x)
    up = Upsampling(3).apply({"params": {"kernel": kernel.swapaxes(3, 4)}}, y)
    np.testing.assert_allclose(np.sum(np.asarray(down) * y), np.sum(x * np.asarray(up)), rtol=1e-5)


def test_prelu_has_one_slope_per_channel() -> None:
    x = jnp.asarray([[-2.0, -2.0], [3.0, 3.0], [0.0, -0.0]])
    y, variables = PReLU().init_with_output(jax.random.key(0), x)
    np.testing.assert_array_equal(variables["params"]["slope"], [0.25, 0.25])
    np.testing.assert_array_equal(y, [[-0.5, -0.5], [3, 3], [0, 0]])
    np.testing.assert_array_equal(
        PReLU().apply({"params": {"slope": jnp.asarray([0.0, 1.0])}}, x), [[0, -2], [3, 3], [0, 0]]
    )


def shapes_of(model: Any, shape: tuple[int, ...], **options: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    """Names, shapes and types of a module's variables; nothing is computed."""
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    variables = jax.eval_shape(lambda key, x: model.init(key, x, **options), jax.random.key(0), x)
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {jax.tree_util.keystr(path): (leaf.shape, str(leaf.dtype)) for path, leaf in leaves}


def test_parameters_do_not_depend_on_the_form() -> None:
    """So that a network trained on one kind of device predicts on another."""
    layers = [shapes_of(Convolution(4, 3, use_bias=True, form=form), (1, 4, 4, 4, 2)) for form in get_args(Form)]
    assert all(layer == layers[0] for layer in layers)
    assert layers[0] == {
        "['params']['bias']": ((4,), "float32"),
        "['params']['kernel']": ((3, 3, 3, 2, 4), "float32"),
    }
    network = VNet(2, base_channels=2, kernel_size=3)
    native = shapes_of(network.clone(form="native"), (1, 16, 16, 16, 1), train=False)
    assert shapes_of(network, (1, 16, 16, 16, 1), train=False) == native


@pytest.mark.parametrize(
    ("layer", "fan_in"),
    [(Convolution(32, 3), 27 * 16), (Convolution(256, 1), 16), (Downsampling(64), 8 * 16), (Upsampling(64), 16)],
)
def test_kernels_start_with_the_spread_that_keeps_variance(layer: Any, fan_in: int) -> None:
    """He et al. 2015: a standard deviation of sqrt(2 / fan-in), cut off at two of the underlying normal's."""
    kernel = layer.init(jax.random.key(0), jnp.zeros((1, 2, 2, 2, 16)))["params"]["kernel"]
    spread = np.sqrt(2 / fan_in)
    np.testing.assert_allclose(kernel.std(), spread, rtol=0.04)
    np.testing.assert_allclose(kernel.mean(), 0, atol=0.05 * spread)
    assert 2 * spread < np.abs(kernel).max() < 2.3 * spread
