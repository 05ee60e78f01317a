"""A training, read from top to bottom."""

from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, NoReturn

import jax
import optax
from jax.stages import Compiled
from rich.console import Console

from ars_jax.checkpoint import Checkpoints, check_saved, checkpoints, has_checkpoint, restore, save, set_damaged_aside
from ars_jax.config import Config, to_dict, to_yaml, with_absolute_paths
from ars_jax.data.augment import Augmentation
from ars_jax.data.loader import Batch, Stream, arrays_of, batches, batches_per_epoch, timed
from ars_jax.data.staging import staging_shape
from ars_jax.errors import DivergedError, StoppedError, UserError
from ars_jax.losses import Objective, region_bounds
from ars_jax.losses._checks import ArgumentError
from ars_jax.mesh import Mesh, batch_shardings, local_rows, on_one_device, put_batch, state_shardings
from ars_jax.models import VNet
from ars_jax.predict import Network, make_model
from ars_jax.processes import barrier, count, ended_together, from_first, gather, is_first
from ars_jax.ranges import check_config
from ars_jax.resample import resample
from ars_jax.train.compile import batch_shapes, lower_step
from ars_jax.train.devices import check_depth, training_mesh
from ars_jax.train.folder import LOCK, check_same_config, check_same_inputs, check_taken, run_lock, write_setup
from ars_jax.train.inputs import Inputs, find_cases, make_augmentation, prepare_inputs
from ars_jax.train.interrupt import stopped_at_once, stopping
from ars_jax.train.maps import write_maps
from ars_jax.train.record import Recorder, Times, describe, has_ended, preparation_progress
from ars_jax.train.state import TrainState, checkpoint_items, place_state, state_shapes
from ars_jax.train.step import make_optimizer
from ars_jax.train.validate import validate
from ars_jax.train.watch import say_stall, watched

ITEMS = ("model", "training")
"""What a checkpoint has to hold."""


@dataclass(frozen=True)
class Setup:
    """What stays the same over a training.

    Attributes:
        config: everything that decides the run.
        inputs: the prepared cases.
        augmentation: random changes of the training cases.
        mesh: the devices.
        model: the network.
        optimizer: Adam with its schedule.
        per_epoch: steps of an epoch.
        steps: steps of the training.
    """

    config: Config
    inputs: Inputs
    augmentation: Augmentation
    mesh: Mesh
    model: VNet
    optimizer: optax.GradientTransformation
    per_epoch: int
    steps: int


def train(config: Config, *, resume: bool = False, console: Console | None = None, held: bool = False) -> Path:
    """Trains a network and leaves a run folder.

    The folder holds config.yaml, plan.json, metrics.jsonl and checkpoints: the two newest, and the best by validation
    DSC; also maps, if the configuration asks for them. Of several processes (see `processes.joined`), which have to
    share the file system, each loads and validates its part, and the first alone writes what is not a checkpoint.

    Args:
        config: everything that decides the run.
        resume: go on from the newest whole checkpoint of the run's folder, or begin where there is none yet; the
            parameters at the end are those of an uninterrupted run, bit for bit.
        console: where progress is shown; nowhere by default.
        held: whether the caller holds the run's lock, see `run_lock`.

    Returns:
        The run's folder.

    Raises:
        UserError: a faulty configuration or data set, a run folder that is taken, a loss that is not finite, or a
            checkpoint that cannot be written.
        StoppedError: at a SIGTERM, after the running step is finished and saved.
        KeyboardInterrupt: at a SIGINT, likewise; of several processes it ends all at once, with nothing saved.
    """
    console = console if console and is_first() else Console(quiet=True)
    config = with_absolute_paths(config)
    _check_alike(config, resume)
    _check_run(config, resume)
    held = held or not is_first()
    if not held and (config.run.dir / LOCK).exists():
        with run_lock(config.run.dir):  # says at once, and not after the preparation, that it is taken
            pass
    with stopped_at_once():
        inputs = _prepare(config, console)
        setup = _set_up(config, inputs)
        with nullcontext() if held else run_lock(config.run.dir, partial(console.print, soft_wrap=True)):
            check_taken(config.run.dir, resume)
            _train(setup, resume, console)
    return config.run.dir


