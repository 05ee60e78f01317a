"""What a training step needs, found by compiling it: memory, arithmetic and communication, before anything runs.

The devices need not be there, see `topology`. Assumed are labels of every organ (`partly_labelled=False`).
"""

import dataclasses
import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, get_args

import jax
from rich import box
from rich.table import Table

from ars_jax.config import Config, Remat
from ars_jax.data.layouts import find_dataset
from ars_jax.data.prepare import padded_shape
from ars_jax.errors import UserError
from ars_jax.hlo import Counts, count_program
from ars_jax.mesh import Mesh
from ars_jax.models import STRIDE, packs_volumes
from ars_jax.predict import make_model
from ars_jax.topology import is_absent
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
NOT_COUNTED = "only the step is measured: no validation, second batch or device augmentation"
UNKNOWN_OF_A_GPU = (
    "without the GPU nothing is autotuned and cuDNN's workspaces are unknown, so that memory is a lower bound",
    "the limit is 75 % of a GPU's memory, which JAX takes unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise",
)
"""What the plan for a GPU that is not there leaves open."""


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
        counts: what the program does, loops as often as they run; None if it did not compile.
        compile_s: seconds it took to compile.
        fault: why the compiler gave up, where it did: the program does not fit the device.
    """

    remat: Remat
    argument_bytes: int | None
    temporary_bytes: int | None
    counts: Counts | None
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

    Raises:
        UserError: parts of the compiler for GPUs are not installed.
    """
    config = dataclasses.replace(task.config, model=dataclasses.replace(task.config.model, remat=remat))
    lower = partial(lower_step, config, make_model(config.model, task.classes), make_optimizer(config.optim, 1))
    started = time.perf_counter()
    lowered = lower(state_shapes(task), task.mesh, canvas=task.canvas, partly_labelled=False)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if re.search(r"\b(libdevice|ptxas)\b", str(error)):
            found, wanted = "no libdevice or no ptxas", "NVIDIA's assembler beside the GPU compiler"
            fix = "pip install 'ars_jax[plan-gpu]'"
            raise UserError("--topology", found=found, wanted=wanted, fix=fix) from error
        if not (fault := _out_of_memory(str(error))):
            raise
        return StepCost(remat, None, None, None, time.perf_counter() - started, fault)
    seconds = time.perf_counter() - started
    memory, program = compiled.memory_analysis(), compiled.as_text()
    return StepCost(
        remat,
        memory.argument_size_in_bytes if memory else None,
        memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes if memory else None,
        count_program(program) if program else None,
        seconds,
    )


def state_shapes(task: Task) -> TrainState:
    """Returns the shapes of the training's state."""
    return shapes_of_state(make_model(task.config.model, task.classes), make_optimizer(task.config.optim, 1))


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
    limit = "fits" if memory is None else f"fits\n{memory / GIGABYTE:.{1 if memory < 100 * GIGABYTE else 0}f} GB"
    sizes = ("arguments\nGB", "temporary\nGB", "together\nGB")
    for heading in (*sizes, limit, "TFLOP", "moved\nGB", "launches", "compile\nin s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for cost in costs:
        counts = cost.counts
        table.add_row(
            cost.remat,
            *(_scaled(bytes_, 1e9) for bytes_ in (cost.argument_bytes, cost.temporary_bytes, cost.total_bytes)),
            {True: "yes", False: "no", None: "?"}[cost.fits(memory)],
            _scaled(counts and counts.flops, 1e12),
            _scaled(counts and counts.bytes_accessed, 1e9),
            str(counts.launches) if counts else "-",
            f"{cost.compile_s:.0f}",
        )
    return table


def remarks(task: Task, costs: Sequence[StepCost]) -> list[str]:
    """Says what the table has no column for.

    Args:
        task: what was planned.
        costs: of every policy.

    Returns:
        A line for every policy that did not compile, and for what is unknown of one that did; what no plan counts, and
        what the plan for an absent GPU leaves open; for a TPU the cycles that its compiler estimates; with several
        devices the collectives. What is counted is counted for every policy.
    """
    lines = [f"{cost.remat}: the compiler gave up: {cost.fault}" for cost in costs if cost.fault]
    counted = [(cost.remat, cost.counts) for cost in costs if cost.counts]
    for remat, counts in counted:
        if counts.unknown_loops:
            lines.append(f"{remat}: loops whose trips are unknown, so that they count once: {counts.unknown_loops}")
        if counts.not_counted:
            lines.append(f"{remat}: the arithmetic of {', '.join(counts.not_counted)} is not counted")
    lines.append(NOT_COUNTED)
    device = task.mesh.devices.flat[0]
    if device.platform == "gpu" and is_absent(device):
        lines += UNKNOWN_OF_A_GPU
    for remat, counts in counted:
        if counts.cycles is not None:
            lines.append(f"{remat}: {counts.cycles / 1e6:.0f} million cycles, as the compiler estimates")
        if task.mesh.devices.size > 1:
            lines.append(f"{remat}: {', '.join(f'{n} {kind}' for kind, n in counts.collectives.items())}")
    return lines


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
    rows = [_row(cost) | {"total_bytes": cost.total_bytes, "fits": cost.fits(memory)} for cost in costs]
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


def _row(cost: StepCost) -> dict[str, Any]:
    """All fields of a cost, its counts among them."""
    row = dataclasses.asdict(cost)
    return row | (row.pop("counts") or {})


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
