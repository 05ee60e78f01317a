"""The benchmark of the losses measures fresh and kept pages apart, and counts what it cannot time."""

import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest

SMALL = ("--shape", "1", "16", "16", "16", "--classes", "3", "--grid", "2")


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    """The script as a module; scripts import each other by their bare names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1] / "scripts"))
        yield importlib.import_module("bench_losses")


def start(bench: Any, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    """Runs the script in this process."""
    monkeypatch.setattr(sys, "argv", ["bench_losses.py", *SMALL, *words])
    bench.main()


def test_fresh_and_kept_pages_are_measured_in_processes_of_their_own(
    bench: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is asked of each is what was asked, but for the pages and the file, which the later words decide."""
    asked = []

    def run(command: Sequence[str]) -> SimpleNamespace:
        asked.append(command)
        words = bench.parse_words(command[2:])
        group = {"title": f"{words.pages} pages", "rows": [{"name": "dice", "ratio": 2.0}]}
        Path(words.json).write_text(json.dumps({"device": "cpu", "groups": [group]}), encoding="utf-8")
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(bench, "subprocess", SimpleNamespace(run=run))
    start(bench, monkeypatch, "--json", str(tmp_path / "both.json"), "--rounds", "3")
    figures = json.loads((tmp_path / "both.json").read_text(encoding="utf-8"))
    assert [group["title"] for group in figures["groups"]] == ["fresh pages", "kept pages"]
    assert figures["device"] == "cpu"
    assert len(asked) == 2 and all(bench.parse_words(command[2:]).rounds == 3 for command in asked)


def test_a_process_that_fails_ends_the_benchmark(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "subprocess", SimpleNamespace(run=lambda command: SimpleNamespace(returncode=3)))
    with pytest.raises(SystemExit) as ended:
        start(bench, monkeypatch)
    assert ended.value.code == 3


@pytest.mark.parametrize("pages", ["fresh", "kept"])
def test_every_loss_is_compared_with_a_read_and_write_of_its_pages(
    pages: str, bench: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = []
    monkeypatch.setattr(bench.benchmark, "keep_freed_memory", lambda: kept.append(True))
    monkeypatch.setattr(bench.benchmark, "ceilings", lambda dtype: {})
    words = ("--no-torch", "--rounds", "1", "--losses", "dice", "--json", str(tmp_path / "one.json"))
    start(bench, monkeypatch, *words, "--pages", pages)
    (group,) = json.loads((tmp_path / "one.json").read_text(encoding="utf-8"))["groups"]
    sweep, dice = group["rows"]
    assert (sweep["name"], dice["name"]) == ("read and write", "dice")
    assert sweep["limits"] == 1.0 and dice["limits"] == dice["best_s"] / sweep["best_s"]
    assert group["title"].endswith(f", {pages} pages") and group["title"] in capsys.readouterr().out
    assert kept == ([True] if pages == "kept" else [])


def test_a_topology_is_counted_type_by_type_and_not_timed(
    bench: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A CPU stands in for the accelerator."""
    monkeypatch.setattr(bench, "find_devices", lambda topology: jax.devices() if topology == "h100" else [])
    words = ("--topology", "h100", "--losses", "dice", "--dtype", "float32", "bfloat16")
    start(bench, monkeypatch, *words, "--json", str(tmp_path / "counted.json"))
    groups = json.loads((tmp_path / "counted.json").read_text(encoding="utf-8"))["groups"]
    assert ["float32" in group["title"] for group in groups] == [True, False]
    for group in groups:
        (row,) = group["rows"]
        assert row["name"] == "dice" and row["trips"] == "no loops" and row["launches"] > 2
        assert "best_s" not in row and "cycles" not in row
        assert 2 < row["traffic"] < 100 and 0 < row["temporaries"] < 20
    shown = capsys.readouterr().out
    assert "not timed" in shown and "traffic x logits" in shown and "Mcycles" not in shown


def test_an_unknown_loss_and_an_absent_compiler_are_told(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=r"--losses: found hinge; wanted some of baseline \+ ARS, "):
        start(bench, monkeypatch, "--losses", "hinge")
    with pytest.raises(SystemExit, match="--topology: found gtx; wanted a TPU's such as v5e:1x1"):
        start(bench, monkeypatch, "--topology", "gtx")
