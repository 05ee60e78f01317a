#!/usr/bin/env python
"""How long does value and gradient of each loss take, beside the same in PyTorch and MONAI in the same run?

The limit is one read and one write of the logits. Memory is what the compiled function needs beside its arguments and
its results, in units of the logits. Contestants take turns, so that a busy machine slows all of them alike.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ars_jax import losses
from ars_jax.gradients import pytorch

PRESETS = ("monai_dice", "monai_dice_ce", "monai_tversky", "monai_generalized_dice", "nnunet_dice_ce")
OBJECTIVE = {"dice": 1.0, "cross_entropy": 1.0, "adaptive_region_specific": 1.0}


class Contestant(NamedTuple):
    """One function to be timed: what it is called, which one it is compared with, how to run it, its temporaries."""

    name: str
    beside: str
    run: Callable[[], object]
    temporaries: float


def main() -> None:
    """Times all contestants and prints a line for each."""
    arguments = parse()
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((*arguments.shape, arguments.classes), np.float32) * 2
    coarse = rng.integers(0, arguments.classes, [1, *(max(side // 8, 1) for side in arguments.shape[1:])])
    labels = np.asarray(jax.image.resize(coarse, arguments.shape, "nearest"), np.int32)
    contestants = [*ours(logits, labels, arguments), *(theirs(logits, labels, arguments) if arguments.torch else [])]
    seconds = measure(contestants, arguments.rounds)
    limit = min(seconds["read and write"])
    facts = versions() | {"shape": list(logits.shape), "dtype": arguments.dtype, "grid": arguments.grid}
    rows = []
    print("  ".join(f"{name} {value}" for name, value in facts.items()))
    print(f"{'':42}{'best':>10}{'median':>10}{'x limit':>9}{'temporaries':>13}{'beside':>9}")
    for name, beside, _, temporaries in contestants:
        best, median = min(seconds[name]), statistics.median(seconds[name])
        ratio = min(seconds[beside]) / best if beside in seconds else None
        rows.append(
            {"name": name, "best_s": best, "median_s": median, "limits": best / limit, "temporaries": temporaries}
            | {"beside": beside, "ratio": ratio}
        )
        memory = "" if np.isnan(temporaries) else f"{temporaries:.2f} x"
        faster = "" if ratio is None else f"{ratio:.1f} x"
        print(f"{name:42}{best * 1e3:7.1f} ms{median * 1e3:7.1f} ms{best / limit:9.1f}{memory:>13}{faster:>9}")
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({**facts, "rows": rows}, file, indent=1)


def ours(logits: np.ndarray, labels: np.ndarray, arguments: argparse.Namespace) -> list[Contestant]:
    """Returns this package's losses and presets; each one's `beside` is its counterpart in PyTorch."""
    x, y = jnp.asarray(logits, arguments.dtype), jnp.asarray(labels)
    grid = {"grid": arguments.grid}
    both = losses.weighted_sum(OBJECTIVE, **grid)
    functions: dict[str, tuple[Callable[..., jax.Array], str]] = {
        "baseline + ARS": (lambda x, y: both(x, y)[0], "PyTorch pytorch_ars"),
        "adaptive_region_specific": (partial(losses.adaptive_region_specific, **grid), "PyTorch pytorch_ars"),
        "adaptive_region_specific, stop": (
            partial(losses.adaptive_region_specific, adaptive_gradient="stop", **grid),
            "PyTorch pytorch_ars",
        ),
        "region_specific": (partial(losses.region_specific, **grid), "PyTorch pytorch_ars"),
        "baseline": (losses.baseline, "PyTorch monai_dice_ce"),
        "dice": (losses.dice, "PyTorch monai_dice"),
        "cross_entropy": (losses.cross_entropy, ""),
        "tversky": (losses.tversky, "PyTorch monai_tversky"),
        "focal_tversky": (losses.focal_tversky, "PyTorch monai_tversky"),
        "generalized_dice": (losses.generalized_dice, "PyTorch monai_generalized_dice"),
        "sensitivity_specificity": (losses.sensitivity_specificity, ""),
        "presets.pytorch_ars": (partial(losses.presets.pytorch_ars, **grid), "PyTorch pytorch_ars"),
    }
    for name in PRESETS:
        functions[f"presets.{name}"] = (getattr(losses.presets, name), f"PyTorch {name}")
    copied = jax.jit(lambda x: x * 2).lower(x).compile()
    contestants = [Contestant("read and write", "", lambda: jax.block_until_ready(copied(x)), float("nan"))]
    for name, (function, beside) in functions.items():
        compiled = jax.jit(jax.value_and_grad(function)).lower(x, y).compile()
        memory = compiled.memory_analysis()
        temporaries = memory.temp_size_in_bytes / x.nbytes if memory else float("nan")
        contestants.append(Contestant(name, beside, partial(run_compiled, compiled, x, y), temporaries))
    return contestants


def theirs(logits: np.ndarray, labels: np.ndarray, arguments: argparse.Namespace) -> list[Contestant]:
    """Returns the public PyTorch conventions that are installed here, channels first as they want them."""
    if not pytorch.available():
        print("PyTorch is not installed: only this package's losses are timed")
        return []
    import torch

    device = "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"
    x = torch.tensor(np.moveaxis(logits, -1, 1).copy(), device=device, dtype=getattr(torch, arguments.dtype))
    y = torch.tensor(labels, device=device, dtype=torch.int64)
    x.requires_grad_()

    def run(loss: Callable[..., Any]) -> None:
        x.grad = None
        loss(x, y).backward()
        if device == "cuda":
            torch.cuda.synchronize()

    contestants = []
    for name in (*PRESETS, "pytorch_ars"):
        if name in pytorch.names():
            options = {"grid": arguments.grid} if name == "pytorch_ars" else {}
            loss = partial(pytorch.loss(name), **options)
            contestants.append(Contestant(f"PyTorch {name}", "", partial(run, loss), float("nan")))
    return contestants


def run_compiled(compiled: Callable[..., Any], *arrays: jax.Array) -> None:
    """Runs a compiled function to its end."""
    jax.block_until_ready(compiled(*arrays))


def measure(contestants: list[Contestant], rounds: int) -> dict[str, list[float]]:
    """Returns the seconds of each contestant in each round, after one that does not count."""
    seconds: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    for number in range(rounds + 1):
        for contestant in contestants:
            start = time.perf_counter()
            contestant.run()
            if number:
                seconds[contestant.name].append(time.perf_counter() - start)
    return seconds


def versions() -> dict[str, object]:
    """Returns what the figures depend on."""
    found: dict[str, object] = {"device": jax.devices()[0].device_kind, "cores": len(os.sched_getaffinity(0))}
    found |= {"python": platform.python_version(), "jax": jax.__version__}
    if pytorch.available():
        import torch

        found |= {"torch": torch.__version__, "torch_threads": torch.get_num_threads()}
    return found


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs="+", default=[1, 128, 144, 256], help="batch and spatial sides")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--grid", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-torch", dest="torch", action="store_false", help="only this package's losses")
    parser.add_argument("--json", help="also write the figures to this file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
