"""The judge of bad inputs sees what it is there to see."""

import sys
from pathlib import Path

import pytest

from ars_jax.errors import UserError
from tests.bad import judge
from tests.bad.files import ABSOLUTE
from tests.bad.judge import Attempt, Outcome, outcome


@pytest.fixture
def judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Judges a command that only writes a file."""
    base, numbers = tmp_path / "base", iter(range(9))
    (base / "data").mkdir(parents=True)
    (base / "data" / "input.json").write_text("{}", encoding="utf-8")

    def judged(name: str, content: str = "{}", attempt: Attempt | None = None) -> Outcome:
        def command(_words: list[str]) -> int:
            path = Path(name.replace("BASE", str(base)))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
            return 0

        monkeypatch.setattr(judge, "main", command)
        given = attempt or Attempt(("report", "--out", "{tmp}/out"), {"input.json": b"{}"})
        return outcome(given, base, tmp_path / f"attempt_{next(numbers)}")

    return judged


def test_a_file_in_the_output_is_no_fault(judged) -> None:
    assert not judged("out/a/b.json").faulty


@pytest.mark.parametrize("name", ["x", "out_of_it", "../x", "../../x", "../../x/y", "/x"])
def test_a_file_outside_of_the_output_is_a_fault(judged, name: str) -> None:
    found = judged(ABSOLUTE if name == "/x" else name)
    assert found.faulty
    assert found.outside


def test_a_changed_input_and_half_an_output_are_faults(judged) -> None:
    for name, content in (
        ("input.json", "[]"),
        ("BASE/data/input.json", "[]"),
        ("out/a.json", "{"),
        ("out/EXECUTED", ""),
    ):
        found = judged(name, content)
        assert found.half, name
        assert found.faulty


@pytest.mark.parametrize("wanted", [("refused",), ("taken", "these words")])
def test_another_end_than_the_one_that_is_wanted_is_a_fault(judged, wanted: tuple[str, ...]) -> None:
    assert judged("out/a.json", attempt=Attempt(("report", "--out", "{tmp}/out"), wanted=wanted)).kind == "other"


def test_more_lines_than_one_are_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def command(_words: list[str]) -> int:
        print("shown")
        print("ars-jax:", UserError("a", found="b", wanted="c", fix="d"), file=sys.stderr)
        print("Exception ignored in: something", file=sys.stderr)
        return 2

    monkeypatch.setattr(judge, "main", command)
    assert outcome(Attempt(("report",)), tmp_path / "base", tmp_path / "attempt").kind == "untold"
