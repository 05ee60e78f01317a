"""What a training tells: metrics.jsonl, the progress bar, the line at the start and the table at the end."""

import json
import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import jax
from jax.stages import Compiled
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from ars_jax.config import Config
from ars_jax.errors import DivergedError, UserError
from ars_jax.mesh import Mesh
from ars_jax.train.inputs import Inputs
from ars_jax.train.state import TrainState, count_parameters

VERSIONS = ("jax", "flax", "optax", "orbax-checkpoint", "numpy", "SimpleITK")
GIBIBYTE = 2**30
IDLE_SHARE = 0.05
"""A device that stands still for a larger part of the time is told of."""


class Times(NamedTuple):
    """Where the host's time for one step went, in seconds.

    Attributes:
        load: reading the batch's samples, in a thread, maybe many steps before.
        augment: changing and stacking them, in that thread.
        wait: until the batch was there.
        transfer: handing it to the devices; an accelerator may take it while the step before runs. With
            `augment.device` also telling them to augment it; the augmenting itself they then do as part of the step.
        given: `time.perf_counter()` when the devices were given the step.
    """

    load: float
    augment: float
    wait: float
    transfer: float
    given: float


class _Pending(NamedTuple):
    number: int
    names: tuple[str, ...]
    metrics: Mapping[str, Any]
    times: Times
    finished: Future[float]


@contextmanager
def preparation_progress(console: Console) -> Iterator[Callable[[int, int, str], None]]:
    """Shows a bar over the cases that are prepared.

    Args:
        console: where it is shown.

    Yields:
        What is to be called after every case, with the number done, the number of all and the name.
    """
    with _bar(console) as progress:
        task = progress.add_task("preparing", total=None)
        yield lambda done, count, name: progress.update(
            task, completed=done, total=count, description=f"prepared {name}"
        )


