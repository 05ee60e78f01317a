"""What the benchmarks share: taking turns, measured ceilings, PyTorch's device, the table, figures kept on the way."""

import argparse
import gc
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.stages import Compiled, Lowered

from ars_jax.allocator import keep_freed_memory
from ars_jax.errors import UserError
from ars_jax.files import write_json

GIGA = 1e9
Row = dict[str, Any]
Columns = dict[str, Callable[[Row], str]]
"""What a table shows of a row, by the column's head."""

# JAX would take most of a GPU's memory for itself, and PyTorch runs beside it. It is read when devices are asked for.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


class Contestant(NamedTuple):
    """One program to be timed.

    Attributes:
        name: how it is called.
        beside: the contestant that its throughput is compared with.
        run: runs it to its end.
        voxels: that it goes through in one repeat.
        repeats: of the work in one run; times are those of one.
        compile_s: seconds that it was compiled in; None if its first run does whatever is to be done once.
        counts: what the compiler counts, see `compiled`; empty where nobody counts.
    """

    name: str
    beside: str
    run: Callable[[], object]
    voxels: int
    repeats: int = 1
    compile_s: float | None = None
    counts: Mapping[str, float] = {}


@dataclass(frozen=True)
class Report:
    """What was measured so far.

    Attributes:
        path: the JSON file, if one is wanted.
        facts: what all figures depend on.
        limits: the device's ceilings.
        groups: title and rows of each group of contestants.
    """

    path: Path | None
    facts: Mapping[str, Any]
    limits: Mapping[str, float]
    groups: list[dict[str, Any]] = field(default_factory=list)


