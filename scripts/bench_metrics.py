#!/usr/bin/env python
"""How long does one organ pair take, beside the same numbers by MONAI and surface-distance in the same run?

Each contestant computes DSC, HD95, ASD and the surface Dice of whole masks, on one core and in processor seconds. Pairs
are the organs that two readers drew (a folder of `<case>/<reader>/<Organ>.nrrd`) and made ones that fill a grid of
512 x 512 x 156 voxels. Ratios are to this package's time by the same convention, in the same run. The differences to
both packages are given as well: a fast wrong number is worth nothing.
"""

import argparse
import json
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from ars_jax.data.volumes import read_volume
from ars_jax.metrics.overlap import overlap_metrics
from ars_jax.metrics.surface import CONVENTIONS, Convention, surface_metrics

Pair = tuple[np.ndarray, np.ndarray, tuple[float, float, float]]
TOLERANCE = 2.0
BESIDE = {"MONAI": "monai", "surface-distance": "deepmind"}


def main() -> None:
    """Times all pairs and prints a line for each."""
    arguments = parse()
    facts = versions()
    print("  ".join(f"{name} {value}" for name, value in facts.items()))
    print(
        f"{'pair':34}"
        + "".join(f"{name:>17}" for name in (*CONVENTIONS, *BESIDE))
        + "".join(f"{'x ' + name:>19}" for name in BESIDE)
        + f"{'difference mm':>15}{'Dice':>9}"
    )
    others = contestants()
    rows = []
    for name, pair in pairs(arguments):
        if not (pair[0].any() and pair[1].any()):
            print(f"{name:34}  left out: a mask is empty")
            continue
        seconds, values = measure({**{rule: ours(rule) for rule in CONVENTIONS}, **others}, pair, arguments)
        ratios = {who: seconds[who] / seconds[BESIDE[who]] for who in others}
        apart = [np.abs(np.subtract(values[who], values[BESIDE[who]])) for who in others]
        distance = max((float(a[1:3].max()) for a in apart), default=float("nan"))
        dice = max((float(a[[0, 3]].max()) for a in apart), default=float("nan"))
        rows.append({"pair": name, "seconds": seconds, "ratios": ratios, "values": values})
        rows[-1] |= {"difference_mm": distance, "dice": dice}
        cells = [f"{seconds[who]:15.2f} s" if who in seconds else f"{'-':>17}" for who in (*CONVENTIONS, *BESIDE)]
        cells += [f"{ratios[who]:17.1f} x" if who in ratios else f"{'-':>19}" for who in BESIDE]
        print(f"{name:34}" + "".join(cells) + f"{distance:15.1e}{dice:9.1e}", flush=True)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps({**facts, "rows": rows}, indent=1), encoding="utf-8")


def pairs(arguments: argparse.Namespace) -> Iterator[tuple[str, Pair]]:
    """Yields the pairs by name."""
    if arguments.readers:
        for case in sorted(path for path in arguments.readers.iterdir() if path.is_dir()):
            first, second = sorted(path for path in case.iterdir() if path.is_dir())[:2]
            for path in sorted(first.glob("*.nrrd")):
                if arguments.organs is None or path.name.removesuffix(".nrrd") in arguments.organs:
                    if not (second / path.name).is_file():
                        print(f"{case.name} {path.stem}: left out, {second.name} did not draw it")
                        continue
                    volumes = [read_volume(path), read_volume(second / path.name)]
                    masks = [volume.array > 0 for volume in volumes]
                    yield f"{case.name} {path.stem}", (masks[0], masks[1], volumes[0].geometry.spacing)
    if arguments.made:
        spacing = (2.5, 1.0, 1.0)
        liver, body = ellipsoid((0.5, 0.5, 0.5), (0.3, 0.17, 0.22)), ellipsoid((0.5, 0.5, 0.5), (0.45, 0.3, 0.4))
        yield "liver against a shifted liver", (ellipsoid((0.52, 0.5, 0.51), (0.3, 0.17, 0.22)), liver, spacing)
        yield "body against a shifted body", (ellipsoid((0.51, 0.5, 0.51), (0.45, 0.3, 0.4)), body, spacing)
        yield "ball in the middle of a body", (ellipsoid((0.5, 0.5, 0.5), (0.08, 0.06, 0.06)), body, spacing)


