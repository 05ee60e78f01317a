#!/usr/bin/env python
"""How long does value and gradient of each loss take, beside the same in PyTorch and MONAI in the same run?

The limit is one read and one write of the logits. Memory is what the compiled function needs beside its arguments and
its results, in units of the logits. Contestants take turns, so that a busy machine slows all of them alike.

On a CPU everything is measured twice, in two processes: with fresh pages, where every large array begins with memory
that the system clears, and with kept ones, as the commands of this package run. Both hold for PyTorch alike.

With --topology nothing is timed: for an accelerator that need not be there, the compiler's program is counted. Trips
are those of its loops, traffic is in units of the logits, and cycles are the TPU compiler's estimate.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import benchmark
import jax
import jax.numpy as jnp
import numpy as np
from benchmark import Columns, Contestant, Report, Row, column

from ars_jax import losses
from ars_jax.errors import UserError
from ars_jax.files import read_json
from ars_jax.gradients import pytorch
from ars_jax.hlo import count_program
from ars_jax.topology import find_devices

PRESETS = ("monai_dice", "monai_dice_ce", "monai_tversky", "monai_generalized_dice", "nnunet_dice_ce")
OBJECTIVE = {"dice": 1.0, "cross_entropy": 1.0, "adaptive_region_specific": 1.0}
COLUMNS: Columns = {
    **benchmark.TIMES,
    "x limit": column("limits"),
    "temp x logits": column("temporaries"),
    "compile s": column("compile_s"),
}
COUNTED: Columns = {
    "trips": lambda row: row["trips"],
    "launches": lambda row: str(row["launches"]),
    "traffic x logits": column("traffic"),
    "Mcycles": column("cycles", 1e-6),
    "temp x logits": column("temporaries"),
    "compile s": column("compile_s"),
}


def main() -> None:
    """Times all losses, or counts what their programs do elsewhere, type by type, and prints a table for each."""
    arguments = parse_words(sys.argv[1:])
    if unknown := set(arguments.losses or ()) - set(functions(arguments.grid)):
        sys.exit(f"--losses: found {', '.join(sorted(unknown))}; wanted some of {', '.join(functions(arguments.grid))}")
    if arguments.topology:
        count(arguments)
    elif arguments.pages == "both":
        measure_both(arguments)
    else:
        measure(arguments)


def measure_both(arguments: argparse.Namespace) -> None:
    """Measures in one process with fresh pages and in another with kept ones, and joins their figures."""
    groups, report = [], benchmark.open_report(arguments, {}, {})
    with tempfile.TemporaryDirectory() as folder:
        for pages in ("fresh", "kept"):
            path = Path(folder) / "figures.json"
            # The last of two equal options counts.
            command = [sys.executable, __file__, *sys.argv[1:], "--pages", pages, "--json", str(path)]
            if status := subprocess.run(command).returncode:
                sys.exit(status)
            found = read_json(path)
            groups += found.pop("groups")
            benchmark.write(Report(report.path, found, {}, groups))


def measure(arguments: argparse.Namespace) -> None:
    """Times this package's losses and PyTorch's in this process."""
    kept = arguments.pages == "kept"
    report = benchmark.begin(arguments, ("torch",), dtype=arguments.dtype[0], keeps_memory=kept)
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((*arguments.shape, arguments.classes), np.float32) * 2
    coarse = rng.integers(0, arguments.classes, [1, *(max(side // 8, 1) for side in arguments.shape[1:])])
    labels = np.asarray(jax.image.resize(coarse, arguments.shape, "nearest"), np.int32)
    chosen = chosen_functions(arguments)
    for dtype in arguments.dtype:
        contestants = list(ours(jnp.asarray(logits, dtype), jnp.asarray(labels), chosen))
        if device := report.facts["torch_device"]:
            wanted = {found.beside for found in contestants}
            contestants += [x for x in theirs(logits, labels, arguments.grid, dtype, device) if x.name in wanted]
        rows = benchmark.take_turns(contestants, arguments.rounds)
        for row in rows:
            row["limits"] = row["best_s"] / rows[0]["best_s"]
            if "temporary_bytes" in row:
                row["temporaries"] = row["temporary_bytes"] / (logits.size * jnp.dtype(dtype).itemsize)
        title = f"{logits.shape}, {dtype}, {arguments.grid} regions per axis, {arguments.pages} pages"
        benchmark.keep(report, title, rows, COLUMNS)


def count(arguments: argparse.Namespace) -> None:
    """Counts what the losses' programs do on an accelerator that need not be there."""
    try:
        device = find_devices(arguments.topology)[0]
    except UserError as error:
        sys.exit(str(error))
    facts = {"device": device.device_kind, "jax": jax.__version__}
    print("  ".join(f"{name} {value}" for name, value in facts.items()))
    report = benchmark.open_report(arguments, facts, {})
    here = jax.sharding.SingleDeviceSharding(device)
    y = jax.ShapeDtypeStruct(arguments.shape, jnp.int32, sharding=here)
    for dtype in arguments.dtype:
        x = jax.ShapeDtypeStruct((*arguments.shape, arguments.classes), jnp.dtype(dtype), sharding=here)
        rows = [counted(name, function, x, y) for name, (function, _) in chosen_functions(arguments).items()]
        title = f"{x.shape}, {dtype}, {arguments.grid} regions per axis, value and gradient, not timed"
        shown = {head: cell for head, cell in COUNTED.items() if any(map(cell, rows))}  # only a TPU has cycles
        benchmark.keep(report, title, rows, shown)


