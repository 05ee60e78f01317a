"""Objective, optimiser and one training step, as the training compiles it."""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.stages import Compiled
from optax import tree_utils
from rich.console import Console

from ars_jax import losses
from ars_jax.config import OptimConfig
from ars_jax.data.augment import UNCHANGED, apply
from ars_jax.data.plan import Sample
from ars_jax.data.prepare import normalised
from ars_jax.losses import Objective, RegionSize
from ars_jax.mesh import Mesh, make_mesh, put_batch, replicated
from ars_jax.models import VNet
from ars_jax.options import read_config
from ars_jax.train import loop
from ars_jax.train.inputs import Inputs
from ars_jax.train.record import Recorder
from ars_jax.train.state import TrainState, place_state
from ars_jax.train.step import make_optimizer, train_step
from tests.data.synthetic import LABELS, PLAN, ct, grid
from tests.objectives import ARS, RS
from tests.small_runs import DEVICES, write_config

OTHERS = ("focal_tversky", "generalized_dice", "sensitivity_specificity")
OBJECTIVES = ("cross_entropy", "dice", "baseline", RS, ARS, *OTHERS)
CANVAS = (16, 16, 16)


pytestmark = pytest.mark.usefixtures("quick")


def small_sample(seed: int) -> Sample:
    image, label = ct(grid(CANVAS), seed)
    channels = np.searchsorted([0, *LABELS.values()], label.array).astype(np.uint8)
    sample = Sample("case", normalised(image.array, PLAN), channels, np.ones(3, bool))
    return apply(UNCHANGED, sample, CANVAS, (), -1)


