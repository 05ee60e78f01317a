"""Arms of an experiment in memory: their runs have rows and validation lines, and nothing on disk."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ars_jax.data.plan import Plan
from ars_jax.metrics.table import Row
from ars_jax.report.results import Arm, Trial
from ars_jax.report.runs import Evaluation, Run

Scores = Mapping[str, Mapping[str, float]]
"""Case to organ to DSC."""


def made_arm(name: str, objective: str, trials: Sequence[Trial], **settings: Any) -> Arm:
    """An arm whose runs are all finished; `loss_regions=4` is the setting `loss.regions`."""
    keys = {key.replace("_", ".", 1): value for key, value in settings.items()}
    return Arm(name, objective, keys, tuple((trial.seed, trial.fold) for trial in trials), tuple(trials))


def made_trial(
    seed: int,
    scores: Scores,
    fold: int | None = None,
    validation: Mapping[int, Mapping[str, float | None]] | None = None,
) -> Trial:
    """A finished run with the DSC of its cases and of its validations (epoch to organ to DSC)."""
    organs = tuple(dict.fromkeys(organ for dsc in scores.values() for organ in dsc))
    evaluation = Evaluation(
        "paper-boundary",
        tuple(made_row(case, organ, value) for case, dsc in scores.items() for organ, value in dsc.items()),
        {"cases": "test"},
        {},
    )
    lines = tuple(_validation(epoch, dsc) for epoch, dsc in (validation or {}).items())
    config = {"loss": {"min_penalty": 0.3, "penalty_range": 0.4}}
    run = Run(f"seed{seed}", Path("/nowhere"), config, "", Plan(labels=organs), (), (), (), lines, evaluation)
    return Trial(seed, fold, run)


def made_row(case: str, organ: str, dsc: float) -> Row:
    """A row with a DSC and nothing else."""
    return Row(
        case=case,
        organ=organ,
        status="ok",
        dsc=dsc,
        recall=None,
        precision=None,
        hd95_mm=None,
        asd_mm=None,
        volume_prediction_ml=1.0,
        volume_reference_ml=1.0,
        convention="paper-boundary",
    )


def _validation(epoch: int, dsc: Mapping[str, float | None]) -> dict[str, Any]:
    known = [value for value in dsc.values() if value is not None]
    mean = sum(known) / len(known) if len(known) == len(dsc) else None
    return {"kind": "validation", "step": 10 * epoch, "epoch": epoch, "dsc": dict(dsc), "mean_dsc": mean}
