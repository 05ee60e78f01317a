"""The objective, the optimiser and one training step, as pure functions."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ars_jax import losses
from ars_jax.config import OptimConfig
from ars_jax.models import VNet
from ars_jax.train.state import TrainState

Arrays = Mapping[str, jax.Array]
LossFunction = Callable[..., tuple[jax.Array, dict[str, jax.Array]]]


def make_optimizer(config: OptimConfig, steps: int) -> optax.GradientTransformation:
    """Makes Adam with the configured learning rate.

    Args:
        config: the learning rate and its schedule.
        steps: length of the training.

    Returns:
        The optimiser.
    """
    warmup = round(config.warmup * steps)
    if config.schedule == "cosine":
        rate = optax.schedules.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, max(steps, warmup + 1))
    else:
        rate = optax.schedules.linear_schedule(0.0, config.learning_rate, warmup) if warmup else config.learning_rate
    clip = optax.identity() if config.clip_norm is None else optax.clip_by_global_norm(config.clip_norm)
    return optax.chain(clip, optax.adam(rate))


def train_step(
    model: VNet,
    optimizer: optax.GradientTransformation,
    loss: LossFunction,
    partly_labelled: bool,
    state: TrainState,
    batch: Arrays,
    *,
    accumulate: int = 1,
    gather: Callable[[Any], Any] = lambda parameters: parameters,
    scatter: Callable[[Any], Any] = lambda gradients: gradients,
) -> tuple[TrainState, dict[str, Any]]:
    """Takes one step of gradient descent.

    Args:
        model: the network.
        optimizer: the optimiser.
        loss: a function of `(logits, labels)` that returns the total and its parts.
        partly_labelled: whether some case says that an organ was not drawn, so that `batch["labelled"]` is heeded.
        state: before the step.
        batch: `image` `[b, z, y, x, 1]`, `label` `[b, z, y, x]`, `labelled` `[b, c]`.
        accumulate: parts into which the batch is divided, one after another in memory; b is a multiple of it. The
            gradients are averaged, and each part is normalised by itself.
        gather: brings divided parameters whole to every device that computes with them.
        scatter: divides the gradients as the parameters are.

    Returns:
        The state after the step, and `loss` with its unweighted `parts`, means over the parts of the batch.
    """
    dropout_key = jax.random.fold_in(state.key, state.step)
    differentiate = partial(_differentiate, model, loss, partly_labelled, scatter, gather(state.params))
    if accumulate == 1:
        gradients, batch_stats, metrics = differentiate(state.batch_stats, dropout_key, batch)
    else:
        gradients, batch_stats, metrics = _accumulate(differentiate, accumulate, state, dropout_key, batch)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, batch_stats, opt_state, state.key), metrics


def _differentiate(
    model: VNet,
    loss: LossFunction,
    partly_labelled: bool,
    scatter: Callable[[Any], Any],
    params: Any,
    batch_stats: Any,
    key: jax.Array,
    batch: Arrays,
) -> tuple[Any, Any, dict[str, Any]]:
    """Returns the gradients, the running statistics after the batch, and the loss with its parts."""

    def objective(params: Any) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
        variables = {"params": params, "batch_stats": batch_stats}
        logits, updated = model.apply(
            variables, batch["image"], train=True, mutable=["batch_stats"], rngs={"dropout": key}
        )
        if partly_labelled:
            logits = losses.merge_unlabelled(logits, batch["labelled"])
        total, parts = loss(logits, batch["label"])
        return total, (parts, updated["batch_stats"])

    (total, (parts, updated)), gradients = jax.value_and_grad(objective, has_aux=True)(params)
    return scatter(gradients), updated, {"loss": total, "parts": parts}


def _accumulate(
    differentiate: Callable[..., tuple[Any, Any, Any]], count: int, state: TrainState, key: jax.Array, batch: Arrays
) -> tuple[Any, Any, dict[str, Any]]:
    """Averages over the parts of a batch; the running statistics go from part to part.

    A part takes every count-th case, so that all devices work at it and no case moves between them.
    """
    parts = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, count, *x.shape[1:]), 1, 0), batch)

    def add(carry: tuple[Any, Any], numbered: tuple[jax.Array, Arrays]) -> tuple[tuple[Any, Any], dict[str, Any]]:
        (batch_stats, sums), (number, part) = carry, numbered
        gradients, batch_stats, metrics = differentiate(batch_stats, jax.random.fold_in(key, number), part)
        return (batch_stats, jax.tree.map(jnp.add, sums, gradients)), metrics

    start = (state.batch_stats, jax.tree.map(jnp.zeros_like, state.params))
    (batch_stats, sums), metrics = jax.lax.scan(add, start, (jnp.arange(count), parts))
    mean = partial(jnp.mean, axis=0)
    return jax.tree.map(lambda total: total / count, sums), batch_stats, jax.tree.map(mean, metrics)
