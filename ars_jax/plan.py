"""What a training step needs, found by compiling it: memory, arithmetic and communication, before anything runs.

Assumed are labels of every organ (`partly_labelled=False`).
"""

import dataclasses
import importlib.util
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, get_args

import jax
from rich import box
from rich.table import Table

from ars_jax.config import Config, Remat
from ars_jax.data.layouts import find_dataset
from ars_jax.data.prepare import padded_shape
from ars_jax.errors import UserError
from ars_jax.mesh import Mesh
from ars_jax.models import STRIDE, packs_volumes
from ars_jax.predict import make_model
from ars_jax.train.compile import lower_step
from ars_jax.train.devices import check_depth, training_mesh
from ars_jax.train.loop import check_regions
from ars_jax.train.state import TrainState, count_parameters
from ars_jax.train.state import state_shapes as shapes_of_state
from ars_jax.train.step import make_optimizer

Sides = tuple[int, int, int]
GIGABYTE = 10**9
MOST_CLASSES = 256
"""Labels are bytes."""
POLICIES: tuple[Remat, ...] = get_args(Remat)
NOT_COUNTED = (
    "loops are counted once: the slabs of the loss, the parts of an accumulated batch",
    "only the step is measured: no validation, second batch or device augmentation",
)
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

_COMPILER_ONLY = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
"""Tells libtpu not to look for a TPU, nor to mind another process that does; the topology is named apart."""


class Task(NamedTuple):
    """What is planned.

    Attributes:
        config: the training.
        canvas: voxels z, y, x of a sample.
        classes: background included.
        mesh: the devices, which need not be there.
    """

    config: Config
    canvas: Sides
    classes: int
    mesh: Mesh


@dataclasses.dataclass(frozen=True)
class StepCost:
    """What one step costs each device.

    Attributes:
        remat: what is computed again in the backward pass.
        argument_bytes: state and batch; None if it did not compile.
        temporary_bytes: everything else that is alive at once, with results that are not written over the state.
        flops: arithmetic operations as the compiler counts them, the body of a loop once.
        bytes_accessed: read and written, as the compiler counts them, the body of a loop once; the loss is a loop, and
            reads and writes the logits about four times.
        collectives: how often devices communicate, by kind.
        compile_s: seconds it took to compile.
        fault: why the compiler gave up, where it did: the program does not fit the device.
    """

    remat: Remat
    argument_bytes: int | None
    temporary_bytes: int | None
    flops: float | None
    bytes_accessed: float | None
    collectives: Mapping[str, int]
    compile_s: float
    fault: str | None = None

    @property
    def total_bytes(self) -> int | None:
        """Arguments and temporaries."""
        if self.argument_bytes is None or self.temporary_bytes is None:
            return None
        return self.argument_bytes + self.temporary_bytes

    def fits(self, memory: int | None) -> bool | None:
        """Says whether a step fits a device of so many bytes; None where either is unknown."""
        if self.fault is not None:
            return False
        return None if memory is None or self.total_bytes is None else self.total_bytes <= memory


def find_devices(topology: str | None) -> Sequence[Any]:
    """Finds the devices to plan for.

    Args:
        topology: a TPU and its chips, such as "v5e:2x2", which need not be there; None takes this machine's devices.

    Returns:
        The devices.

    Raises:
        UserError: no TPU compiler is installed, or it knows no such topology.
    """
    if topology is None:
        return jax.devices()
    if importlib.util.find_spec("libtpu") is None:
        fix = "pip install 'ars_jax[tpu]', or leave --topology out"
        raise UserError("--topology", found="no libtpu", wanted="the TPU compiler", fix=fix)
    for name, value in _COMPILER_ONLY.items():
        os.environ.setdefault(name, value)
    from jax.experimental.topologies import get_topology_desc

    try:
        return get_topology_desc(platform="tpu", topology_name=topology).devices
    except RuntimeError as error:
        fix = "name a TPU and its chips; of one chip alone: --topology v5e:2x2 --mesh.data 1"
        wanted = "a topology such as v5e:2x2, v5p:2x2x1 or v6e:4x4"
        raise UserError("--topology", found=f"{topology} ({error})", wanted=wanted, fix=fix) from error


