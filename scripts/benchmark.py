"""What the benchmarks of whole programs share: taking turns, the device's measured ceilings, versions, the table."""

import argparse
import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.stages import Compiled

from ars_jax.allocator import keep_freed_memory

GIGA = 1e9

# As the commands do; PyTorch, in the same process, gains as well.
keep_freed_memory()


class Contestant(NamedTuple):
    """One program to be timed.

    Attributes:
        name: how it is called.
        beside: the contestant whose time is divided by this one's.
        run: runs it once, to its end.
        voxels: that one run goes through.
        counts: what the compiler counts, see `counted`; empty where nobody counts.
    """

    name: str
    beside: str
    run: Callable[[], object]
    voxels: int
    counts: Mapping[str, float] = {}


def counted(compiled: Compiled) -> dict[str, float]:
    """Returns the compiler's count of floating-point operations, of bytes moved, and of bytes beside the arguments."""
    cost, memory = compiled.cost_analysis(), compiled.memory_analysis()
    found = {"flop": cost.get("flops"), "moved_bytes": cost.get("bytes accessed")} if cost else {}
    temporaries = {"temporary_bytes": memory.temp_size_in_bytes} if memory else {}
    return {name: float(value) for name, value in {**found, **temporaries}.items() if value}


def take_turns(contestants: Sequence[Contestant], rounds: int) -> list[dict[str, Any]]:
    """Times all contestants, one after another in every round, after a round that does not count.

    Args:
        contestants: programs whose times are to be compared.
        rounds: times that each is timed.

    Returns:
        A row for each: best and median seconds, voxels per second, its counts and the ratio of the best times.
    """
    seconds: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    for number in range(rounds + 1):
        for contestant in contestants:
            gc.collect()
            start = time.perf_counter()
            contestant.run()
            if number:
                seconds[contestant.name].append(time.perf_counter() - start)
    rows = []
    for name, beside, _, voxels, counts in contestants:
        best = min(seconds[name])
        ratio = min(seconds[beside]) / best if beside in seconds else None
        row = {"name": name, "best_s": best, "median_s": statistics.median(seconds[name])}
        rows.append({**row, "voxels_per_s": voxels / best, **counts, "beside": beside, "ratio": ratio})
    return rows


def ceilings(dtype: str) -> dict[str, float]:
    """Measures what this device can do at most: bytes per second of a copy, operations per second of a matrix product.

    Args:
        dtype: of the matrices.

    Returns:
        `moved_bytes` and `flop`, per second, the best of ten.
    """
    small = jax.default_backend() == "cpu"
    wide, side = (2**26, 2048) if small else (2**30, 8192)
    x = jax.random.normal(jax.random.key(0), (side, side), jnp.float32).astype(dtype)
    flat = jnp.arange(wide // 4, dtype=jnp.float32)
    copy, product = jax.jit(lambda x: x + 1), jax.jit(lambda x: x @ x)
    return {"moved_bytes": 2 * wide / _best(copy, flat), "flop": 2 * side**3 / _best(product, x)}


def _best(function: Callable[[jax.Array], jax.Array], x: jax.Array, rounds: int = 10) -> float:
    jax.block_until_ready(function(x))
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready(function(x))
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def facts(modules: Iterable[str] = ("torch", "monai")) -> dict[str, Any]:
    """Returns what all figures depend on: device, cores, versions and, of other libraries, those that are there."""
    found: dict[str, Any] = {"device": jax.devices()[0].device_kind, "cores": len(os.sched_getaffinity(0))}
    found |= {"python": platform.python_version(), "jax": jax.__version__}
    for name in modules:
        if find_spec(name):
            found[name] = __import__(name).__version__
    return found


def torch_device() -> str:
    """Returns PyTorch's name of the kind of device that JAX uses here, as far as PyTorch has it."""
    import torch

    return "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"


def show(title: str, rows: Sequence[Mapping[str, Any]], limits: Mapping[str, float]) -> None:
    """Prints a line for each contestant; shares are of the measured ceilings, by the compiler's counts."""
    print(f"\n{title}")
    counts = any("flop" in row for row in rows)
    heads = f"{'temp GB':>10}{'of FLOP/s':>11}{'of B/s':>8}" if counts else ""
    print(f"{'':32}{'best':>12}{'median':>12}{'Mvoxel/s':>10}{heads}  faster than")
    for row in rows:
        line = f"{row['name']:32}{row['best_s'] * 1e3:9.1f} ms{row['median_s'] * 1e3:9.1f} ms"
        line += f"{row['voxels_per_s'] / 1e6:10.3f}"
        if counts:
            line += f"{row['temporary_bytes'] / GIGA:10.2f}" if "temporary_bytes" in row else f"{'':10}"
            line += f"{_share(row, limits, 'flop'):>11}{_share(row, limits, 'moved_bytes'):>8}"
        print(line + ("" if row["ratio"] is None else f"  {row['beside']}: {row['ratio']:.2f} x"), flush=True)


def _share(row: Mapping[str, Any], limits: Mapping[str, float], count: str) -> str:
    return f"{row[count] / row['best_s'] / limits[count]:.0%}" if count in row and count in limits else ""


def introduce(facts: Mapping[str, Any], limits: Mapping[str, float]) -> None:
    """Prints device and versions, and the ceilings that shares are of."""
    print("  ".join(f"{name} {value}" for name, value in facts.items()))
    if limits:
        print(f"measured: {limits['flop'] / GIGA:.0f} GFLOP/s, {limits['moved_bytes'] / GIGA:.1f} GB/s", flush=True)


def write(path: str | None, facts: Mapping[str, Any], limits: Mapping[str, float], parts: Mapping[str, Any]) -> None:
    """Writes all figures as JSON, if a file is named."""
    if path:
        with open(path, "w", encoding="utf-8") as file:
            json.dump({**facts, "ceilings": dict(limits), **parts}, file, indent=1)


def without_memory(error: Exception) -> bool:
    """Whether an error says that the device's memory is too small."""
    return any(word in str(error) for word in ("RESOURCE_EXHAUSTED", "out of memory", "Out of memory"))


def add_common(parser: argparse.ArgumentParser, rounds: int) -> None:
    """Adds the options that every benchmark has."""
    parser.add_argument("--rounds", type=int, default=rounds, help="times that each contestant is timed")
    parser.add_argument("--no-torch", dest="torch", action="store_false", help="only this package's programs")
    parser.add_argument("--json", help="also write the figures to this file")
