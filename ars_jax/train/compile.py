"""The one place that lowers the training step: what is planned is what is trained."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.stages import Lowered

from ars_jax.compiled import compiler_options
from ars_jax.config import Config
from ars_jax.mesh import Mesh, batch_shardings, replicated, state_shardings
from ars_jax.models import VNet, packs_volumes
from ars_jax.train.state import TrainState
from ars_jax.train.step import train_step


def batch_shapes(batch_size: int, canvas: tuple[int, int, int], classes: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Says what a batch is made of.

    Args:
        batch_size: cases of a step, over all devices.
        canvas: voxels z, y, x.
        classes: background included.

    Returns:
        `image` `[b, z, y, x, 1]`, `label` `[b, z, y, x]` and `labelled` `[b, c]`.
    """
    shape = (batch_size, *canvas)
    return {
        "image": jax.ShapeDtypeStruct((*shape, 1), jnp.float32),
        "label": jax.ShapeDtypeStruct(shape, jnp.uint8),
        "labelled": jax.ShapeDtypeStruct((batch_size, classes), jnp.bool_),
    }


def lower_step(
    config: Config,
    model: VNet,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    mesh: Mesh,
    *,
    canvas: tuple[int, int, int],
    partly_labelled: bool,
    platform: str | None = None,
) -> Lowered:
    """Lowers the step for the devices of a mesh, which need not be there; the state is donated.

    On a TPU volumes are packed, see `models.packing`. Where several devices share a volume, convolutions have the form
    that exchanges borders and gathers nothing; on a CPU it is several times slower than the forms that are chosen there
    otherwise. Divided parameters are gathered once in a step, and the gradients divided like them before the optimiser
    sees them.

    Args:
        config: the objective, the batch size and whether parameters are divided.
        model: the network.
        optimizer: the optimiser.
        state: the state before the step, or its shapes.
        mesh: the devices.
        canvas: voxels z, y, x of a sample.
        partly_labelled: see `train_step`.
        platform: another kind of device than the mesh's ("cpu", "cuda" or "tpu"), to look at what it would be given.

    Returns:
        The lowered step, a function of state and batch.
    """
    target = platform or mesh.devices.flat[0].platform
    form = "divided" if mesh.shape["space"] > 1 else model.form
    model = model.clone(packed=packs_volumes(target), form=form)
    batch = batch_shapes(config.train.batch_size, canvas, model.classes)
    everywhere, lying = replicated(mesh), state_shardings(mesh, state, config.mesh.parameters)
    loss = dataclasses.replace(config.loss, depth_shards=mesh.shape["space"])
    step: Any = partial(train_step, model, optimizer, loss, partly_labelled, accumulate=config.train.accumulate)
    if config.mesh.parameters == "sharded":
        lay = jax.lax.with_sharding_constraint
        step = partial(step, gather=partial(lay, shardings=everywhere), scatter=partial(lay, shardings=lying.params))
    jitted = jax.jit(
        step,
        in_shardings=(lying, batch_shardings(mesh, batch)),
        out_shardings=(lying, everywhere),
        donate_argnums=0,
        compiler_options=compiler_options(target, save_memory=model.remat != "none"),
    )
    return jitted.trace(state, batch).lower(lowering_platforms=(platform,) if platform else None)
