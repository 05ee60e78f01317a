"""The V-Net: the size of its variants, its shapes and its modes."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ars_jax.models import VNet
from ars_jax.models.vnet import Variant

pytestmark = pytest.mark.usefixtures("quick")


CONVOLUTIONS: dict[Variant, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "figure": ((2, 3, 3, 3), (3, 3, 2, 1)),
    "released": ((1, 2, 3, 3), (3, 2, 1, 1)),
    "monai": ((1, 2, 3, 2), (2, 2, 1, 1)),
}
"""Of the stages below the first, down and up."""


def parameters_by_hand(variant: Variant, base: int, kernel: int, inputs: int, classes: int) -> int:
    """Counts the network as published, stage by stage.

    Normalisation has a scale and a shift per channel, PReLU one slope, ELU nothing; only the last convolution has a
    bias.
    """
    down, up = CONVOLUTIONS[variant]
    slopes = 0 if variant == "monai" else 1

    def convolved(side: int, before: int, after: int) -> int:
        return side**3 * before * after + 2 * after + slopes * after

    widths = [base * 2**stage for stage in range(5)]
    total = convolved(kernel, inputs, widths[0])
    for stage, count in zip(range(1, 5), down, strict=True):
        total += convolved(2, widths[stage - 1], widths[stage])
        total += count * convolved(kernel, widths[stage], widths[stage])
    below = widths[4]
    for stage, count in zip((3, 2, 1, 0), up, strict=True):
        total += convolved(2, below, widths[stage])
        below = 2 * widths[stage]  # concatenated with the skip connection
        total += count * convolved(kernel, below, below)
    return total + convolved(kernel, below, classes) + classes * classes + classes


def shapes_of(model: VNet, shape: tuple[int, ...]) -> dict[str, Any]:
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(lambda key, x: model.init(key, x, train=False), jax.random.key(0), x)


def count(variables: dict[str, Any]) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize(
    ("variant", "parameters"), [("figure", 65_186_716), ("released", 61_985_852), ("monai", 45_597_658)]
)
def test_the_variants_have_as_many_parameters_as_published(variant: Variant, parameters: int) -> None:
    """65.2, 62.0 and 45.6 million."""
    found = count(shapes_of(VNet(classes=2, variant=variant, form="native"), (1, 16, 16, 16, 1)))
    assert found == parameters == parameters_by_hand(variant, base=16, kernel=5, inputs=1, classes=2)


@pytest.mark.parametrize("variant", CONVOLUTIONS)
@pytest.mark.parametrize(("base", "kernel", "inputs", "classes"), [(2, 3, 1, 11), (4, 1, 2, 3)])
def test_smaller_networks_have_the_same_plan(
    variant: Variant, base: int, kernel: int, inputs: int, classes: int
) -> None:
    model = VNet(classes, variant, base_channels=base, kernel_size=kernel, form="native")
    found = count(shapes_of(model, (1, 16, 16, 16, inputs)))
    assert found == parameters_by_hand(variant, base, kernel, inputs, classes)


def test_parameters_do_not_depend_on_the_size_of_the_input() -> None:
    model = VNet(classes=3, base_channels=2, kernel_size=3, form="native")
    assert shapes_of(model, (1, 16, 16, 16, 1)) == shapes_of(model, (2, 32, 16, 48, 1))


@pytest.mark.parametrize("shape", [(15, 16, 16), (16, 24, 16), (16, 16, 40), (8, 8, 8)])
def test_sides_have_to_be_multiples_of_16(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"multiples of 16.*pad"):
        shapes_of(VNet(classes=2, base_channels=2, kernel_size=3), (1, *shape, 1))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_output_has_the_shape_of_the_input_and_the_type_of_the_parameters(dtype: str) -> None:
    """All of it is float32 whatever the type of the computation, which is the type of every convolution."""
    model = VNet(classes=5, base_channels=2, kernel_size=3, form="native", dtype=jnp.dtype(dtype))
    shape = (2, 16, 32, 48)
    variables = shapes_of(model, (*shape, 1))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}

    def run(variables: Any, x: jax.Array) -> Any:
        return model.apply(variables, x, train=True, mutable=["batch_stats"])

    program = jax.make_jaxpr(run)(variables, jax.ShapeDtypeStruct((*shape, 1), jnp.float32))
    logits, *statistics = program.out_avals
    assert (logits.shape, logits.dtype) == ((*shape, 5), jnp.float32)
    assert {leaf.dtype for leaf in statistics} == {jnp.dtype("float32")}
    convolutions = [e for e in program.eqns if e.primitive.name in ("conv_general_dilated", "dot_general")]
    assert {variable.aval.dtype for equation in convolutions for variable in equation.invars} == {jnp.dtype(dtype)}
    assert len(convolutions) == 12 + 9 + 4 + 4 + 2  # down, up, between the stages, head and logits


def test_the_untrained_network_believes_in_background() -> None:
    """The logits' bias is the logarithm of the background's odds against each organ."""
    model = VNet(classes=4, base_channels=2, kernel_size=1, form="native")
    init = jax.jit(lambda key, x: model.init(key, x, train=False)["params"]["logits"]["bias"])
    bias = init(jax.random.key(0), jnp.zeros((1, 16, 16, 16, 1)))
    np.testing.assert_allclose(jax.nn.softmax(bias), [0.9, 0.1 / 3, 0.1 / 3, 0.1 / 3], rtol=1e-5)


@pytest.fixture(scope="module")
def dropping() -> tuple[VNet, Any, jax.Array]:
    """A network that drops half of its deep channels, with random weights, and two volumes."""
    model = VNet(classes=3, base_channels=2, kernel_size=1, dropout=0.5, form="native")
    rng = np.random.default_rng(0)
    shapes = shapes_of(model, (1, 16, 16, 16, 1))
    variables = jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.1, 1, leaf.shape), leaf.dtype), shapes)
    return model, variables, jnp.asarray(rng.normal(size=(2, 16, 16, 16, 1)), jnp.float32)


def test_dropout_follows_its_key_in_training_only(dropping: tuple[VNet, Any, jax.Array]) -> None:
    model, variables, x = dropping

    @jax.jit
    def trained(key: jax.Array) -> jax.Array:
        return model.apply(variables, x, train=True, mutable=["batch_stats"], rngs={"dropout": key})[0]

    first, again, other = (trained(jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3

    @jax.jit
    def predicted(x: jax.Array, key: jax.Array) -> jax.Array:
        return jnp.asarray(model.apply(variables, x, train=False, rngs={"dropout": key}))

    np.testing.assert_array_equal(predicted(x, jax.random.key(1)), predicted(x, jax.random.key(2)))
    swapped = predicted(x[::-1], jax.random.key(1))
    np.testing.assert_array_equal(swapped[::-1], predicted(x, jax.random.key(1)), err_msg="samples see each other")


def test_training_moves_the_running_statistics_a_tenth_of_the_way(dropping: tuple[VNet, Any, jax.Array]) -> None:
    """Of the first normalisation, whose input can be computed by hand: a 1 x 1 x 1 kernel on repeated channels."""
    model, variables, x = dropping
    _, updated = jax.jit(
        lambda: model.apply(variables, x, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)})
    )()
    kernel = variables["params"]["encoder_0"]["Convolution_0"]["kernel"][0, 0, 0]
    y = np.asarray(x) @ np.asarray(kernel)
    before, after = (stats["encoder_0"]["BatchNorm_0"] for stats in (variables["batch_stats"], updated["batch_stats"]))
    np.testing.assert_allclose(after["mean"], 0.9 * before["mean"] + 0.1 * y.mean((0, 1, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(after["var"], 0.9 * before["var"] + 0.1 * y.var((0, 1, 2, 3)), rtol=1e-4)


def test_a_volume_without_contrast_has_finite_logits_and_gradients() -> None:
    """Every batch variance is then 0 somewhere."""
    model, x = VNet(2, base_channels=2, kernel_size=3), jnp.zeros((1, 16, 16, 16, 1))
    variables = model.init(jax.random.key(0), x, train=False)

    def loss(params: Any) -> tuple[jax.Array, Any]:
        logits, updated = model.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        return jnp.square(logits).sum(), updated

    quickly = {"xla_backend_optimization_level": 0}
    differentiate = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=quickly)
    chex.assert_tree_all_finite(differentiate(variables["params"]))
