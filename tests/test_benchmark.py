"""What the benchmarks share: ratios of throughput, figures that outlive a kill, and PyTorch on JAX's kind of device."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest

from scripts import benchmark
from scripts.benchmark import Contestant, Report, digits, measure, take_turns, torch_device


class Clock:
    """Stands in for the module `time`: nothing passes but what a run lets pass."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def run(self, *seconds: float) -> Any:
        """A run that takes these seconds, one after the other, and then the last again and again."""
        left = list(seconds)

        def run() -> None:
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(benchmark, "time", clock)
    return clock


def test_ratios_are_of_the_throughput_whatever_a_run_goes_through(clock: Clock) -> None:
    """Eight samples in four seconds are four times as fast as one in two."""
    rows = take_turns(
        [Contestant("eight", "one", clock.run(4), 10, repeats=8), Contestant("one", "", clock.run(2), 10)], 2
    )
    assert [row["ratio"] for row in rows] == [4.0, None]
    assert [row["best_s"] for row in rows] == [0.5, 2.0]
    assert [row["voxels_per_s"] for row in rows] == [20.0, 5.0]


def test_compiling_is_told_apart_from_running(clock: Clock) -> None:
    """Measured ahead, or what the first run took longer than the best."""
    ahead, first = (
        Contestant("ahead", "", clock.run(9, 2), 1, compile_s=5.0),
        Contestant("first", "", clock.run(7, 3), 1),
    )
    rows = take_turns([ahead, first], 2)
    assert [(row["compile_s"], row["best_s"], row["median_s"]) for row in rows] == [(5.0, 2.0, 2.0), (4.0, 3.0, 3.0)]


def test_a_kill_leaves_the_groups_before_it(clock: Clock, tmp_path: Path) -> None:
    def killed() -> None:
        raise KeyboardInterrupt

    report = Report(tmp_path / "figures.json", {"device": "some"}, {"flop": 1.0})
    measure(report, "whole", [Contestant("fine", "", clock.run(1), 1)], 1, benchmark.SPEED)
    with pytest.raises(KeyboardInterrupt):
        measure(report, "cut short", [Contestant("killed", "", killed, 1)], 1, benchmark.SPEED)
    kept = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert [group["title"] for group in kept["groups"]] == ["whole"]
    assert kept["groups"][0]["rows"][0]["best_s"] == 1.0
    assert kept["device"] == "some"


@pytest.mark.parametrize(
    ("backend", "cuda", "expected"),
    [("cpu", True, "cpu"), ("gpu", True, "cuda"), ("gpu", False, None), ("tpu", True, None)],
)
def test_pytorch_runs_on_the_kind_of_device_of_jax_or_not_at_all(
    backend: str, cuda: bool, expected: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: cuda), __spec__=SimpleNamespace())
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert torch_device(("torch",), host=False) == expected
    assert ("left out" in capsys.readouterr().out) == (expected is None)
    assert torch_device(("torch",), host=True) == "cpu"


def test_what_is_not_installed_is_left_out_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert torch_device(("json", "no_such_package"), host=False) is None
    assert "no_such_package" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("number", "text"), [(0.0, "0"), (0.04, "0.0400"), (0.5, "0.500"), (12.34, "12.3"), (1e6, "1000000")]
)
def test_three_digits_are_shown_of_every_number(number: float, text: str) -> None:
    assert digits(number) == text
