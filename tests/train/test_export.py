"""The whole training step lowers for every kind of device on a machine that has none of them."""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import pytest
from jax import export

from ars_jax.config import Config, DataConfig, OptimConfig, RunConfig
from ars_jax.losses import Objective
from ars_jax.mesh import make_mesh
from ars_jax.models import VNet
from ars_jax.train.compile import batch_shapes, lower_step
from ars_jax.train.state import TrainState, create_state
from ars_jax.train.step import make_optimizer, train_step

CANVAS = (16, 16, 16)
MODEL = VNet(classes=3, base_channels=2, kernel_size=3, dropout=0.2)
OPTIMIZER = make_optimizer(OptimConfig(), steps=10)


@pytest.fixture(scope="module")
def state() -> TrainState:
    return jax.eval_shape(partial(create_state, MODEL, OPTIMIZER, 0))


@pytest.fixture(scope="module")
def step() -> jax.stages.Wrapped:
    """V-Net with dropout, baseline and ARS, Adam; traced once for all tests."""
    loss = Objective(regions=2)
    return jax.jit(partial(train_step, MODEL, OPTIMIZER, loss, True), donate_argnums=0)


def exported(step: jax.stages.Wrapped, state: TrainState, platforms: Sequence[str]) -> export.Exported:
    return export.export(step, platforms=platforms)(state, batch_shapes(1, CANVAS, MODEL.classes))


def test_the_step_lowers_for_cpu_gpu_and_tpu(step: jax.stages.Wrapped, state: TrainState) -> None:
    """Nothing of it is for one kind of device alone, and the state keeps its shapes and types."""
    platforms = ("cpu", "cuda", "tpu")
    program = exported(step, state, platforms)
    assert program.platforms == platforms
    after, _ = jax.tree.unflatten(program.out_tree, program.out_avals)
    before = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), after) == before


@pytest.mark.parametrize(("platform", "axes", "depth"), [("cpu", 2, None), ("cuda", 3, 16), ("tpu", 3, 8)])
def test_the_step_that_is_compiled_has_the_form_for_its_devices(
    state: TrainState, platform: str, axes: int, depth: int | None
) -> None:
    """Not for this machine: accelerators convolve volumes, a CPU the planes of them; and only TPUs have them packed."""
    folder = Path("nowhere")
    config = Config(DataConfig(folder), RunConfig(folder), loss=Objective(regions=2))
    model = MODEL.clone(dtype=jnp.bfloat16, remat="stages")
    lowered = lower_step(
        config, model, OPTIMIZER, state, make_mesh(1), canvas=CANVAS, partly_labelled=True, platform=platform
    )
    shapes = re.findall(r"stablehlo\.convolution.*: \(tensor<([0-9x]+)x[a-z]", lowered.as_text())
    sides = [[int(side) for side in shape.split("x")] for shape in shapes]
    assert {len(shape) - 2 for shape in sides} == {axes}
    assert depth is None or max(shape[1] for shape in sides) == depth
    jax.tree.map(lambda before, after: chex.assert_equal_shape([before, after]), state, lowered.out_info[0])
    assert jax.tree.map(lambda leaf: leaf.dtype, lowered.out_info[0]) == jax.tree.map(lambda leaf: leaf.dtype, state)