def make_task(
    config: Config,
    devices: Sequence[Any],
    *,
    canvas: Sides | None = None,
    classes: int | None = None,
) -> Task:
    """Completes what is planned from the configuration and its data set.

    Args:
        config: the training.
        devices: to choose from.
        canvas: instead of the configuration's.
        classes: instead of those of the data set's organs, background included.

    Returns:
        The task.

    Raises:
        UserError: no canvas or organs are known, labels do not fit a byte, there are more regions than voxels, or
            something does not divide by the devices.
    """
    canvas = canvas or _find_canvas(config)
    mesh = training_mesh(config, devices)
    if min(canvas) < 1 or any(side % STRIDE for side in canvas):
        wanted, fix = f"sides that are multiples of {STRIDE}", "choose other sides"
        raise UserError("--canvas", found=canvas, wanted=wanted, fix=fix)
    check_depth(canvas, config.mesh.space, "--canvas")
    check_regions(config.loss, "the canvas", canvas)
    classes = _count_classes(config) if classes is None else classes
    if not 2 <= classes <= MOST_CLASSES:
        wanted = f"2 to {MOST_CLASSES}, background included"
        raise UserError("--classes", found=classes, wanted=wanted, fix="choose a number within")
    return Task(config, canvas, classes, mesh)


def _find_canvas(config: Config) -> Sides:
    canvas = config.prepare.canvas or config.prepare.shape
    if canvas is None:
        wanted = "the voxels of a sample"
        raise UserError("prepare.canvas", found="null", wanted=wanted, fix="give it, or plan with --canvas '[z,y,x]'")
    z, y, x = padded_shape(canvas, STRIDE)
    return z, y, x


def _count_classes(config: Config) -> int:
    if config.data.labels is not None:
        return len(config.data.labels) + 1
    try:
        return len(find_dataset(config.data.root, layout=config.data.layout).labels) + 1
    except UserError as error:
        wanted, fix = "a data set, to know its organs", "check data.root, or plan without data by --classes N"
        raise UserError(error.thing, found=error.found, wanted=wanted, fix=fix) from error


def plan_step(task: Task, remat: Remat) -> StepCost:
    """Compiles a step with one policy.

    Args:
        task: what is planned.
        remat: the policy.

    Returns:
        What the step costs each device.
    """
    config = dataclasses.replace(task.config, model=dataclasses.replace(task.config.model, remat=remat))
    lower = partial(lower_step, config, make_model(config.model, task.classes), make_optimizer(config.optim, 1))
    started = time.perf_counter()
    lowered = lower(state_shapes(task), task.mesh, canvas=task.canvas, partly_labelled=False)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if not (fault := _out_of_memory(str(error))):
            raise
        return StepCost(remat, None, None, None, None, {}, time.perf_counter() - started, fault)
    seconds = time.perf_counter() - started
    memory, costs = compiled.memory_analysis(), compiled.cost_analysis() or {}
    return StepCost(
        remat,
        memory.argument_size_in_bytes if memory else None,
        memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes if memory else None,
        costs.get("flops"),
        costs.get("bytes accessed"),
        count_collectives(compiled.as_text() or ""),
        seconds,
    )


def state_shapes(task: Task) -> TrainState:
    """Returns the shapes of the training's state."""
    return shapes_of_state(make_model(task.config.model, task.classes), make_optimizer(task.config.optim, 1))


def count_collectives(program: str) -> dict[str, int]:
    """Counts in a compiled program how often devices communicate.

    Args:
        program: HLO text.

    Returns:
        A number for each kind; what starts and ends apart counts once.
    """
    return {kind: len(re.findall(rf" {kind}(?:-start)?\(", program)) for kind in COLLECTIVES}


def _out_of_memory(message: str) -> str | None:
    """The compiler's own sentence, if it gave up for want of memory."""
    if "RESOURCE_EXHAUSTED" not in message:
        return None
    used = re.search(r"[Uu]sed [\d.]+[KMGT]? of [\d.]+[KMGT]?", message)
    return used[0].lower() if used else "out of memory"


