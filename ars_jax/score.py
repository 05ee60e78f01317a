"""Scoring a run on the cases that it may honestly be scored on."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ars_jax.config import Config, Role
from ars_jax.evaluate import evaluate_cases
from ars_jax.metrics.surface import TOLERANCE_MM, Convention
from ars_jax.metrics.table import Row
from ars_jax.predict import load_network
from ars_jax.train.inputs import scored_cases, scored_role


@dataclass(frozen=True)
class Scores:
    """What a run was scored on, and how well it did.

    Args:
        rows: one per case and organ.
        root: of the data set.
        role: "test" or "validation" cases of the run's own data set, or "unseen" ones of another.
        cases: how many.
        left_out: cases of the other data set that the run was trained on or that chose its checkpoint.
    """

    rows: list[Row]
    root: Path
    role: str
    cases: int
    left_out: int


def score_run(
    run: Path,
    config: Config,
    out: Path,
    *,
    root: Path | None = None,
    cases: Role | None = None,
    checkpoint: Literal["best", "newest"] = "best",
    convention: Convention = "paper-boundary",
    tolerance_mm: float = TOLERANCE_MM,
    progress: Callable[[int, int, str], None] | None = None,
) -> Scores:
    """Predicts and scores a run's test or validation cases, or those of another data set that it has not seen.

    Args:
        run: the run's folder.
        config: its configuration.
        out: gets the tables and label maps, see `evaluate_cases`.
        root: another data set than the run's own.
        cases: of the run's own data set; None takes the test cases if the run has some, else the validation cases.
        checkpoint: which parameters; the best were chosen by the validation cases.
        convention: of the surface distances.
        tolerance_mm: of the surface Dice.
        progress: called after every case with the number done, the number of all and the name.

    Returns:
        The scores.

    Raises:
        UserError: a case or checkpoint that is not there, a file that cannot be read, or no case that is left.
    """
    network = load_network(run, config, checkpoint)
    dataset, scored, left_out = scored_cases(run, config, root, cases, checkpoint)
    role = scored_role(run, cases) if root is None else "unseen"
    rows = evaluate_cases(
        network,
        scored,
        dataset.labels,
        out,
        convention=convention,
        tolerance_mm=tolerance_mm,
        about={"data": str(dataset.root.absolute()), "cases": role, "checkpoint": checkpoint},
        progress=progress,
    )
    return Scores(rows, dataset.root, role, len(scored), left_out)