def _prepare(config: Config, console: Console) -> Inputs:
    # Of several processes the first prepares, and the others wait.
    limit, tell = config.train.stall_s if is_first() else 0, partial(say_stall, console)
    with preparation_progress(console) as update, watched(limit, tell, "preparing the cases") as at:

        def prepared(done: int, of: int, name: str) -> None:
            update(done, of, name)
            at(0, f"preparing the case after {name}")

        return prepare_inputs(config, prepared, lambda text: console.print(text, soft_wrap=True))


def _train(setup: Setup, resume: bool, console: Console) -> None:
    folder = setup.config.run.dir
    log = folder / "metrics.jsonl"
    with (
        Recorder(log if is_first() else None, console, setup.per_epoch, setup.steps) as recorder,
        watched(setup.config.train.stall_s, partial(_stalled, console, recorder), "looking for checkpoints") as at,
    ):
        # Of several processes the first decides: the others might see the files otherwise.
        done, ended = from_first(lambda: (_whole_checkpoint(folder, console), has_ended(log)) if resume else (0, False))
        if done:
            check_same_inputs(folder, setup.inputs)
        elif is_first():
            write_setup(setup.config, setup.inputs)
        if done == setup.steps and ended:
            console.print(f"{folder} is trained already: {done} steps", soft_wrap=True)
            return
        barrier()
        _train_from(done, setup, console, recorder, at)


def _train_from(done: int, setup: Setup, console: Console, recorder: Recorder, at: Callable[[int, str], None]) -> None:
    with checkpoints(setup.config.run.dir / "checkpoints") as manager, ended_together():
        at(done, "making the first state")
        state = _first_state(setup)
        if done:
            at(done, "restoring its checkpoint")
            state = _restore_state(manager, done, state)
        at(done, "compiling the step")
        step = _compile_step(setup, state, recorder)
        with (
            stopping(lambda text: console.print(text, soft_wrap=True)) as asked,
            closing(_batches(setup, start=done)) as source,
        ):
            try:
                _run_steps(setup, state, step, source, manager, recorder, asked, at)
            except DivergedError:  # in all processes, after which none waits for the others any more
                check_saved(manager, wait=True)
                raise


def _whole_checkpoint(folder: Path, console: Console) -> int:
    """The step from which a run goes on: that of its newest whole checkpoint, 0 if there is none yet."""
    if not has_checkpoint(folder / "checkpoints"):
        console.print(f"no checkpoint in {folder} yet: the training begins", soft_wrap=True)
        return 0
    step, damaged = set_damaged_aside(folder / "checkpoints", ITEMS)
    for newer, reason in damaged.items():
        text = f"checkpoint {newer} is damaged ({reason}), and now named {newer}.damaged: going on from {step}"
        console.print(text, soft_wrap=True)
    return step


def _stalled(console: Console, recorder: Recorder, number: int, what: str, seconds: float) -> None:
    say_stall(console, number, what, seconds)
    recorder.stall(number, what, seconds)


