"""Batch, depth and parameters divided over devices: one device's step, without gathering a volume."""

import math
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.stages import Compiled

from ars_jax.config import Config, DataConfig, MeshConfig, ModelConfig, RunConfig, TrainConfig
from ars_jax.losses import Objective
from ars_jax.mesh import LEAST_DIVIDED, make_mesh, put_batch, state_shardings
from ars_jax.models.convolution import Form
from ars_jax.predict import make_model
from ars_jax.train.compile import batch_shapes, lower_step
from ars_jax.train.state import create_state, state_shapes
from ars_jax.train.step import make_optimizer
from tests.train.same_step import Result, assert_same_step

CLASSES, BATCH, CANVAS = 3, 4, (128, 16, 16)
CONFIG = Config(
    DataConfig(Path("nowhere")),
    RunConfig(Path("nowhere")),
    # Smooth activations: where a PReLU's input is 0 but for rounding, its gradient jumps.
    model=ModelConfig("monai", base_channels=2, kernel_size=3, dropout=0.2),
    loss=Objective(regions=(3, 2, 2)),
    train=TrainConfig(batch_size=BATCH),
    mesh=MeshConfig(data=1),
)
MODEL, OPTIMIZER = make_model(CONFIG.model, CLASSES), make_optimizer(CONFIG.optim, 1)
SHAPES = state_shapes(MODEL, OPTIMIZER)


pytestmark = pytest.mark.usefixtures("quick")


def batch() -> dict[str, np.ndarray]:
    """Random volumes, each with one organ that nobody drew."""
    rng, shapes = np.random.default_rng(0), batch_shapes(BATCH, CANVAS, CLASSES)
    labelled = np.ones(shapes["labelled"].shape, bool)
    undrawn = 1 + np.arange(BATCH) % 2
    labelled[np.arange(BATCH), undrawn] = False
    image = rng.normal(size=shapes["image"].shape).astype(np.float32)
    # Coarse labels, so that their regions differ.
    label = rng.integers(0, CLASSES, (BATCH, CANVAS[0] // 8, 2, 2)).repeat(8, 1).repeat(8, 2).repeat(8, 3)
    label[label == undrawn[:, None, None, None]] = 0
    return {"image": image, "label": label.astype(np.uint8), "labelled": labelled}


@cache
def step_on(config: Config, form: Form = "auto") -> tuple[Compiled, Result]:
    """The compiled step of a mesh, and what it makes of the first state."""
    mesh = make_mesh(config.mesh.data, config.mesh.space)
    lying = state_shardings(mesh, SHAPES, config.mesh.parameters)
    lowered = lower_step(config, MODEL.clone(form=form), OPTIMIZER, SHAPES, mesh, canvas=CANVAS, partly_labelled=True)
    compiled = lowered.compile()
    # A step gives its state up, and what is laid on the same device is not copied.
    state = jax.device_put(jax.tree.map(jnp.copy, first_state()), lying)
    return compiled, compiled(state, put_batch(mesh, batch()))


@cache
def first_state() -> Any:
    return jax.jit(lambda: create_state(MODEL, OPTIMIZER, 0))()


def with_mesh(data: int, space: int, parameters: Any) -> Config:
    return replace(CONFIG, mesh=MeshConfig(data, space, parameters))


def gathered(program: Compiled) -> list[tuple[int, ...]]:
    """The shapes of what devices gather from each other."""
    text = program.as_text() or ""
    assert "all-gather-start" not in text, "the shapes would be those of a tuple"
    return [tuple(map(int, shape.split(","))) for shape in re.findall(r"\w\[([\d,]*)\]\S* all-gather\(", text)]


def summed(program: Compiled) -> list[int]:
    """How many numbers each sum over devices has; a volume could be gathered by one, too."""
    results = re.findall(r"= (.*?) all-reduce(?:-start)?\(", program.as_text() or "")
    shapes = [shape for result in results for shape in re.findall(r"\w\[([\d,]*)\]", result)]
    return [math.prod(map(int, filter(None, shape.split(",")))) for shape in shapes]


@pytest.mark.parametrize(
    ("data", "space", "parameters"), [(1, 8, "replicated"), (2, 4, "replicated"), (4, 2, "sharded")]
)
def test_devices_that_share_batch_and_depth_equal_one(data: int, space: int, parameters: Any) -> None:
    """With dropout, organs that nobody drew, and regions that lie on several devices; 8 x 1 is in test_step.

    Borders are exchanged and sums taken; nothing but divided parameters is gathered.
    """
    program, result = step_on(with_mesh(data, space, parameters))
    assert_same_step(result, step_on(CONFIG, "native")[1])
    text = program.as_text() or ""
    assert "collective-permute" in text and "all-reduce" in text and "all-to-all" not in text
    divided = {leaf.shape for leaf in jax.tree.leaves(SHAPES.params) if leaf.size >= LEAST_DIVIDED}
    assert set(gathered(program)) == (divided if parameters == "sharded" else set())
    assert 0 < max(summed(program)) <= max(leaf.size for leaf in jax.tree.leaves(SHAPES.params))


def test_divided_parameters_and_moments_are_a_share_of_the_arguments() -> None:
    program, (state, _) = step_on(with_mesh(4, 2, "sharded"))
    sizes = [leaf.size for leaf in jax.tree.leaves((SHAPES.params, SHAPES.opt_state))]
    large = sum(size for size in sizes if size >= LEAST_DIVIDED)
    volumes = (4 + 1) * BATCH * int(np.prod(CANVAS)) // 8
    at_least = 4 * (sum(sizes) - large + large // 4) + volumes
    assert large > 0.9 * sum(sizes)
    memory = program.memory_analysis()
    assert memory is not None
    assert at_least <= memory.argument_size_in_bytes < at_least + 20_000  # running statistics, the key, padding
    for before, after in zip(jax.tree.leaves(SHAPES.params), jax.tree.leaves(state.params), strict=True):
        shard = after.addressable_shards[0].data
        assert shard.size * (4 if before.size >= LEAST_DIVIDED else 1) == before.size
