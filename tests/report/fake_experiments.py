"""Folders as `ars-jax experiment` leaves them, small and made up: arms x seeds x folds of the runs of `fake_runs`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ars_jax.data.geometry import Geometry
from ars_jax.data.volumes import Volume, write_volume
from ars_jax.metrics.table import Row, evaluate_case
from tests.objectives import ARS, RS
from tests.report.fake_runs import ORGANS, RADII, SHAPE, SPACING, ball, draw_case, make_unevaluated, write_rows

CASES = ("north", "south", "west", "east")
GEOMETRY = Geometry(SHAPE, SPACING, (0.0, 0.0, 0.0))


@dataclass(frozen=True)
class FakeArm:
    """An arm and how far its networks are off, in mm."""

    name: str
    objective: str
    error_mm: float
    settings: Mapping[str, Any] = field(default_factory=dict)


PAPER = (
    FakeArm("B", "baseline", 2.4),
    FakeArm("B+RS", RS, 1.9),
    FakeArm("B+ARS", ARS, 1.4),
)
DIVISIONS = (
    FakeArm("B", "baseline", 2.4),
    *(FakeArm(f"B+RS, DC {grid}", RS, 2.2 - 0.05 * grid, {"loss.regions": grid}) for grid in (1, 2, 4, 16)),
    *(FakeArm(f"B+ARS, DC {grid}", ARS, 2.0 - 0.05 * grid, {"loss.regions": grid}) for grid in (1, 2, 4, 16)),
)
RANGES = tuple(
    FakeArm(
        f"B+ARS, [{a:g}, {a + b:g}]",
        ARS,
        1.2 + abs(a - 0.3) + b,
        {"loss.min_penalty": a, "loss.penalty_range": b},
    )
    for a in (0.1, 0.3, 0.5)
    for b in (0.2, 0.4)
)


def make_experiment(
    folder: Path,
    arms: Sequence[FakeArm] = PAPER,
    *,
    seeds: Sequence[int] = (0, 1, 2),
    folds: int | None = None,
    cases: Sequence[str] = CASES,
    unfinished: Sequence[tuple[str, int]] = (),
    epochs: int = 40,
) -> Path:
    """Writes experiment.json and its runs; `unfinished` are the arms and seeds whose runs were never scored."""
    drawn = {case: write_case(folder / "cases", case, index) for index, case in enumerate(cases)}
    entries = []
    for place, arm in enumerate(arms):
        trials = []
        for seed in seeds:
            for fold in [None] if folds is None else range(folds):
                scored = list(drawn) if fold is None else list(drawn)[fold::folds]
                name = f"runs/arm{place}-seed{seed}" + ("" if fold is None else f"-fold{fold}")
                run = write_run(folder / name, arm, seed + 0.1 * (fold or 0), epochs)
                if (arm.name, seed) not in unfinished:
                    score(run, arm, seed, {case: drawn[case] for case in scored})
                trials.append({"seed": seed, "fold": fold, "run": name})
        entries.append({"name": arm.name, "objective": arm.objective, "settings": arm.settings, "trials": trials})
    content = {"title": "Made-up heads", "arms": entries}
    (folder / "experiment.json").write_text(json.dumps(content, indent=2))
    return folder


def write_case(folder: Path, case: str, index: int) -> np.ndarray:
    """Writes one patient's image and reference, which all runs share; gives the reference."""
    image, reference, _ = draw_case(np.random.default_rng((index, 7)), 0.0)
    for kind, array in (("image", image), ("reference", reference)):
        write_volume(folder / f"{case}-{kind}.nii.gz", Volume(array, GEOMETRY))
    return reference


def write_run(folder: Path, arm: FakeArm, luck: float, epochs: int) -> Path:
    """A trained run; `luck` moves its validation curve a little."""
    make_unevaluated(folder, error_mm=arm.error_mm + 0.2 * luck, epochs=epochs)
    config = folder / "config.yaml"
    terms = ", ".join(f"{term}: 1" for term in arm.objective.split("+"))
    config.write_text(config.read_text().replace("{baseline: 1}", f"{{{terms}}}"))
    return folder


def score(run: Path, arm: FakeArm, seed: int, references: Mapping[str, np.ndarray]) -> None:
    """Predicts and scores cases as `ars-jax evaluate` does."""
    rows: list[Row] = []
    files = []
    for index, (case, reference) in enumerate(references.items()):
        rng = np.random.default_rng((seed, index, *map(ord, arm.name)))
        prediction = predict(reference, rng, arm.error_mm * (0.7 + 0.3 * index))
        path = f"evaluation/predictions/{case}.nii.gz"
        write_volume(run / path, Volume(prediction, GEOMETRY))
        shared = {kind: str(run.parents[1] / f"cases/{case}-{kind}.nii.gz") for kind in ("image", "reference")}
        files.append({"case": case, "prediction": path, **shared})
        rows += evaluate_case(case, prediction, reference, SPACING, ORGANS)
    (run / "evaluation" / "cases.json").write_text(json.dumps(files))
    write_rows(run, rows)


def predict(reference: np.ndarray, rng: np.random.Generator, error_mm: float) -> np.ndarray:
    """The reference's ellipsoids, each moved and blown up by about error_mm."""
    prediction = np.zeros_like(reference)
    for channel, organ in enumerate(ORGANS, start=1):
        centre = (np.argwhere(reference == channel).mean(axis=0) + 0.5) / np.array(SHAPE)
        off = rng.normal(0, error_mm, 3) / (np.array(SHAPE) * SPACING)
        prediction[ball(centre + off, np.array(RADII[organ]) + rng.normal(0, error_mm / 3, 3))] = channel
    return prediction
