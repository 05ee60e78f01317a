"""The objective, the optimiser and one training step, as pure functions."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from ars_jax import losses
from ars_jax.config import LossConfig, OptimConfig
from ars_jax.models import VNet
from ars_jax.train.state import TrainState

Arrays = Mapping[str, jax.Array]
LossFunction = Callable[..., tuple[jax.Array, dict[str, jax.Array]]]


def make_loss(config: LossConfig) -> LossFunction:
    """Composes the configured objective.

    Args:
        config: names the objective and its options.

    Returns:
        A function of `(logits, labels)` that returns the total and its unweighted parts.
    """
    baseline = {"dice": 1.0, "cross_entropy": config.cross_entropy_weight}
    weights = {
        "baseline": baseline,
        "baseline+rs": {**baseline, "region_specific": config.region_weight},
        "baseline+ars": {**baseline, "adaptive_region_specific": config.region_weight},
    }.get(config.objective, {config.objective: 1.0})
    return losses.weighted_sum(
        weights,
        grid=config.grid,
        region_size=config.region_size,
        a=config.a,
        b=config.b,
        adaptive_gradient=config.adaptive_gradient,
        absent=config.absent,
        reduction=config.reduction,
        cross_entropy_reduction=config.cross_entropy_reduction,
        eps=config.eps,
        fp_weight=config.fp_weight,
        fn_weight=config.fn_weight,
        gamma=config.gamma,
        sensitivity_weight=config.sensitivity_weight,
    )


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
) -> tuple[TrainState, dict[str, Any]]:
    """Takes one step of gradient descent.

    Args:
        model: the network.
        optimizer: the optimiser.
        loss: a function of `(logits, labels)` that returns the total and its parts.
        partly_labelled: whether some case says that an organ was not drawn, so that `batch["labelled"]` is heeded.
        state: before the step.
        batch: `image` `[b, z, y, x, 1]`, `label` `[b, z, y, x]`, `labelled` `[b, c]`.

    Returns:
        The state after the step, and `loss` with its unweighted `parts`.
    """
    dropout_key = jax.random.fold_in(state.key, state.step)

    def objective(params: Any) -> tuple[jax.Array, tuple[dict[str, jax.Array], Any]]:
        logits, updated = model.apply(
            {"params": params, "batch_stats": state.batch_stats},
            batch["image"],
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": dropout_key},
        )
        if partly_labelled:
            logits = losses.marginal_logits(logits, batch["labelled"])
        total, parts = loss(logits, batch["label"])
        return total, (parts, updated["batch_stats"])

    (total, (parts, batch_stats)), gradients = jax.value_and_grad(objective, has_aux=True)(state.params)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, batch_stats, opt_state, state.key), {"loss": total, "parts": parts}
