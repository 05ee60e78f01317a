"""What a training writes down, line by line."""

import io
import json
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from ars_jax.errors import UserError
from ars_jax.report.runs import read_metrics
from ars_jax.train.record import Recorder, Times, shortage_text
from tests.small_runs import lines_of

DONE = Times(0.0, 0.0, 0.0, 0.0, given=0.0)
METRICS = {"loss": 1.0, "parts": {"dice": 1.0}}


def test_metrics_are_fetched_when_the_next_step_is_under_way(tmp_path: Path) -> None:
    """So that the device never waits for the log."""
    path = tmp_path / "metrics.jsonl"
    with Recorder(path, Console(quiet=True), per_epoch=2, steps=3) as recorder:
        recorder.begin(0)
        for number in (1, 2, 3):
            recorder.step(number, ("a",), {"loss": jnp.float32(number), "parts": {"dice": jnp.float32(1)}}, DONE)
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
        recorder.step(1, ("first", "second"), {"loss": value, "parts": {"dice": 0.5}}, DONE)
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


def test_every_step_tells_where_its_time_went(tmp_path: Path) -> None:
    with Recorder(tmp_path / "metrics.jsonl", Console(quiet=True), 1, 1) as recorder:
        recorder.begin(0)
        recorder.step(1, ("a",), METRICS, Times(load=0.1, augment=0.2, wait=0.3, transfer=0.4, given=0.0))
        recorder.end()
    line, _ = lines_of(tmp_path)
    found = {name.removesuffix("_s"): value for name, value in line.items() if name.endswith("_s")}
    assert found.pop("step") >= 0
    assert found == {"load": 0.1, "augment": 0.2, "wait": 0.3, "transfer": 0.4, "idle": 0.0}


def test_a_device_is_idle_from_the_end_of_a_step_to_the_next(tmp_path: Path) -> None:
    """However long the host waited meanwhile; nor is it told of the first step, or of what a validation took."""
    shown = io.StringIO()
    with Recorder(tmp_path / "metrics.jsonl", Console(file=shown, width=400), 1, 4) as recorder:
        recorder.begin(0)
        for number in (1, 2):
            recorder.step(number, ("a",), METRICS, DONE._replace(wait=60, given=time.perf_counter() + 60))
        recorder.flush()
        recorder.validation(2, {"dsc": {"Ball": 0.5}, "mean_dsc": 0.5})
        recorder.step(3, ("a",), METRICS, DONE._replace(given=time.perf_counter() + 60))
        recorder.step(4, ("a",), METRICS, DONE._replace(wait=60, given=0.0))
        recorder.end()
    idle = [line["idle_s"] for line in lines_of(tmp_path) if line["kind"] == "train"]
    assert idle == [0, pytest.approx(60, abs=5), 0, 0]
    assert "the device was idle for" in shown.getvalue()


@pytest.mark.parametrize("hidden", ["wait", "transfer"])
def test_what_the_host_did_while_the_device_worked_is_not_blamed(tmp_path: Path, hidden: str) -> None:
    """The device is idle in one step for another reason; the long waits are hidden, before the first step or paused."""
    shown = io.StringIO()
    with Recorder(tmp_path / "metrics.jsonl", Console(file=shown, width=400), 1, 5) as recorder:
        recorder.begin(0)
        busy = DONE._replace(**{hidden: 1000.0})
        recorder.step(1, ("a",), METRICS, busy._replace(given=time.perf_counter()))
        recorder.step(2, ("a",), METRICS, busy)
        recorder.step(3, ("a",), METRICS, DONE._replace(given=time.perf_counter() + 60))
        recorder.flush()
        recorder.validation(3, {"dsc": {"Ball": 0.5}, "mean_dsc": 0.5})
        recorder.step(4, ("a",), METRICS, busy._replace(given=time.perf_counter() + 60))
        recorder.step(5, ("a",), METRICS, busy)
        recorder.end()
    assert "mostly while results were written down" in shown.getvalue()


def test_a_device_was_idle_for_a_batch_as_long_as_the_host_still_waited_for_it(tmp_path: Path) -> None:
    """Of 60 idle seconds the last 20 were the transfer's, those before the wait's."""
    shown = io.StringIO()
    with Recorder(tmp_path / "metrics.jsonl", Console(file=shown, width=400), 1, 2) as recorder:
        recorder.begin(0)
        recorder.step(1, ("a",), METRICS, DONE)
        recorder.step(2, ("a",), METRICS, DONE._replace(wait=1000.0, transfer=20.0, given=time.perf_counter() + 60))
        recorder.end()
    assert "mostly waiting for batches" in shown.getvalue()


def test_a_step_lasts_from_the_end_of_the_one_before_to_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a CPU has done it before its metrics are handed over, so that those before it are fetched late."""
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    with Recorder(tmp_path / "metrics.jsonl", Console(quiet=True), 1, 3) as recorder:
        recorder.begin(0)
        for number, seconds in ((1, 1.0), (2, 2.0), (3, 4.0)):
            clock[0] += seconds
            recorder.step(number, ("a",), METRICS, DONE)
            wait_for_watch(recorder)
        recorder.end()
    assert [line["step_s"] for line in lines_of(tmp_path) if line["kind"] == "train"] == [1, 2, 4]


def wait_for_watch(recorder: Recorder) -> None:
    assert recorder._pending is not None
    recorder._pending.finished.result()


def test_saving_after_a_validation_falls_into_no_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    with Recorder(tmp_path / "metrics.jsonl", Console(quiet=True), 1, 2) as recorder:
        recorder.begin(0)
        recorder.step(1, ("a",), METRICS, DONE)
        recorder.flush()
        clock[0] = 100.0
        recorder.validation(1, {"dsc": {"Ball": 0.5}, "mean_dsc": 0.5})
        clock[0] = 1100.0
        recorder.saved()
        recorder.step(2, ("a",), METRICS, DONE)
        clock[0] = 1101.0
        recorder.end()
    _, validation, second, _ = lines_of(tmp_path)
    assert (validation["validation_s"], second["step_s"]) == (100.0, 1.0)


TOTALS = {
    "steps": 10,
    "step": 100.0,
    "load": 1.0,
    "augment": 20.0,
    "idle_by_wait": 0.0,
    "idle_by_transfer": 0.0,
    "idle": 10.0,
}


@pytest.mark.parametrize(
    ("times", "words"),
    [
        ({"idle_by_wait": 9.0}, "mostly waiting for batches, which take 0.100 s to load and 2.000 s to augment"),
        ({"idle_by_transfer": 6.0, "idle_by_wait": 3.0}, "mostly while batches were handed to it"),
        ({"idle_by_transfer": 1.0}, "mostly while results were written down"),
    ],
)
def test_the_last_line_names_the_part_that_was_short(times: dict[str, float], words: str) -> None:
    text = shortage_text(TOTALS | times)
    assert text is not None
    assert text.startswith("the device was idle for 10% of the training")
    assert words in text


def test_a_device_that_is_kept_busy_is_not_told_of() -> None:
    """The loop may wait as long as it likes while the device works."""
    assert shortage_text(TOTALS | {"wait": 90.0, "idle": 5.0}) is None
