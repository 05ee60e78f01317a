"""The whole training step lowers for every kind of device on a machine that has none of them."""

import re
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax import export

from ars_jax.config import LossConfig, OptimConfig
from ars_jax.models import VNet
from ars_jax.train.compile import batch_shapes
from ars_jax.train.state import TrainState, create_state
from ars_jax.train.step import make_loss, make_optimizer, train_step

MODEL = VNet(classes=3, base_channels=2, kernel_size=3, dropout=0.2)
OPTIMIZER = make_optimizer(OptimConfig(), steps=10)


@pytest.fixture(scope="module")
def state() -> TrainState:
    return jax.eval_shape(partial(create_state, MODEL, OPTIMIZER, 0))


@pytest.fixture(scope="module")
def step() -> jax.stages.Wrapped:
    """V-Net with dropout, baseline and ARS, Adam; traced once for all tests."""
    loss = make_loss(LossConfig(objective="baseline+ars", grid=2))
    return jax.jit(partial(train_step, MODEL, OPTIMIZER, loss, True), donate_argnums=0)


def exported(step: jax.stages.Wrapped, state: TrainState, platforms: Sequence[str]) -> export.Exported:
    return export.export(step, platforms=platforms)(state, batch_shapes(1, (16, 16, 16), MODEL.classes))


def convolved_axes(program: export.Exported) -> set[int]:
    """The numbers of spatial axes that the convolutions of a program have."""
    return {
        len(re.findall(r"\d", axes)) for axes in re.findall(r"dim_numbers = \[b?f?, ([^\]]*)\]x", program.mlir_module())
    }


def test_the_step_lowers_for_cpu_gpu_and_tpu(step: jax.stages.Wrapped, state: TrainState) -> None:
    """Nothing of it is for one kind of device alone, and the state keeps its shapes and types."""
    platforms = ("cpu", "cuda", "tpu")
    program = exported(step, state, platforms)
    assert program.platforms == platforms
    after, _ = jax.tree.unflatten(program.out_tree, program.out_avals)
    before = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), after) == before


def test_the_step_lowers_for_a_tpu_as_it_is_compiled_there(state: TrainState) -> None:
    """Packed, in bfloat16 and with stages computed again; the parameters are those of the plain network."""
    model = MODEL.clone(packed=True, dtype=jnp.bfloat16, remat="stages")
    loss = make_loss(LossConfig(objective="baseline+ars", grid=2))
    step = jax.jit(partial(train_step, model, OPTIMIZER, loss, True), donate_argnums=0)
    program = exported(step, state, ("tpu",))
    assert program.platforms == ("tpu",)
    assert convolved_axes(program) == {3}
    after, _ = jax.tree.unflatten(program.out_tree, program.out_avals)
    before = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), after) == before


@pytest.mark.parametrize(("platforms", "axes"), [(("cuda", "tpu"), {3}), (("cpu",), {2})])
def test_convolutions_have_the_form_for_the_devices_that_are_compiled_for(
    step: jax.stages.Wrapped, state: TrainState, platforms: Sequence[str], axes: set[int]
) -> None:
    """Not the form for this machine: accelerators convolve volumes, a CPU the planes that they are made of."""
    assert convolved_axes(exported(step, state, platforms)) == axes
