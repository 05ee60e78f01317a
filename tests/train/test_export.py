"""The whole training step lowers for every kind of device on a machine that has none of them."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import export

from ars_jax.config import LossConfig, OptimConfig
from ars_jax.models import VNet
from ars_jax.train.state import create_state
from ars_jax.train.step import make_loss, make_optimizer, train_step

PLATFORMS = ("cpu", "cuda", "tpu")


def test_the_step_lowers_for_cpu_gpu_and_tpu() -> None:
    """V-Net with dropout, baseline and ARS, Adam: nothing of it is for one kind of device alone."""
    shape, classes = (1, 16, 16, 16), 3
    model = VNet(classes=classes, base_channels=2, kernel_size=3, dropout=0.2)
    optimizer = make_optimizer(OptimConfig(), steps=10)
    loss = make_loss(LossConfig(objective="baseline+ars", grid=2))
    state = jax.eval_shape(partial(create_state, model, optimizer, 0))
    batch = {
        "image": jax.ShapeDtypeStruct((*shape, 1), jnp.float32),
        "label": jax.ShapeDtypeStruct(shape, jnp.uint8),
        "labelled": jax.ShapeDtypeStruct((1, classes), jnp.bool_),
    }
    step = jax.jit(partial(train_step, model, optimizer, loss, True), donate_argnums=0)
    exported = export.export(step, platforms=PLATFORMS)(state, batch)
    assert exported.platforms == PLATFORMS
    after, _ = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    before = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), after) == before