def _run_steps(
    setup: Setup,
    state: TrainState,
    step: Compiled,
    source: Stream,
    manager: Checkpoints,
    recorder: Recorder,
    asked: Callable[[int], str | None],
    at: Callable[[int, str], None],
) -> None:
    """Takes the steps that are left, unless it is `asked` to stop after one; says where it is `at`."""
    done = int(state.step)
    place = _placing(setup)
    recorder.begin(done)
    for number in range(done + 1, setup.steps + 1):
        at(number, "waiting for a batch")
        batch, wait = timed(source.__next__)
        at(number, "waiting for the devices")
        placed, transfer = timed(place, batch)
        if number == done + 1:
            at(number, "waiting for the other processes")
            barrier()  # processes compile for unlike times, and give up if others do not connect within half a minute
            at(number, "waiting for the devices")
        times = Times(**batch["seconds"], wait=wait, transfer=transfer, given=perf_counter())
        state, metrics = step(state, placed)
        # The metrics of the step before are fetched only now, while an accelerator runs this one.
        recorder.step(number, batch["names"], metrics, times)
        if file := _maps_file(setup, number):
            recorder.flush()
            at(number, "writing maps")
            _write_maps(setup.config.run.dir / file, _network(setup, state), setup)
            recorder.maps(number, file)
        scores = None
        if validates := _validates(setup, number):
            recorder.flush()
            scores = validate(_network(setup, state), setup.inputs.validation, partial(at, number))
            recorder.validation(number, scores)
        if count() > 1:
            at(number, "waiting for the other processes")
        by = asked(number - done) if number < setup.steps else None
        check_saved(manager)
        if validates or by:
            recorder.flush()  # raises where the loss is not finite: such a state is not saved
            at(number, "saving a checkpoint")
            save(manager, number, checkpoint_items(state), _meta(setup), scores["mean_dsc"] or 0.0 if scores else None)
            recorder.saved()
        if by:
            _stop(number, by, manager, recorder)
    at(setup.steps, "saving a checkpoint")
    check_saved(manager, wait=True)
    recorder.end()


def _stop(number: int, by: str, manager: Checkpoints, recorder: Recorder) -> NoReturn:
    check_saved(manager, wait=True)
    recorder.stopped(number, by)
    if by == "SIGINT":
        raise KeyboardInterrupt
    raise StoppedError(f"stopped by {by} after step {number}, which is saved")


def _set_up(config: Config, inputs: Inputs) -> Setup:
    per_epoch = batches_per_epoch(len(inputs.files), config.train.batch_size)
    steps = config.train.epochs * per_epoch
    model = make_model(config.model, len(inputs.plan.labels) + 1)
    check_regions(config.loss, "the canvas", inputs.plan.canvas or ())
    check_depth(inputs.plan.canvas or (), config.mesh.space)
    if config.train.maps_every and is_first():
        case = inputs.validation[0]
        check_regions(config.loss, f"the volume of {case.name}, of which maps are written,", case.image.shape)
    augmentation, optimizer = make_augmentation(config, inputs.plan), make_optimizer(config.optim, steps)
    return Setup(config, inputs, augmentation, training_mesh(config), model, optimizer, per_epoch, steps)


def _first_state(setup: Setup) -> TrainState:
    shapes = state_shapes(setup.model, setup.optimizer)
    lying = state_shardings(setup.mesh, shapes, setup.config.mesh.parameters)
    return place_state(setup.model, setup.optimizer, setup.config.train.seed, lying)


def _network(setup: Setup, state: TrainState) -> Network:
    """The network as it is now, on one device."""
    return Network(setup.model, *on_one_device((state.params, state.batch_stats)), setup.inputs.plan)


def check_regions(loss: Objective, name: str, shape: tuple[int, ...]) -> None:
    """Holds the division into regions against a volume.

    Args:
        loss: the objective, whose regions are checked.
        name: of the volume, for the message.
        shape: voxels z, y, x.

    Raises:
        UserError: more regions than voxels along an axis.
    """
    try:
        region_bounds(shape, loss.regions)
    except ArgumentError as error:
        wanted = f"regions that fit {name} {shape}: {error.wanted}"
        raise UserError("loss.regions", found=error.found, wanted=wanted, fix="choose fewer regions") from error


def _compile_step(setup: Setup, state: TrainState, recorder: Recorder) -> Compiled:
    """Compiles the step ahead of time, so that its memory and compile time are known before it runs."""
    with recorder.compiling() as finish:
        lowered = lower_step(
            setup.config,
            setup.model,
            setup.optimizer,
            state,
            setup.mesh,
            canvas=_canvas(setup),
            partly_labelled=setup.inputs.partly_labelled,
        )
        compiled = lowered.compile()
        finish(describe(setup.config, setup.inputs, state, compiled, setup.mesh))
    return compiled