def ellipsoid(centre: tuple[float, ...], radii: tuple[float, ...]) -> np.ndarray:
    """Returns an ellipsoid in a grid of 156 x 512 x 512; centre and radii are shares of its sides."""
    axes = np.ogrid[tuple(slice(0, side) for side in (156, 512, 512))]
    return np.asarray(
        sum(((axis / axis.size - c) / r) ** 2 for axis, c, r in zip(axes, centre, radii, strict=True)) <= 1
    )


def ours(convention: Convention) -> Callable[..., list[float]]:
    """Returns this package's numbers by one convention."""

    def run(prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, float, float]) -> list[float]:
        surface = surface_metrics(prediction, reference, spacing, convention, TOLERANCE)
        dsc = overlap_metrics(prediction, reference).dsc
        assert surface is not None and dsc is not None
        return [dsc, surface.hd95_mm, surface.asd_mm, surface.surface_dice]

    return run


def contestants() -> dict[str, Callable[..., list[float]]]:
    """Returns the packages that are installed here."""
    found = {}
    for name, module, run in (("MONAI", "monai", monai), ("surface-distance", "surface_distance", surface_distance)):
        try:
            __import__(module)
            found[name] = run
        except ImportError:
            print(f"{name} is not installed")
    return found


def monai(
    prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...], tolerance: float = TOLERANCE
) -> list[float]:
    """Returns the numbers by MONAI, on one thread."""
    import torch

    metrics: Any = import_module("monai.metrics")  # hides from type checkers what it exports
    torch.set_num_threads(1)
    pair = [torch.from_numpy(mask[None, None]) for mask in (prediction, reference)]
    options = {"include_background": True, "spacing": spacing}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return [
            float(metrics.compute_dice(*pair, include_background=True)),
            float(metrics.compute_hausdorff_distance(*pair, percentile=95, **options)),
            float(metrics.compute_average_surface_distance(*pair, **options)),
            float(metrics.compute_surface_dice(*pair, class_thresholds=[tolerance], **options)),
        ]


def surface_distance(
    prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...], tolerance: float = TOLERANCE
) -> list[float]:
    """Returns the numbers by surface-distance; ASD is the mean of its pair."""
    import surface_distance as package

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        found = package.compute_surface_distances(reference, prediction, spacing)
    return [
        float(package.compute_dice_coefficient(reference, prediction)),
        float(package.compute_robust_hausdorff(found, 95)),
        float(np.mean(package.compute_average_surface_distance(found))),
        float(package.compute_surface_dice_at_tolerance(found, tolerance)),
    ]


def measure(
    contestants: dict[str, Callable[..., list[float]]], pair: Pair, arguments: argparse.Namespace
) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Returns each one's fewest processor seconds and its numbers, by turns, after a first round that does not count.

    The warm-up is on a cut of the pair: it loads and compiles, which does not depend on the size.
    """
    cut = tuple(slice(side // 2, side // 2 + 8) for side in pair[0].shape)
    warm = (np.pad(np.ones_like(pair[0][cut]), 1), np.pad(np.ones_like(pair[1][cut]), 1), pair[2])
    seconds, values = {who: float("inf") for who in contestants}, {}
    for number in range(arguments.rounds + 1):
        for who, run in contestants.items():
            start = time.process_time()
            values[who] = run(*(pair if number else warm))
            if number:
                seconds[who] = min(seconds[who], time.process_time() - start)
    return seconds, values


def versions() -> dict[str, object]:
    """Returns what the figures depend on."""
    found: dict[str, object] = {"machine": platform.machine(), "cores": len(os.sched_getaffinity(0))}
    found["python"] = platform.python_version()
    for package in ("numpy", "scipy", "monai", "surface-distance"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "-"
    return found


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readers", type=Path, help="folder of <case>/<reader>/<Organ>.nrrd")
    parser.add_argument("--organs", nargs="+", help="only these of the readers' organs")
    parser.add_argument("--no-made", dest="made", action="store_false", help="no made pairs")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", help="also write the figures to this file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
