"""What a training writes down, line by line."""

import io
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from ars_jax.errors import UserError
from ars_jax.report.runs import read_metrics
from ars_jax.train.record import Recorder
from tests.small_runs import lines_of


def test_metrics_are_fetched_when_the_next_step_is_under_way(tmp_path: Path) -> None:
    """So that the device never waits for the log."""
    path = tmp_path / "metrics.jsonl"
    with Recorder(path, Console(quiet=True), per_epoch=2, steps=3) as recorder:
        recorder.begin(0)
        for number in (1, 2, 3):
            recorder.step(number, ("a",), {"loss": jnp.float32(number), "parts": {"dice": jnp.float32(1)}})
            assert [line["step"] for line in lines_of(tmp_path)] == list(range(1, number))
        recorder.end()
    assert [(line["step"], line.get("loss")) for line in lines_of(tmp_path)] == [(1, 1), (2, 2), (3, 3), (3, None)]


@pytest.mark.parametrize(
    ("test", "unused", "words"),
    [(0, 0, "9 training and 1 validation cases,"), (2, 3, "9 training, 1 validation, 2 test and 3 unused cases,")],
)
def test_the_first_line_says_what_becomes_of_every_case(tmp_path: Path, test: int, unused: int, words: str) -> None:
    shown = io.StringIO()
    console = Console(file=shown, width=400)
    facts = dict.fromkeys(("objective", "device", "platform", "dtype"), "") | {
        "parameters": 1,
        "canvas": (16, 16, 16),
        "temporary_bytes": None,
        "training_cases": 9,
        "validation_cases": 1,
        "test_cases": test,
        "unused_cases": unused,
    }
    with Recorder(tmp_path / "metrics.jsonl", console, 1, 1) as recorder, recorder.compiling() as finish:
        finish(facts)
    assert words in shown.getvalue()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_every_number_that_is_not_finite_stops(tmp_path: Path, value: float) -> None:
    with Recorder(tmp_path / "metrics.jsonl", Console(quiet=True), 1, 3) as recorder:
        recorder.step(1, ("first", "second"), {"loss": value, "parts": {"dice": 0.5}})
        with pytest.raises(UserError, match=r"^step 1, cases first, second: found loss .*dice 0\.5"):
            recorder.flush()
    assert lines_of(tmp_path) == []


@pytest.mark.parametrize("whole", [b"", b'{"kind": "start"}\n', b'{"kind": "start"}\n{"kind": "train", "step": 1}\n'])
@pytest.mark.parametrize("rest", [b"", b'{"kind": "tr', b'{"kind": "train", "step": 2, "case": "\xc3'])
def test_a_line_cut_short_is_taken_away_before_others_follow(tmp_path: Path, whole: bytes, rest: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(whole + rest)
    with Recorder(path, Console(quiet=True), 1, 1) as recorder:
        recorder.end()
    content = path.read_bytes()
    assert content.startswith(whole)
    assert [line["kind"] for line in read_metrics(path)] == [
        *(json.loads(line)["kind"] for line in whole.splitlines()),
        "end",
    ]
