"""Run folders as training and evaluation leave them, small and made up."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from ars_jax.data.geometry import Geometry
from ars_jax.data.plan import Plan, write_plan
from ars_jax.data.volumes import Volume, write_volume
from ars_jax.metrics.table import Row, evaluate_case, write_json

ORGANS = ("Brain stem", "Parotid_L", "Parotid_R")
TERMS = {"ars": "{baseline: 1, adaptive_region_specific: 0.5}", "rs": "{baseline: 1, region_specific: 0.5}"}
SPACING = (3.0, 1.5, 1.5)
SHAPE = (22, 56, 48)
CENTRES = {"Brain stem": (0.6, 0.6, 0.5), "Parotid_L": (0.4, 0.5, 0.8), "Parotid_R": (0.4, 0.5, 0.2)}
RADII = {"Brain stem": (12.0, 9.0, 8.0), "Parotid_L": (13.0, 12.0, 6.0), "Parotid_R": (13.0, 12.0, 6.0)}


def ball(centre: ArrayLike, radii: ArrayLike) -> np.ndarray:
    """An ellipsoid: centre as fractions of the sides, radii in mm, both z, y, x."""
    axes = [
        (np.arange(side) + 0.5 - middle * side) * step
        for side, middle, step in zip(SHAPE, np.asarray(centre), SPACING, strict=True)
    ]
    grids = np.meshgrid(*axes, indexing="ij")
    return np.add.reduce([(grid / radius) ** 2 for grid, radius in zip(grids, np.asarray(radii), strict=True)]) <= 1


def draw_case(rng: np.random.Generator, error_mm: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image (HU), reference and a prediction that is off by about error_mm."""
    head = ball((0.5, 0.5, 0.5), (60.0, 40.0, 34.0))
    image = np.where(head, 20.0, -1000.0)
    reference, prediction = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    for channel, organ in enumerate(ORGANS, start=1):
        centre = np.array(CENTRES[organ]) + rng.normal(0, 0.02, 3)
        reference[ball(centre, RADII[organ])] = channel
        off = rng.normal(0, error_mm, 3) / (np.array(SHAPE) * SPACING)
        prediction[ball(centre + off, np.array(RADII[organ]) + rng.normal(0, error_mm / 3, 3))] = channel
        image[reference == channel] = (45.0, -25.0, -25.0)[channel - 1]
    image[ball((0.5, 0.15, 0.5), (20.0, 6.0, 14.0))] = 700.0
    return (image + rng.normal(0, 12, SHAPE)).astype(np.int16), reference, prediction


def make_run(folder: Path, *, error_mm: float = 1.5, cases: Sequence[str] = ("a", "b", "c"), epochs: int = 40) -> Path:
    """Writes a whole run folder with an evaluation of the given cases."""
    make_unevaluated(folder, error_mm=error_mm, epochs=epochs)
    geometry = Geometry(SHAPE, SPACING, (0.0, 0.0, 0.0))
    rows: list[Row] = []
    entries = []
    for index, case in enumerate(cases):
        image, reference, prediction = draw_case(np.random.default_rng((index, 7)), error_mm * (0.6 + 0.3 * index))
        files = {}
        for kind, array in (("image", image), ("reference", reference), ("prediction", prediction)):
            path = folder / "evaluation" / f"{index}-{kind}.nii.gz"
            write_volume(path, Volume(array, geometry))
            files[kind] = str(path)
        entries.append({"case": case, **files})
        rows += evaluate_case(case, prediction, reference, SPACING, ORGANS)
    (folder / "evaluation" / "cases.json").write_text(json.dumps(entries))
    write_rows(folder, rows)
    return folder


def write_rows(folder: Path, rows: Sequence[Row]) -> None:
    """Replaces a run's table."""
    (folder / "evaluation").mkdir(exist_ok=True)
    about = {"data": "/somewhere/unseen set", "cases": "unseen", "checkpoint": "best"}
    write_json(folder / "evaluation" / "table.json", rows, about)


def make_unevaluated(folder: Path, *, error_mm: float = 1.5, epochs: int = 40) -> Path:
    """Writes a run folder of a training that was never evaluated."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        f"data: {{root: /data/heads, split: null}}\nmodel: {{variant: figure, base_channels: 8, kernel_size: 5}}\n"
        f"loss: {{terms: {TERMS.get(folder.name, '{baseline: 1}')}, regions: [16, 16, 16], "
        "reduction: class_mean, min_penalty: 0.3, penalty_range: 0.4, class_weights: null}\n"
        "optim: {learning_rate: 0.001}\ntrain: {batch_size: 2, seed: 7}\n"
    )
    write_plan(folder / "plan.json", Plan(labels=ORGANS, intensity="window", window=(-200.0, 400.0), spacing=SPACING))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in _lines(error_mm, epochs)))
    return folder


def _lines(error_mm: float, epochs: int) -> list[dict]:
    rng = np.random.default_rng(int(error_mm * 10))
    start = {
        "kind": "start",
        "device": "2 x cpu",
        "parameters": 1234567,
        "versions": {"jax": "0.10.2", "numpy": "2.4.6"},
    }
    lines: list[dict] = [start]
    for epoch in range(1, epochs + 1):
        for part in range(10):
            time = epoch - 1 + part / 10
            dice = 3 * np.exp(-time / 12) + 0.3 * error_mm + rng.normal(0, 0.08)
            entropy = 2 * np.exp(-time / 6) * np.exp(rng.normal(0, 0.15)) + 0.02
            parts = {"dice": dice, "cross_entropy": entropy}
            loss = {"loss": sum(parts.values()), "parts": parts, "step_s": 0.4}
            lines.append({"kind": "train", "step": 10 * epoch - 9 + part, "epoch": time, **loss})
        if epoch % 5 == 0:
            best = 1 - 0.06 * error_mm
            dsc = {
                organ: best * (1 - np.exp(-epoch / (5 + 3 * k))) + rng.normal(0, 0.01) for k, organ in enumerate(ORGANS)
            }
            mean = float(np.mean(list(dsc.values())))
            lines.append({"kind": "validation", "step": 10 * epoch, "epoch": epoch, "dsc": dsc, "mean_dsc": mean})
    return [*lines, {"kind": "end", "seconds": 745.0}]