def render(costs: Sequence[StepCost], memory: int | None) -> Table:
    """Makes the table for the screen, at most 80 columns wide.

    Args:
        costs: of every policy.
        memory: bytes of a device.

    Returns:
        The table; memory and traffic per device in units of 10^9 bytes.
    """
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    table.add_column("remat", no_wrap=True)
    limit = "fits" if memory is None else f"fits\n{memory / GIGABYTE:.1f} GB"
    for heading in ("arguments\nGB", "temporaries\nGB", "together\nGB", limit, "TFLOP", "moved\nGB", "compiled\nin s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for cost in costs:
        table.add_row(
            cost.remat,
            *(_scaled(bytes_, 1e9) for bytes_ in (cost.argument_bytes, cost.temporary_bytes, cost.total_bytes)),
            {True: "yes", False: "no", None: "?"}[cost.fits(memory)],
            _scaled(cost.flops, 1e12),
            _scaled(cost.bytes_accessed, 1e9),
            f"{cost.compile_s:.0f}",
        )
    return table


def remarks(task: Task, costs: Sequence[StepCost]) -> list[str]:
    """Says what the table has no column for.

    Args:
        task: what was planned.
        costs: of every policy.

    Returns:
        A line for every policy that did not compile, two for what is not counted, and, with several devices, one for
        the collectives of every policy.
    """
    lines = [f"{cost.remat}: the compiler gave up: {cost.fault}" for cost in costs if cost.fault]
    lines += NOT_COUNTED
    if task.mesh.devices.size == 1:
        return lines
    counted = [(cost.remat, cost.collectives) for cost in costs if not cost.fault]
    return lines + [f"{remat}: {', '.join(f'{n} {kind}' for kind, n in kinds.items())}" for remat, kinds in counted]


def describe(task: Task) -> str:
    """Names what is planned in two lines."""
    config, devices = task.config, task.mesh.devices
    parameters = count_parameters(state_shapes(task))
    sides = " x ".join(map(str, task.canvas))
    return (
        f"{config.loss.name}, V-Net {config.model.variant} of {parameters / 1e6:.1f} M parameters in "
        f"{config.model.dtype},\n{task.classes} classes, batch of {config.train.batch_size} x {sides}, on "
        f"{' x '.join(map(str, devices.shape))} {devices.flat[0].device_kind}; for each device:"
    )


def to_json(task: Task, costs: Sequence[StepCost], memory: int | None) -> dict[str, Any]:
    """Joins everything for a file.

    Args:
        task: what was planned.
        costs: of every policy.
        memory: bytes of a device.

    Returns:
        What JSON takes.
    """
    config, mesh = task.config, task.mesh
    device = mesh.devices.flat[0]
    model = {key: value for key, value in dataclasses.asdict(config.model).items() if key != "remat"}
    rows = [dataclasses.asdict(cost) | {"total_bytes": cost.total_bytes, "fits": cost.fits(memory)} for cost in costs]
    return {
        "objective": config.loss.name,
        "model": model,
        "packed": packs_volumes(device.platform),
        "parameters": count_parameters(state_shapes(task)),
        "canvas": task.canvas,
        "classes": task.classes,
        "batch_size": config.train.batch_size,
        "accumulate": config.train.accumulate,
        "platform": device.platform,
        "device": device.device_kind,
        "mesh": dict(mesh.shape),
        "memory_bytes": memory,
        "jax": jax.__version__,
        "steps": rows,
    }


def plan(task: Task, policies: Sequence[Remat], progress: Callable[[int, int, str], None]) -> list[StepCost]:
    """Compiles the step with each policy, one after another.

    Args:
        task: what is planned.
        policies: the policies.
        progress: called with the number done, the number of all and the name of the next.

    Returns:
        What each costs.
    """
    costs = []
    for number, remat in enumerate(policies):
        progress(number, len(policies), remat)
        costs.append(plan_step(task, remat))
    return costs


def _scaled(value: float | None, unit: float) -> str:
    return "-" if value is None else f"{value / unit:.2f}"