class Recorder(AbstractContextManager["Recorder"]):
    """Writes metrics.jsonl and shows progress; a step's metrics are fetched when the next step was dispatched.

    So an accelerator never waits for the log. On a CPU a step may be done when it was dispatched; its times are right
    all the same.

    Args:
        path: the file; lines are appended. None where another process writes it.
        console: where progress is shown.
        per_epoch: steps of an epoch.
        steps: steps of the training.
    """

    def __init__(self, path: Path | None, console: Console, per_epoch: int, steps: int) -> None:
        self._console, self._per_epoch, self._steps = console, per_epoch, steps
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            _drop_cut_line(path)
        self._path, self._lock = path, threading.Lock()
        self._file = open(path or os.devnull, "a", encoding="utf-8")
        self._progress = _bar(console)
        self._task = self._progress.add_task("compiling", total=None)
        self._pending: _Pending | None = None
        self._begun = self._last = time.perf_counter()
        # The host is busy with the next batch when a step ends: a thread of its own sees when that was.
        self._watch = ThreadPoolExecutor(1)
        self._finished: float | None = None
        self._totals = Counter[str]()
        self._scores: dict[str, Any] = {}

    def __enter__(self) -> "Recorder":
        """Starts the progress bar."""
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops the progress bar and closes the file."""
        self._watch.shutdown(wait=False, cancel_futures=True)
        self._progress.stop()
        with suppress(OSError):  # what could not be written was told when it was tried
            self._file.close()

    @contextmanager
    def compiling(self) -> Iterator[Callable[[dict[str, Any]], None]]:
        """Times the compilation.

        Yields:
            What is to be called with the facts of the run when it is done; they become the "start" line.
        """
        started = time.perf_counter()

        def finish(facts: dict[str, Any]) -> None:
            facts = {**facts, "compile_s": round(time.perf_counter() - started, 2)}
            self._write({"kind": "start", **facts})
            self._console.print(_start_text(facts), highlight=False, soft_wrap=True)

        yield finish

    def begin(self, done: int) -> None:
        """Starts the clock before the first step; `done` steps were taken in earlier sessions."""
        self._begun = self._pause()
        self._progress.update(self._task, description="training", completed=done, total=self._steps)

    def step(self, number: int, names: tuple[str, ...], metrics: Mapping[str, Any], times: Times) -> None:
        """Takes a dispatched step's metrics and records those of the step before.

        Args:
            number: the step.
            names: its cases.
            metrics: `loss` and `parts`, still on the device.
            times: what the step's batch took.

        Raises:
            DivergedError: the loss of the step before is not finite.
        """
        finished = self._watch.submit(_finished_at, metrics["loss"])
        self.flush()
        self._pending = _Pending(number, names, metrics, times, finished)

    def flush(self) -> None:
        """Waits for the last step's metrics and records them.

        Raises:
            DivergedError: the loss is not finite.
        """
        if self._pending is None:
            return
        (number, names, metrics, times, finished), self._pending = self._pending, None
        loss, parts = float(metrics["loss"]), {name: float(part) for name, part in metrics["parts"].items()}
        # When the step ended, not when its metrics were fetched: that is after the next one, where a CPU runs steps in
        # the caller's thread.
        ended = finished.result()
        seconds, self._last = ended - self._last, ended
        if not math.isfinite(loss):
            raise DivergedError(
                f"step {number}, cases {', '.join(names)}",
                found=f"loss {loss} ({', '.join(f'{name} {part:.4g}' for name, part in parts.items())})",
                wanted="a finite loss",
                fix="lower optim.learning_rate or set optim.clip_norm; checkpoints up to here are whole",
            )
        took = self._took(seconds, times, ended)
        line = {"kind": "train", "step": number, "epoch": round(number / self._per_epoch, 4), "loss": loss}
        self._write({**line, "parts": parts, **{f"{name}_s": round(value, 5) for name, value in took.items()}})
        text = "  ".join(f"{name} {part:.3f}" for name, part in {"loss": loss, **parts}.items())
        epoch, idle = math.ceil(number / self._per_epoch), took["idle"]
        still = f", {idle:.2f} s of it idle" if idle > IDLE_SHARE * seconds else ""
        shown = f"epoch {epoch}  {text}  {seconds:.2f} s/step{still}"
        self._progress.update(self._task, completed=number, description=shown)

    def _took(self, seconds: float, times: Times, finished: float) -> dict[str, float]:
        """The times of a step, with how long the devices had nothing to do before it."""
        idle = 0.0 if self._finished is None else max(0.0, times.given - self._finished)
        self._finished = finished
        parts = times._asdict()
        del parts["given"]
        took = {"step": seconds, **parts, "idle": idle}
        # Backwards from when the devices were given the step: what the host did before they were done hid behind them.
        by_transfer = min(idle, times.transfer)
        by_wait = min(idle - by_transfer, times.wait)
        self._totals.update({**took, "idle_by_transfer": by_transfer, "idle_by_wait": by_wait, "steps": 1})
        return took

    def saved(self) -> None:
        """Leaves out of the next step's times what was done since a validation was recorded: saving."""
        self._pause()

    def _pause(self) -> float:
        """Leaves what was done since the last step out of the next one's times."""
        self._last, self._finished = time.perf_counter(), None
        return self._last

    def validation(self, number: int, scores: Mapping[str, Any]) -> None:
        """Records a validation.

        Args:
            number: the step that it follows.
            scores: `dsc` per organ and `mean_dsc`.
        """
        before, now = self._last, self._pause()
        epoch = round(number / self._per_epoch, 4)
        line = {"kind": "validation", "step": number, "epoch": epoch, **scores}
        self._scores = {"epoch": epoch, **scores}
        self._write({**line, "validation_s": round(now - before, 3)})
        organs = "  ".join(f"{organ} {_score(dsc)}" for organ, dsc in scores["dsc"].items())
        text = f"epoch {epoch:g}: validation DSC {_score(scores['mean_dsc'])}  ({organs})  {now - self._begun:.0f} s"
        self._console.print(text, highlight=False, soft_wrap=True)

    def maps(self, number: int, file: str) -> None:
        """Records that regional maps were written, and leaves the time that they took out of the next step's.

        Args:
            number: the step that they follow.
            file: where they are, within the run's folder.
        """
        before, now = self._last, self._pause()
        line = {"kind": "maps", "step": number, "epoch": round(number / self._per_epoch, 4), "file": file}
        self._write({**line, "maps_s": round(now - before, 3)})

    def stopped(self, number: int, by: str) -> None:
        """Records that the training was told to stop.

        Args:
            number: the last step, which is saved.
            by: name of the signal.
        """
        self.flush()
        self._write({"kind": "stop", "step": number, "by": by})

    def stall(self, number: int, what: str, seconds: float) -> None:
        """Records that the training makes no progress; may be called from another thread.

        Args:
            number: the step.
            what: what it is at.
            seconds: how long so far.
        """
        self._write({"kind": "stall", "step": number, "at": what, "seconds": round(seconds)})

    def end(self) -> None:
        """Records the end and shows the last validation as a table."""
        self.flush()
        seconds = time.perf_counter() - self._begun
        self._write({"kind": "end", "step": self._steps, "seconds": round(seconds, 2)})
        if shortage := shortage_text(self._totals):
            self._console.print(shortage, highlight=False, soft_wrap=True)
        if self._scores:
            when = f"after epoch {self._scores['epoch']:g}, {seconds / 60:.1f} minutes of training"
            self._console.print(f"validation {when}:", highlight=False, soft_wrap=True)
            self._console.print(_closing_table(self._scores))

    def _write(self, line: Mapping[str, Any]) -> None:
        with self._lock:
            try:
                self._file.write(json.dumps(line) + "\n")
                self._file.flush()
            except OSError as error:
                found, fix = error.strerror or error, "make room or mend the disk; --resume goes on"
                raise UserError(self._path, found=found, wanted="room for a line", fix=fix) from error