def batch_of(samples: list[Sample]) -> dict[str, np.ndarray]:
    stacked = {key: np.stack([getattr(sample, key) for sample in samples]) for key in ("image", "label", "labelled")}
    return {**stacked, "image": stacked["image"][..., None]}


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled step with what makes its first state."""

    mesh: Mesh
    first: TrainState
    step: Compiled

    def first_state(self) -> TrainState:
        """A copy, because a step gives its state up."""
        return jax.tree.map(jnp.copy, self.first)

    def run(self, state: TrainState, batch: dict[str, np.ndarray]) -> tuple[TrainState, dict[str, Any]]:
        return self.step(state, put_batch(self.mesh, batch))


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Program, Program]:
    """The step as `train` compiles it on one device and on eight; the one is long, so that its learning rate lasts.

    The variant with smooth activations: where a PReLU's input is 0 but for rounding, its gradient jumps.
    """
    folder = tmp_path_factory.mktemp("step")
    config = read_config(write_config(folder / "config.yaml", folder, folder))
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, variant="monai"))
    long = dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=500))
    samples = (small_sample(0),) * 9
    plan, split = dataclasses.replace(PLAN, canvas=CANVAS), {"train": {}, "validation": {}}
    inputs = Inputs(plan, (folder / "case.npz",) * 9, samples, samples, CANVAS, False, split)
    setup = loop._set_up(config, inputs)
    alone = dataclasses.replace(loop._set_up(long, inputs), mesh=make_mesh(1))
    first = place_state(setup.model, setup.optimizer, config.train.seed, replicated(setup.mesh))
    programs = []
    for one in (alone, setup):
        state = jax.device_put(first, replicated(one.mesh))
        with Recorder(folder / "metrics.jsonl", Console(quiet=True), 1, 1) as recorder:
            programs.append(Program(one.mesh, state, loop._compile_step(one, state, recorder)))
    return programs[0], programs[1]


def test_eight_devices_equal_one(programs: tuple[Program, Program]) -> None:
    """Gradients, parameters and running statistics, with dropout: normalisation is over the whole batch.

    Adam's first step is the sign of the gradient, so that of gradients near 0 it shows nothing but rounding.
    """
    batch = batch_of([small_sample(seed) for seed in range(DEVICES)])
    (one, metrics), (eight, spread_metrics) = (program.run(program.first_state(), batch) for program in programs)
    np.testing.assert_allclose(spread_metrics["loss"], metrics["loss"], rtol=1e-5)
    np.testing.assert_array_equal(eight.step, one.step)

    def pairs(state: Callable[[TrainState], Any]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        leaves = (jax.tree.leaves(state(single)) for single in (one, eight))
        yield from ((np.asarray(first), np.asarray(second)) for first, second in zip(*leaves, strict=True))

    for single, spread in pairs(lambda state: state.batch_stats):
        np.testing.assert_allclose(spread, single, atol=1e-5)
    moments = list(pairs(lambda state: tree_utils.tree_get(state.opt_state, "mu")))
    largest = max(np.abs(single).max() for single, _ in moments)
    for (before, after), (single, spread) in zip(pairs(lambda state: state.params), moments, strict=True):
        np.testing.assert_allclose(spread, single, atol=1e-5 * largest)
        clear = np.abs(single) > 1e-4 * largest
        np.testing.assert_allclose(after[clear], before[clear], atol=1e-5)


def test_every_parameter_is_trained(programs: tuple[Program, Program]) -> None:
    program = programs[0]
    state, _ = program.run(program.first_state(), batch_of([small_sample(seed) for seed in range(DEVICES)]))
    moved = jax.tree.map(lambda new, old: bool((new != old).any()), state.params, program.first.params)
    still = [
        jax.tree_util.keystr(path) for path, any_of_it in jax.tree_util.tree_leaves_with_path(moved) if not any_of_it
    ]
    assert not still


def test_every_device_holds_the_parameters_and_a_share_of_the_batch(programs: tuple[Program, Program]) -> None:
    (state, batch), _ = programs[1].step.input_shardings
    assert {sharding.shard_shape((DEVICES,)) for sharding in jax.tree.leaves(state)} == {(DEVICES,)}
    assert {sharding.shard_shape((DEVICES, 16)) for sharding in jax.tree.leaves(batch)} == {(1, 16)}


def test_thirty_steps_on_one_sample_learn_it(programs: tuple[Program, Program]) -> None:
    program = programs[0]
    batch = batch_of([small_sample(0)] * DEVICES)
    state, values = program.first_state(), []
    for _ in range(30):
        state, metrics = program.run(state, batch)
        values.append(float(metrics["loss"]))
    assert int(state.step) == 30
    assert np.mean(values[-3:]) < 0.8 * values[0], values


def test_the_old_state_is_given_up(programs: tuple[Program, Program]) -> None:
    """The new state takes its memory, so that parameters and moments lie there once."""
    for program in programs:
        state = program.first_state()
        program.run(state, batch_of([small_sample(0)] * DEVICES))
        large = [leaf for leaf in jax.tree.leaves((state.params, state.batch_stats, state.opt_state)) if leaf.ndim]
        assert all(leaf.is_deleted() for leaf in large)


def test_the_key_of_the_run_stays_and_its_steps_differ(programs: tuple[Program, Program]) -> None:
    """Dropout draws from (key, step): the same state gives the same step, the next one drops other channels."""
    program = programs[0]
    batch = batch_of([small_sample(0)] * DEVICES)
    first, again = (program.run(program.first_state(), batch) for _ in range(2))
    assert first[1]["loss"] == again[1]["loss"]
    key = jax.random.key_data(program.first.key)
    np.testing.assert_array_equal(jax.random.key_data(first[0].key), key)
    later = dataclasses.replace(program.first_state(), step=jnp.int32(1))
    assert program.run(later, batch)[1]["loss"] != first[1]["loss"]


class GivenLogits:
    """Stands in for the network: its parameters are the logits."""

    def apply(self, variables: dict[str, Any], image: jax.Array, **_: Any) -> tuple[jax.Array, dict[str, Any]]:
        return variables["params"], {"batch_stats": variables["batch_stats"]}


def step_on_logits(
    logits: np.ndarray, labels: np.ndarray, labelled: list[bool], objective: Any, *, partly: bool = True
) -> tuple[float, np.ndarray]:
    """The loss of given logits, and its gradient by them, which one step of plain descent reveals."""
    optimizer = optax.sgd(1.0)
    params = jnp.asarray(logits)
    state = TrainState(jnp.int32(0), params, {}, optimizer.init(params), jax.random.key(0))
    batch = {
        "image": jnp.zeros((*labels.shape, 1)),
        "label": jnp.asarray(labels),
        "labelled": jnp.asarray([labelled] * len(labels)),
    }
    loss = Objective(dict.fromkeys(objective.split("+"), 1.0), regions=2)
    after, metrics = train_step(cast(VNet, GivenLogits()), optimizer, loss, partly, state, batch)
    return float(metrics["loss"]), np.asarray(params - after.params)


def logits_and_labels() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits that find organ 2 in a corner where nothing is drawn, the same with background there, and labels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (1, 4, 4, 4)).astype(np.uint8)
    labels[0, :2] = 0
    logits = rng.normal(size=(1, 4, 4, 4, 3)).astype(np.float32)
    logits[0, :2, ..., 2] = 8
    background = logits.copy()
    background[0, :2] = logits[0, :2][..., [2, 1, 0]]
    return logits, background, labels


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_organ_that_was_not_drawn_costs_nothing(objective: str) -> None:
    """Its voxels are background in the label map: predicted as organ or as background, the loss is the same."""
    organ, background, labels = logits_and_labels()
    undrawn = [True, True, False]
    (found, slope), (expected, _) = (step_on_logits(x, labels, undrawn, objective) for x in (organ, background))
    assert np.isfinite(slope).all()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_organ_that_is_merely_absent_costs(objective: str) -> None:
    organ, background, labels = logits_and_labels()
    drawn = [True, True, True]
    (found, _), (expected, _) = (step_on_logits(x, labels, drawn, objective) for x in (organ, background))
    assert found > 1.1 * expected + 0.1


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_heeding_the_flags_changes_nothing_where_all_was_drawn(objective: str) -> None:
    logits, _, labels = logits_and_labels()
    drawn = [True, True, True]
    heeded, ignored = (step_on_logits(logits, labels, drawn, objective, partly=partly) for partly in (True, False))
    np.testing.assert_allclose(heeded[0], ignored[0], rtol=1e-6)
    np.testing.assert_allclose(heeded[1], ignored[1], atol=1e-6)


OTHER: dict[str, Any] = {
    "cross_entropy_weight": 0.2,
    "cross_entropy_reduction": "sum",
    "regions": (2, 1, 4),
    "min_penalty": 0.2,
    "penalty_range": 0.6,
    "adaptive_gradient": "through",
    "absent_classes": "include",
    "reduction": "mean",
    "eps": 1e-3,
    "fp_weight": 0.4,
    "fn_weight": 0.9,
    "gamma": 2.0,
    "sensitivity_weight": 0.2,
}
DIVISION = {key: OTHER[key] for key in ("regions", "absent_classes", "reduction", "eps")}
BY_HAND: dict[str, Callable[..., Any]] = {
    "cross_entropy": partial(losses.cross_entropy, reduction="sum"),
    "dice": partial(losses.dice, eps=1e-3),
    "baseline": lambda x, y: losses.dice(x, y, eps=1e-3) + 0.2 * losses.cross_entropy(x, y, reduction="sum"),
    RS: lambda x, y: BY_HAND["baseline"](x, y) + 0.7 * losses.region_specific(x, y, **DIVISION),
    ARS: lambda x, y: (
        BY_HAND["baseline"](x, y)
        + 0.7 * losses.adaptive_region_specific(x, y, min_penalty=0.2, penalty_range=0.6, **DIVISION)
    ),
    "focal_tversky": partial(losses.focal_tversky, fp_weight=0.4, fn_weight=0.9, gamma=2.0, eps=1e-3),
    "generalized_dice": partial(losses.generalized_dice, absent_classes="include", eps=1e-3),
    "sensitivity_specificity": partial(losses.sensitivity_specificity, sensitivity_weight=0.2, eps=1e-3),
}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_objectives_are_sums_of_the_losses_with_every_option(objective: Any) -> None:
    """Values and gradients, with no option at its default."""
    logits, _, labels = logits_and_labels()
    weights = {term: 0.7 if "region" in term else 1.0 for term in objective.split("+")}
    loss = Objective(weights, **OTHER)
    found, slope = jax.value_and_grad(lambda x: loss(x, labels)[0])(logits)
    expected, expected_slope = jax.value_and_grad(lambda x: BY_HAND[objective](x, labels))(logits)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(slope, expected_slope, atol=1e-5 * np.abs(expected_slope).max())


def test_a_region_size_is_the_number_of_regions_that_it_makes() -> None:
    logits, _, labels = logits_and_labels()
    by_number, by_size = (
        Objective(**{**OTHER, "regions": regions})(logits, labels)[0] for regions in ((2, 1, 4), RegionSize((2, 4, 1)))
    )
    np.testing.assert_allclose(by_size, by_number, rtol=1e-6)


class Pointwise:
    """Stands in for a network without batch normalisation: every voxel by itself, through hidden features."""

    def apply(self, variables: dict[str, Any], image: jax.Array, **_: Any) -> tuple[jax.Array, dict[str, Any]]:
        hidden = jnp.tanh(image * variables["params"]["first"])
        seen = variables["batch_stats"] + image.mean()
        return hidden @ variables["params"]["second"], {"batch_stats": 0.5 * seen}


def pointwise_step(accumulate: int) -> tuple[Any, tuple[TrainState, dict[str, jax.Array]]]:
    """A step of plain descent on six random volumes, and its arguments."""
    rng = np.random.default_rng(0)
    params = {"first": rng.normal(size=32).astype(np.float32), "second": rng.normal(size=(32, 3)).astype(np.float32)}
    batch = {
        "image": rng.normal(size=(6, 8, 8, 8, 1)).astype(np.float32),
        "label": rng.integers(0, 3, (6, 8, 8, 8)).astype(np.uint8),
        "labelled": rng.random((6, 3)) < 0.7,
    }
    optimizer, loss = optax.sgd(1.0), Objective(regions=2)
    state = TrainState(jnp.int32(0), params, jnp.float32(0), optimizer.init(params), jax.random.key(0))
    step = partial(train_step, cast(VNet, Pointwise()), optimizer, loss, True, accumulate=accumulate)
    return jax.jit(step), (state, jax.tree.map(jnp.asarray, batch))


def test_a_batch_in_parts_gives_the_gradients_of_the_whole() -> None:
    """Where samples do not see each other in the network: parameters, loss and parts of the loss."""
    (whole, metrics), *others = (step(*arguments) for step, arguments in map(pointwise_step, (1, 3)))
    assert np.abs(whole.params["first"] - pointwise_step(1)[1][0].params["first"]).max() > 1e-3
    for state, found in others:
        jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), state.params, whole.params)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5), found, metrics)
        assert state.step == 1


def test_running_statistics_go_from_part_to_part() -> None:
    """A part takes every n-th case."""
    step, (state, batch) = pointwise_step(accumulate=3)
    expected = 0.0
    for part in range(3):
        expected = 0.5 * (expected + float(batch["image"][part::3].mean()))
    np.testing.assert_allclose(step(state, batch)[0].batch_stats, expected, rtol=1e-4)


def test_a_batch_in_parts_needs_less_memory() -> None:
    whole, parts = (
        step.lower(*arguments).compile().memory_analysis().temp_size_in_bytes
        for step, arguments in map(pointwise_step, (1, 6))
    )
    assert 2 * parts < whole


def learning_rates(config: OptimConfig, steps: int) -> np.ndarray:
    """With a gradient that never changes every step of Adam is the learning rate itself."""
    optimizer = make_optimizer(config, steps)
    params = jnp.zeros(())
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    rates = []
    for _ in range(steps):
        change, state = update(jnp.ones(()), state, params)
        rates.append(-float(change))
    return np.array(rates)


def test_the_learning_rate_rises_and_falls_along_half_a_cosine() -> None:
    rates = learning_rates(OptimConfig(learning_rate=0.1, schedule="cosine", warmup=0.2), steps=20)
    np.testing.assert_allclose(rates[:5], [0, 0.025, 0.05, 0.075, 0.1], atol=1e-6)
    fall = 0.1 * (1 + np.cos(np.pi * np.arange(16) / 16)) / 2
    np.testing.assert_allclose(rates[4:], fall, atol=1e-6)


def test_without_warmup_the_first_step_has_the_whole_learning_rate() -> None:
    for schedule in ("cosine", "constant"):
        rates = learning_rates(OptimConfig(learning_rate=0.1, schedule=schedule, warmup=0.0), steps=10)
        np.testing.assert_allclose(rates[0], 0.1, rtol=1e-5)
        assert (np.diff(rates) < 1e-5).all()
        assert (rates[-1] < 0.01) == (schedule == "cosine")


def test_a_constant_learning_rate_can_be_warmed_up() -> None:
    rates = learning_rates(OptimConfig(learning_rate=0.1, schedule="constant", warmup=0.4), steps=10)
    np.testing.assert_allclose(rates, [0, 0.025, 0.05, 0.075, *[0.1] * 6], atol=1e-6)


def test_a_training_of_one_step_has_an_optimizer() -> None:
    np.testing.assert_allclose(learning_rates(OptimConfig(learning_rate=0.1, warmup=0.9), steps=1), [0], atol=1e-6)
    np.testing.assert_allclose(learning_rates(OptimConfig(learning_rate=0.1), steps=1), [0.1], rtol=1e-5)


@pytest.mark.parametrize(("norm", "expected"), [(None, 1.0), (2.0, 0.4), (10.0, 1.0)])
def test_clipping_scales_the_whole_gradient(norm: float | None, expected: float) -> None:
    """The first moment is a tenth of the gradient that Adam was given; the gradient's norm is 5."""
    optimizer = make_optimizer(OptimConfig(clip_norm=norm), 10)
    gradient = {"a": jnp.asarray([3.0, 0.0]), "b": jnp.asarray([4.0])}
    _, state = optimizer.update(gradient, optimizer.init(gradient), gradient)
    moment = tree_utils.tree_get(state, "mu")
    np.testing.assert_allclose(moment["a"], [0.3 * expected, 0], rtol=1e-5)
    np.testing.assert_allclose(moment["b"], [0.4 * expected], rtol=1e-5)