def _batches(setup: Setup, start: int) -> Stream:
    return batches(
        setup.inputs.training or setup.inputs.files,
        batch_size=setup.config.train.batch_size,
        seed=setup.config.train.seed,
        canvas=_canvas(setup),
        augmentation=setup.augmentation,
        staging=_staging(setup),
        start=start,
        rows=local_rows(setup.mesh, setup.config.train.batch_size),
    )


def _canvas(setup: Setup) -> tuple[int, int, int]:
    canvas = setup.inputs.plan.canvas
    assert canvas is not None, "prepare_inputs completes the plan"
    return canvas


def _staging(setup: Setup) -> tuple[int, int, int] | None:
    """The shape in which the loader hands over samples that the devices augment."""
    if not setup.config.augment.device:
        return None
    return staging_shape(_canvas(setup), setup.augmentation.scale[0], setup.inputs.largest)


def _placing(setup: Setup) -> Callable[[Batch], dict[str, jax.Array]]:
    """How a batch comes onto the devices: augmented by the loader, or by them."""
    staged, size = setup.config.augment.device, setup.config.train.batch_size

    def put(batch: Batch) -> Any:
        # What is staged need not divide: its depth is that of the samples, not the canvas's.
        placed = put_batch(setup.mesh, arrays_of(batch), size, whole_volumes=staged)
        # A CPU runs a step in its caller's thread, see `allocator`, only if everything that it needs is there.
        return jax.block_until_ready(placed) if jax.default_backend() == "cpu" else placed

    if not staged:
        return put
    changes = partial(resample, canvas=_canvas(setup), swap=setup.augmentation.swap)
    shapes = batch_shapes(size, _canvas(setup), setup.model.classes)
    augment = jax.jit(changes, out_shardings=batch_shardings(setup.mesh, shapes))
    return lambda batch: augment(put(batch))


def _write_maps(path: Path, network: Network, setup: Setup) -> None:
    """Writes the maps of the first validation case, which the first process has."""
    if is_first():
        write_maps(path, network, setup.inputs.validation[0], setup.config.loss)


def _validates(setup: Setup, number: int) -> bool:
    epoch, rest = divmod(number, setup.per_epoch)
    return number == setup.steps or (rest == 0 and epoch % setup.config.train.validate_every == 0)


def _maps_file(setup: Setup, number: int) -> str | None:
    """Where the maps after a step go within the run's folder, if any are written after it."""
    epoch, rest = divmod(number, setup.per_epoch)
    every = setup.config.train.maps_every
    return f"maps/epoch_{epoch:04d}.npz" if every and rest == 0 and epoch % every == 0 else None


def _meta(setup: Setup) -> dict[str, Any]:
    return {"config": to_dict(setup.config), "plan": asdict(setup.inputs.plan)}


def _restore_state(manager: Checkpoints, step: int, state: TrainState) -> TrainState:
    """Restores a checkpoint that is whole, of whatever mesh, as the first state lies."""
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), checkpoint_items(state))
    items = restore(manager, step, like, checked=True)
    return TrainState(**items["model"], **items["training"])


def _check_alike(config: Config, resume: bool) -> None:
    """Refuses processes that were not given the same: they would wait for each other, or train apart."""
    first, *others = gather([f"resume: {resume}", *to_yaml(config).splitlines()])
    for number, lines in enumerate(others, start=1):
        for wanted, found in zip(first, lines, strict=False):
            if found != wanted:
                where, fix = f"process {number}", "start all processes with the same command"
                raise UserError(where, found=found.strip(), wanted=f"{wanted.strip()}, as process 0", fix=fix)


def _check_run(config: Config, resume: bool) -> None:
    """Refuses what cannot be trained before anything is written."""
    check_config(config)
    training_mesh(config)
    if config.prepare.canvas is not None:
        check_depth(config.prepare.canvas, config.mesh.space)
    check_taken(config.run.dir, resume)
    if resume and (config.run.dir / "config.yaml").is_file():
        check_same_config(config)
    find_cases(config)