def has_ended(path: Path) -> bool:
    """Whether the last line of a metrics.jsonl says that the training came to its end."""
    with suppress(OSError, ValueError, IndexError):
        return json.loads(path.read_bytes().splitlines()[-1]).get("kind") == "end"
    return False


def shortage_text(totals: Mapping[str, float]) -> str | None:
    """Says which part of a training was too slow for the devices.

    Args:
        totals: "steps", and the seconds of all of them: "step", "load", "augment" and "idle", of which "idle_by_wait"
            and "idle_by_transfer" went by while the host waited for a batch and handed it over.

    Returns:
        One sentence, or None where the devices stood still for less than `IDLE_SHARE` of the time.
    """
    if totals["idle"] <= IDLE_SHARE * totals["step"]:
        return None
    load, augment = totals["load"] / totals["steps"], totals["augment"] / totals["steps"]
    by_wait, by_transfer = totals["idle_by_wait"], totals["idle_by_transfer"]
    causes = {
        f"waiting for batches, which take {load:.3f} s to load and {augment:.3f} s to augment": by_wait,
        "while batches were handed to it": by_transfer,
        "while results were written down": totals["idle"] - by_wait - by_transfer,
    }
    share = totals["idle"] / totals["step"]
    return f"the device was idle for {share:.0%} of the training, mostly {max(causes, key=lambda name: causes[name])}"


def describe(config: Config, inputs: Inputs, state: TrainState, compiled: Compiled, mesh: Mesh) -> dict[str, Any]:
    """Collects what a reader of the run must know.

    Args:
        config: the run's configuration.
        inputs: its cases.
        state: the state before the first step.
        compiled: the compiled step.
        mesh: the devices.

    Returns:
        The facts, as JSON takes them; memory in bytes per device.
    """
    devices = mesh.devices.ravel()
    memory = compiled.memory_analysis()
    return {
        "step": int(state.step),
        "device": f"{devices.size} x {devices[0].device_kind}",
        "processes": len({device.process_index for device in devices}),
        "mesh": {**mesh.shape, "parameters": config.mesh.parameters},
        "parameters": count_parameters(state),
        "objective": config.loss.name,
        "dataset": str(config.data.root),
        "training_cases": len(inputs.files),
        "validation_cases": len(inputs.split["validation"]),
        "test_cases": len(inputs.split.get("test", ())),
        "unused_cases": inputs.unused,
        "canvas": inputs.plan.canvas,
        "dtype": config.model.dtype,
        "argument_bytes": memory.argument_size_in_bytes if memory else None,
        "temporary_bytes": memory.temp_size_in_bytes if memory else None,
        "versions": {name: version(name) for name in VERSIONS},
        "platform": jax.default_backend(),
    }


def _finished_at(array: Any) -> float:
    jax.block_until_ready(array)
    return time.perf_counter()


def _drop_cut_line(path: Path) -> None:
    """Cuts off a last line that a kill left without its end: what is appended would else continue it."""
    if path.exists():
        content = path.read_bytes()
        os.truncate(path, content.rfind(b"\n") + 1)


def _bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console, transient=True)


def _start_text(facts: Mapping[str, Any]) -> str:
    memory = "memory unknown"
    if facts["temporary_bytes"] is not None:
        gigabytes = (facts["argument_bytes"] + facts["temporary_bytes"]) / GIBIBYTE
        memory = f"{gigabytes:.2f} GiB per step and device"
    canvas = " x ".join(map(str, facts["canvas"]))
    roles = ("training", "validation", "test", "unused")
    *counts, last = (f"{count} {role}" for role in roles if (count := facts[f"{role}_cases"]))
    return (
        f"{facts['objective']} on {facts['device']} ({facts['platform']}, {facts['dtype']}): "
        f"{facts['parameters']:,} parameters, canvas {canvas}, {', '.join(counts)} and {last} cases, "
        f"{memory}, compiled in {facts['compile_s']:.1f} s"
    )


def _closing_table(scores: Mapping[str, Any]) -> Table:
    table = Table()
    table.add_column("organ")
    table.add_column("DSC", justify="right")
    for organ, dsc in scores["dsc"].items():
        table.add_row(organ, _score(dsc))
    table.add_row("mean over organs", _score(scores["mean_dsc"]), style="bold")
    return table


def _score(dsc: float | None) -> str:
    return "-" if dsc is None else f"{dsc:.3f}"
