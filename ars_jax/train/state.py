"""What training changes from step to step, as one frozen pytree."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ars_jax.compiled import compiler_options
from ars_jax.models import STRIDE, VNet


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """The state of a training; with the configuration it decides everything that comes after.

    Attributes:
        step: int32, steps done.
        params: the network's parameters, float32.
        batch_stats: running means and variances of batch normalisation, float32.
        opt_state: the optimiser's moments.
        key: the run's random key; a step uses `fold_in(key, step)`.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    key: jax.Array


def create_state(model: VNet, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """Draws the parameters. Pure, so that it can be jitted with the wanted shardings or only evaluated for shapes.

    Args:
        model: the network; parameters do not depend on the size of its input.
        optimizer: the optimiser.
        seed: 0 or more.

    Returns:
        The state before the first step.
    """
    init_key, run_key = jax.random.split(jax.random.key(seed))
    volume = jax.ShapeDtypeStruct((1, STRIDE, STRIDE, STRIDE, 1), jnp.float32)
    variables = model.lazy_init(init_key, volume, train=False)
    params = variables["params"]
    return TrainState(jnp.int32(0), params, variables["batch_stats"], optimizer.init(params), run_key)


def checkpoint_items(state: TrainState) -> dict[str, Any]:
    """Divides the state, or what has its form, into what prediction needs and what only training needs."""
    return {
        "model": {"params": state.params, "batch_stats": state.batch_stats},
        "training": {"step": state.step, "opt_state": state.opt_state, "key": state.key},
    }


def state_shapes(model: VNet, optimizer: optax.GradientTransformation) -> TrainState:
    """Returns the shapes of the state of a training, without computing anything."""
    return jax.eval_shape(partial(create_state, model, optimizer, 0))


def place_state(model: VNet, optimizer: optax.GradientTransformation, seed: int, sharding: Any = None) -> TrainState:
    """Draws the parameters on their devices.

    Args:
        model: the network.
        optimizer: the optimiser.
        seed: 0 or more.
        sharding: how every array lies, one for all or a tree of them; the default device has all by default.

    Returns:
        The state before the first step.
    """
    options = compiler_options(jax.default_backend())
    return jax.jit(partial(create_state, model, optimizer, seed), out_shardings=sharding, compiler_options=options)()


def count_parameters(state: TrainState) -> int:
    """Returns the number of trained parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(state.params))