def begin(
    arguments: argparse.Namespace,
    packages: Sequence[str],
    *,
    host: bool = False,
    dtype: str | None = None,
    keeps_memory: bool = True,
) -> Report:
    """Prepares the process, and prints what all figures depend on.

    Args:
        arguments: the options of `add_common`.
        packages: that PyTorch's contestants need, PyTorch itself first.
        host: whether all that PyTorch is compared with runs on the host, whatever devices there are.
        dtype: of which ceilings are measured; None measures none.
        keeps_memory: whether the process keeps memory that is freed for what asks for it next, as the commands do; else
            large arrays begin with pages that the system clears. Either holds for PyTorch too.

    Returns:
        A report without figures. Its fact "torch_device" is None where no contestant of PyTorch may be made.
    """
    if keeps_memory:
        keep_freed_memory()
    device = torch_device(packages, host) if arguments.torch else None
    facts: dict[str, Any] = {"device": jax.devices()[0].device_kind, "torch_device": device}
    facts |= {"cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}
    facts |= {name: metadata.version(name) for name in ("jax", *packages) if find_spec(name)}
    print("  ".join(f"{name} {value}" for name, value in facts.items()))
    limits = ceilings(dtype) if dtype else {}
    if limits:
        print(f"measured: {limits['flop'] / GIGA:.0f} GFLOP/s, {limits['moved_bytes'] / GIGA:.1f} GB/s", flush=True)
    return open_report(arguments, facts, limits)


def open_report(arguments: argparse.Namespace, facts: Mapping[str, Any], limits: Mapping[str, float]) -> Report:
    """Makes a report without figures, and stops the process where its file cannot be written."""
    report = Report(Path(arguments.json) if arguments.json else None, facts, limits)
    try:
        write(report)
    except UserError as error:
        sys.exit(str(error))
    return report


def torch_device(packages: Sequence[str], host: bool) -> str | None:
    """Says where PyTorch's contestants run, which is never another kind of device than JAX's, and why if nowhere."""
    if missing := [name for name in packages if not find_spec(name)]:
        print(f"left out: PyTorch's contestants, since {' and '.join(missing)} is not installed")
        return None
    backend = jax.default_backend()
    if host or backend == "cpu":
        return "cpu"
    import torch

    if backend == "gpu" and torch.cuda.is_available():
        return "cuda"
    print(f"left out: PyTorch's contestants, since JAX runs on the {backend} and this PyTorch could not")
    return None


def compiled(lower: Callable[[], Lowered]) -> tuple[Compiled, dict[str, Any]]:
    """Compiles a program.

    Args:
        lower: traces and lowers it.

    Returns:
        The program, and what a contestant says of it: `compile_s`, from tracing on, and `counts`, floating-point
        operations, bytes moved and bytes beside the arguments, as far as the compiler counts them.
    """
    start = time.perf_counter()
    lowered = lower()
    program = lowered.compile()
    seconds = time.perf_counter() - start
    # Operations before compiling: those that are left to a library would else not be counted.
    asked, cost, memory = lowered.cost_analysis(), program.cost_analysis(), program.memory_analysis()
    counts = {
        "flop": asked.get("flops") if asked else None,
        "moved_bytes": cost.get("bytes accessed") if cost else None,
        "temporary_bytes": memory.temp_size_in_bytes if memory else None,
    }
    return program, {"compile_s": seconds, "counts": {name: float(value) for name, value in counts.items() if value}}


def measure(report: Report, title: str, contestants: Sequence[Contestant], rounds: int, columns: Columns) -> list[Row]:
    """Times a group of contestants, prints a table, and keeps the rows; see `take_turns`."""
    rows = take_turns(contestants, rounds)
    keep(report, title, rows, columns)
    return rows


def take_turns(contestants: Sequence[Contestant], rounds: int) -> list[Row]:
    """Times all contestants, one after another in every round, after a round that does not count.

    Args:
        contestants: programs whose times are to be compared.
        rounds: times that each is timed.

    Returns:
        A row for each: best and median seconds of one repeat, voxels per second at best, the ratio of these to those
        of the one beside it, its counts, and the seconds to compile; of a program that compiles in its first run, what
        that took longer than its best.
    """
    seconds: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    for _ in range(rounds + 1):
        for contestant in contestants:
            gc.collect()
            start = time.perf_counter()
            contestant.run()
            seconds[contestant.name].append(time.perf_counter() - start)
    rates = {found.name: found.voxels * found.repeats / min(seconds[found.name][1:]) for found in contestants}
    rows = []
    for name, beside, _, _, repeats, compile_s, counts in contestants:
        first, *others = seconds[name]
        best = min(others)
        row = {"name": name, "best_s": best / repeats, "median_s": statistics.median(others) / repeats}
        row |= {"voxels_per_s": rates[name], "compile_s": max(first - best, 0.0) if compile_s is None else compile_s}
        rows.append(
            {**row, **counts, "beside": beside, "ratio": rates[name] / rates[beside] if beside in rates else None}
        )
    return rows


def keep(report: Report, title: str, rows: list[Row], columns: Columns) -> None:
    """Prints the table of a group, and writes all groups so far, so that a kill loses only what comes later."""
    report.groups.append({"title": title, "rows": rows})
    write(report)
    lines = [
        ("", *columns, ""),
        *((row["name"], *(cell(row) for cell in columns.values()), _faster(row)) for row in rows),
    ]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    print(f"\n{title}")
    for name, *cells, faster in lines:
        aligned = [cell.rjust(width) for cell, width in zip(cells, widths[1:-1], strict=True)]
        print("  ".join([name.ljust(widths[0]), *aligned, faster]).rstrip(), flush=True)


def write(report: Report) -> None:
    """Writes the figures so far, if a file is wanted."""
    if report.path:
        write_json(report.path, {**report.facts, "ceilings": dict(report.limits), "groups": report.groups})


def _faster(row: Row) -> str:
    return f"{digits(row['ratio'])} x as fast as {row['beside']}" if row.get("ratio") else ""


def digits(number: float) -> str:
    """Writes a number with three digits at least, and never an exponent."""
    return f"{number:.{max(0, 2 - math.floor(math.log10(abs(number))))}f}" if number else "0"


def column(key: str, factor: float = 1.0) -> Callable[[Row], str]:
    """Shows a number of a row, where the row has it."""
    return lambda row: digits(factor * row[key]) if key in row else ""


TIMES: Columns = {"best ms": column("best_s", 1e3), "median ms": column("median_s", 1e3)}
SPEED: Columns = {**TIMES, "Mvoxel/s": column("voxels_per_s", 1e-6), "compile s": column("compile_s")}


def usage(limits: Mapping[str, float]) -> Columns:
    """Shows memory beside the arguments, and operations and bytes per second as shares of the ceilings."""

    def share(count: str) -> Callable[[Row], str]:
        return lambda row: f"{100 * row[count] / row['best_s'] / limits[count]:.3g} %" if count in row else ""

    return {"temp GB": column("temporary_bytes", 1 / GIGA), "of FLOP/s": share("flop"), "of B/s": share("moved_bytes")}


def ceilings(dtype: str) -> dict[str, float]:
    """Measures what this device can do at most: bytes per second of a copy, operations per second of a matrix product.

    Args:
        dtype: of the matrices.

    Returns:
        `moved_bytes` and `flop`, per second, the best of ten.
    """
    wide, side = (2**26, 1024) if jax.default_backend() == "cpu" else (2**30, 8192)
    x = jax.random.normal(jax.random.key(0), (side, side), jnp.float32).astype(dtype)
    flat = jnp.arange(wide // 4, dtype=jnp.float32)
    copy, product = jax.jit(lambda x: x + 1), jax.jit(lambda x: x @ x)
    return {"moved_bytes": 2 * wide / _best(copy, flat), "flop": 2 * side**3 / _best(product, x)}


def _best(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> float:
    (row,) = take_turns([Contestant("", "", lambda: jax.block_until_ready(function(x)), x.size)], 10)
    return row["best_s"]


def without_memory(error: Exception) -> bool:
    """Whether an error says that the device's memory is too small."""
    return any(word in str(error) for word in ("RESOURCE_EXHAUSTED", "out of memory", "Out of memory"))


def add_common(parser: argparse.ArgumentParser, rounds: int) -> None:
    """Adds the options that every benchmark has."""
    parser.add_argument("--rounds", type=int, default=rounds, help="times that each contestant is timed")
    parser.add_argument("--no-torch", dest="torch", action="store_false", help="only this package's programs")
    parser.add_argument("--json", help="also write the figures to this file, after every group of contestants")
