"""Scores of arms from plain numbers, for the tests of tables and their tests."""

from collections.abc import Mapping, Sequence
from typing import Any

from ars_jax.metrics.table import Row, Status
from ars_jax.report.results import Arm
from ars_jax.report.seeds import Scores

ABSENT = "absent"
INVENTED = "invented"


def row(case: str, organ: str, dsc: float | str) -> Row:
    """A row of that DSC: 0 is a miss; "absent" and "invented" are organs that the reference does not have."""
    if isinstance(dsc, str):
        status: Status = "absent" if dsc == ABSENT else "false alarm"
        return Row(case, organ, status, None if dsc == ABSENT else 0.0, None, None, None, None, 1, 0, "monai")
    distances = (None, None) if dsc == 0 else (10 - 9 * dsc, 5 - 4 * dsc)
    return Row(case, organ, "ok" if dsc else "miss", dsc, dsc, dsc, *distances, 1, 1, "monai")


def made_up(
    name: str,
    seeds: Mapping[int, Mapping[str, Sequence[float | str]]],
    objective: str = "baseline",
    settings: Mapping[str, Any] | None = None,
) -> Scores:
    """An arm from seed -> organ -> one DSC per case; cases are called 0, 1, 2, ..."""
    rows = {
        seed: tuple(row(str(case), organ, dsc) for organ, values in organs.items() for case, dsc in enumerate(values))
        for seed, organs in seeds.items()
    }
    return Scores(Arm(name, objective, settings or {}, (), ()), rows)
