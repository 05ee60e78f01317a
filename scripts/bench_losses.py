#!/usr/bin/env python
"""How long does value and gradient of each loss take, beside the same in PyTorch and MONAI in the same run?

The limit is one read and one write of the logits. Memory is what the compiled function needs beside its arguments and
its results, in units of the logits. Contestants take turns, so that a busy machine slows all of them alike.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import benchmark
import jax
import jax.numpy as jnp
import numpy as np
from benchmark import Columns, Contestant, column

from ars_jax import losses
from ars_jax.gradients import pytorch

PRESETS = ("monai_dice", "monai_dice_ce", "monai_tversky", "monai_generalized_dice", "nnunet_dice_ce")
OBJECTIVE = {"dice": 1.0, "cross_entropy": 1.0, "adaptive_region_specific": 1.0}
COLUMNS: Columns = {
    **benchmark.TIMES,
    "x limit": column("limits"),
    "temp x logits": column("temporaries"),
    "compile s": column("compile_s"),
}


def main() -> None:
    """Times all losses, type by type, and prints a table for each."""
    arguments = parse()
    report = benchmark.begin(arguments, ("torch",), dtype=arguments.dtype[0])
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((*arguments.shape, arguments.classes), np.float32) * 2
    coarse = rng.integers(0, arguments.classes, [1, *(max(side // 8, 1) for side in arguments.shape[1:])])
    labels = np.asarray(jax.image.resize(coarse, arguments.shape, "nearest"), np.int32)
    for dtype in arguments.dtype:
        contestants = list(ours(jnp.asarray(logits, dtype), jnp.asarray(labels), arguments.grid))
        if device := report.facts["torch_device"]:
            contestants += theirs(logits, labels, arguments.grid, dtype, device)
        rows = benchmark.take_turns(contestants, arguments.rounds)
        for row in rows:
            row["limits"] = row["best_s"] / rows[0]["best_s"]
            if "temporary_bytes" in row:
                row["temporaries"] = row["temporary_bytes"] / (logits.size * jnp.dtype(dtype).itemsize)
        benchmark.keep(report, f"{logits.shape}, {dtype}, {arguments.grid} regions per axis", rows, COLUMNS)


def ours(x: jax.Array, y: jax.Array, grid: int) -> Iterator[Contestant]:
    """Makes contestants of the limit and of this package's losses and presets, beside their counterparts in PyTorch."""
    both = losses.Objective(OBJECTIVE, regions=grid)
    adaptive = partial(losses.adaptive_region_specific, regions=grid)
    functions: dict[str, tuple[Callable[..., jax.Array], str]] = {
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
    yield contestant("read and write", "", lambda x, _: x * 2, x, y)
    for name, (function, beside) in functions.items():
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


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs="+", default=[1, 128, 144, 256], help="batch and spatial sides")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument(
        "--dtype", nargs="+", choices=["float32", "bfloat16"], default=["float32"], help="of the logits"
    )
    parser.add_argument("--grid", type=int, default=16, help="regions per axis")
    benchmark.add_common(parser, rounds=7)
    return parser.parse_args()


if __name__ == "__main__":
    main()
