"""With activations in bfloat16, whatever is summed over voxels or kept from step to step is float32."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ars_jax import losses
from ars_jax.models import Convolution, VNet
from ars_jax.models.vnet import Remat
from tests.small_runs import quick_compilation

MODEL = VNet(3, "released", 2, 1, 0.5, form="native", dtype=jnp.bfloat16)
SHAPE = (1, 32, 16, 16)


@pytest.fixture(scope="module", autouse=True)
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with quick_compilation(tmp_path_factory.getbasetemp()):
        yield


def shapes_of(model: VNet) -> Any:
    x = jax.ShapeDtypeStruct((*SHAPE, 1), jnp.float32)
    return jax.eval_shape(lambda key, x: model.init(key, x, train=False), jax.random.key(0), x)


def equations(program: Any) -> Iterator[Any]:
    """Those of a program and of all programs within it."""
    for equation in program.eqns:
        yield equation
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


@pytest.mark.parametrize("remat", ["none", "stages"])
def test_no_sum_is_taken_in_bfloat16(remat: Remat) -> None:
    """Forward and backward: of batch statistics, of the loss, and of the gradients of scales, slopes and biases."""
    model = MODEL.clone(remat=remat)

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
    sums = [e for e in equations(program.jaxpr) if e.primitive.name in ("reduce_sum", "cumsum", "reduce_window_sum")]
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
