"""With activations in bfloat16, whatever is summed over voxels or kept from step to step is float32."""

from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ars_jax import losses
from ars_jax.models import Convolution, Downsampling, Upsampling, VNet
from ars_jax.models.convolution import Form
from ars_jax.models.vnet import Remat

MODEL = VNet(3, "released", 2, 1, 0.5, form="native", dtype=jnp.bfloat16)
SHAPE = (1, 32, 16, 16)


pytestmark = pytest.mark.usefixtures("quick")


def shapes_of(model: VNet) -> Any:
    x = jax.ShapeDtypeStruct((*SHAPE, 1), jnp.float32)
    return jax.eval_shape(lambda key, x: model.init(key, x, train=False), jax.random.key(0), x)


def equations(program: Any) -> Iterator[Any]:
    """Those of a program and of all programs within it."""
    for equation in program.eqns:
        yield equation
        for value in jax.tree.leaves(list(equation.params.values())):  # the branches of a choice come in a tuple
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


@pytest.mark.parametrize(("remat", "form"), [("none", "native"), ("stages", "native"), ("none", "auto")])
def test_no_sum_is_taken_in_bfloat16(remat: Remat, form: Form) -> None:
    """Forward and backward: of batch statistics, of the loss, and of the gradients of scales, slopes and biases.

    Whatever the devices are that the program is compiled for.
    """
    model = MODEL.clone(remat=remat, form=form, kernel_size=1 if form == "native" else 3)

    def step(variables: Any, x: jax.Array, labels: jax.Array) -> Any:
        def objective(params: Any) -> tuple[jax.Array, Any]:
            rngs = {"dropout": jax.random.key(0)}
            logits, updated = model.apply(
                {**variables, "params": params}, x, train=True, mutable=["batch_stats"], rngs=rngs
            )
            return losses.dice(logits, labels) + losses.cross_entropy(logits, labels), updated

        return jax.value_and_grad(objective, has_aux=True)(variables["params"])

    x, labels = jax.ShapeDtypeStruct((*SHAPE, 1), jnp.float32), jax.ShapeDtypeStruct(SHAPE, jnp.uint8)
    program = jax.make_jaxpr(step)(shapes_of(model), x, labels)
    found = list(equations(program.jaxpr))
    convolved = {e.invars[0].aval.ndim for e in found if e.primitive.name == "conv_general_dilated"}
    assert convolved == ({5} if form == "native" else {4, 5}), "planes on a CPU, volumes elsewhere"
    sums = [e for e in found if e.primitive.name in ("reduce_sum", "cumsum", "reduce_window_sum")]
    assert len(sums) > 100
    assert {e.invars[0].aval.dtype for e in sums} <= {jnp.dtype("float32"), jnp.dtype("int32")}
    assert {leaf.dtype for leaf in program.out_avals} == {jnp.dtype("float32")}


def test_batch_statistics_are_those_of_float64() -> None:
    """Of the bfloat16 numbers that the convolutions return, whose mean is several times their spread."""
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype(leaf.dtype), shapes_of(MODEL))

    @jax.jit
    def run(x: jax.Array) -> Any:
        return MODEL.apply(
            variables,
            x,
            train=True,
            rngs={"dropout": jax.random.key(0)},
            mutable=["batch_stats", "intermediates"],
            capture_intermediates=lambda module, _: isinstance(module, Convolution),
        )[1]

    found = run(rng.normal(5, 1, (*SHAPE, 1)).astype(np.float32))
    for name in ("encoder_0", "encoder_1", "decoder_0"):
        (y,) = found["intermediates"][name]["Convolution_0"]["__call__"]
        assert y.dtype == jnp.bfloat16
        before, after = (stats[name]["BatchNorm_0"] for stats in (variables["batch_stats"], found["batch_stats"]))
        exact = np.asarray(y, np.float64)
        for key, value in (("mean", exact.mean((0, 1, 2, 3))), ("var", exact.var((0, 1, 2, 3)))):
            np.testing.assert_allclose((after[key] - 0.9 * before[key]) / 0.1, value, rtol=1e-3, err_msg=name)


LAYERS: dict[str, Any] = {
    "native": Convolution(4, 3, form="native", dtype=jnp.bfloat16),
    "auto": Convolution(4, 3, dtype=jnp.bfloat16),
    "down": Downsampling(4, jnp.bfloat16),
    "up": Upsampling(4, jnp.bfloat16),
    "flax": nn.Conv(4, (3, 3, 3), use_bias=False, dtype=jnp.bfloat16),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_gradient_of_a_kernel_is_rounded_once(name: str) -> None:
    """It is float32 and nowhere further from that of float64 than one rounding to bfloat16, as flax has it too."""
    layer, rng = LAYERS[name], np.random.default_rng(0)
    x = jnp.asarray(rng.normal(1, 1, (2, 8, 8, 8, 6)), jnp.bfloat16)
    variables = layer.init(jax.random.key(0), x)
    y = jnp.asarray(rng.normal(0.2, 1, jax.eval_shape(layer.apply, variables, x).shape), jnp.bfloat16)

    def gradient(layer: Any, variables: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return jax.vjp(lambda variables: layer.apply(variables, x), variables)[1](y)[0]["params"]["kernel"]

    found = jax.jit(gradient, static_argnums=0)(layer, variables, x, y)
    assert found.dtype == jnp.float32
    with jax.enable_x64(True):
        wide = layer.clone(dtype=jnp.float64)
        exact = gradient(wide, variables, x.astype(jnp.float64), y.astype(jnp.float64))
    np.testing.assert_allclose(found, exact, rtol=2.0**-8)