def counted(name: str, function: Callable[..., Any], x: jax.ShapeDtypeStruct, y: jax.ShapeDtypeStruct) -> Row:
    """Compiles value and gradient of a loss, and counts what the program does; unknown trips are shown as "?"."""
    start = time.perf_counter()
    program = jax.jit(jax.value_and_grad(function)).lower(x, y).compile()
    row: Row = {"name": name, "compile_s": time.perf_counter() - start}
    counts, memory, size = count_program(program.as_text() or ""), program.memory_analysis(), x.size * x.dtype.itemsize
    row |= {"launches": counts.launches, "traffic": counts.bytes_accessed / size}
    row["trips"] = ", ".join("?" if trips is None else str(trips) for trips in counts.loops) or "no loops"
    if counts.cycles is not None:
        row["cycles"] = counts.cycles
    if memory:
        row["temporaries"] = memory.temp_size_in_bytes / size
    return row


def chosen_functions(arguments: argparse.Namespace) -> dict[str, tuple[Callable[..., jax.Array], str]]:
    """Those of `functions` that are asked for."""
    found = functions(arguments.grid)
    return {name: found[name] for name in arguments.losses or found}


def functions(grid: int) -> dict[str, tuple[Callable[..., jax.Array], str]]:
    """This package's losses and presets by their names, beside their counterparts in PyTorch."""
    both = losses.Objective(OBJECTIVE, regions=grid, adaptive_gradient="through")
    adaptive = partial(losses.adaptive_region_specific, regions=grid)
    return {
        "baseline + ARS": (lambda x, y: both(x, y)[0], "pytorch_ars"),
        "adaptive_region_specific": (adaptive, "pytorch_ars"),
        "adaptive_region_specific, stop": (partial(adaptive, adaptive_gradient="stop"), "pytorch_ars"),
        "region_specific": (partial(losses.region_specific, regions=grid), "pytorch_ars"),
        "baseline": (losses.baseline, "monai_dice_ce"),
        "dice": (losses.dice, "monai_dice"),
        "cross_entropy": (losses.cross_entropy, ""),
        "tversky": (losses.tversky, "monai_tversky"),
        "focal_tversky": (losses.focal_tversky, "monai_tversky"),
        "generalized_dice": (losses.generalized_dice, "monai_generalized_dice"),
        "sensitivity_specificity": (losses.sensitivity_specificity, ""),
        "presets.pytorch_ars": (partial(losses.presets.pytorch_ars, num_region_per_axis=grid), "pytorch_ars"),
        **{f"presets.{name}": (getattr(losses.presets, name), name) for name in PRESETS},
    }


def ours(
    x: jax.Array, y: jax.Array, chosen: Mapping[str, tuple[Callable[..., jax.Array], str]]
) -> Iterator[Contestant]:
    """Makes contestants of the limit and of this package's losses and presets, beside their counterparts in PyTorch."""
    yield contestant("read and write", "", lambda x, _: x * 2, x, y)
    for name, (function, beside) in chosen.items():
        yield contestant(name, f"PyTorch {beside}", jax.value_and_grad(function), x, y)


def contestant(name: str, beside: str, function: Callable[..., Any], x: jax.Array, y: jax.Array) -> Contestant:
    """Makes a contestant of a compiled function of logits and labels."""
    compiled, known = benchmark.compiled(lambda: jax.jit(function).lower(x, y))
    return Contestant(name, beside, lambda: jax.block_until_ready(compiled(x, y)), y.size, **known)


def theirs(logits: np.ndarray, labels: np.ndarray, grid: int, dtype: str, device: str) -> Iterator[Contestant]:
    """Makes contestants of the public PyTorch conventions that are here, channels first as they want them."""
    import torch

    x = torch.tensor(np.moveaxis(logits, -1, 1).copy(), device=device, dtype=getattr(torch, dtype))
    y = torch.tensor(labels, device=device, dtype=torch.int64)
    x.requires_grad_()

    def run(loss: Callable[..., Any]) -> None:
        x.grad = None
        loss(x, y).backward()
        if device == "cuda":
            torch.cuda.synchronize()

    for name in (*PRESETS, "pytorch_ars"):
        if name in pytorch.names():
            loss = partial(pytorch.loss(name), **({"num_region_per_axis": grid} if name == "pytorch_ars" else {}))
            yield Contestant(f"PyTorch {name}", "", partial(run, loss), labels.size)
        else:
            print(f"left out: PyTorch {name}, since MONAI is not installed")


def parse_words(words: Sequence[str]) -> argparse.Namespace:
    """Reads the words of a command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs="+", default=[1, 128, 144, 256], help="batch and spatial sides")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument(
        "--dtype", nargs="+", choices=["float32", "bfloat16"], default=["float32"], help="of the logits"
    )
    parser.add_argument("--losses", nargs="+", metavar="NAME", help="only these rows; all by default")
    parser.add_argument(
        "--pages",
        choices=["fresh", "kept", "both"],
        default="both",
        help="whether large arrays begin with memory that the system clears, which matters on a CPU only",
    )
    parser.add_argument("--topology", help="count instead for this accelerator, such as v5e:1x1 or h100")
    parser.add_argument("--grid", type=int, default=16, help="regions per axis")
    benchmark.add_common(parser, rounds=7)
    return parser.parse_args(words)


if __name__ == "__main__":
    main()
