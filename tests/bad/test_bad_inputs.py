"""Whatever a command is given, it takes it whole or refuses it in one line, and leaves nothing half."""

import itertools
import shutil
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.bad.attempts import kinds
from tests.bad.judge import Attempt, outcome, quickly, write_base
from tests.small_runs import quick_compilation

EXAMPLES = {
    "volumes": 130,
    "configurations": 130,
    "tables": 70,
    "run folders": 30,
    "checkpoints": 12,
    "resuming": 12,
    "prepared caches": 50,
    "arrays": 80,
    "places": 60,
    "names": 20,
}
"""How many of each kind; `scripts/fuzz.py` draws as many more as asked for."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with quick_compilation(tmp_path_factory.getbasetemp()):
        yield write_base(tmp_path_factory.mktemp("bad"))


@pytest.mark.parametrize("kind", EXAMPLES)
def test_bad_input_is_refused_in_one_line_or_taken_whole(kind: str, base: Path, tmp_path: Path) -> None:
    """No traceback, nothing half-written, nothing outside of the output folder, nothing executed, no hang."""
    counted: Counter[str] = Counter()
    numbers = itertools.count()

    @settings(
        max_examples=EXAMPLES[kind],
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],  # finding a smaller one may take minutes; scripts/fuzz.py shows what it found
        # Loading a base of files takes longer than drawing does; no example is thrown away.
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(kinds(base)[kind])
    def attempt(drawn: Attempt) -> None:
        place = tmp_path / str(next(numbers))
        found = outcome(drawn, base, place)
        shutil.rmtree(place)
        counted[found.kind] += 1
        assert not found.faulty, found

    with quickly(kind, base), warnings.catch_warnings():
        attempt()
    if kind not in ("prepared caches", "names"):  # those are prepared anew, these are sound
        assert counted["refused"] > EXAMPLES[kind] / 5, "hardly any of these inputs is bad"


def test_there_are_five_hundred_bad_inputs_and_more() -> None:
    assert sum(EXAMPLES.values()) >= 500
