"""What is told of a training that makes no progress, by a clock that only moves when it is told to."""

import io
import threading
from collections.abc import Callable

import pytest
from rich.console import Console

from ars_jax.errors import UserError
from ars_jax.train import watch
from ars_jax.train.watch import Place, look, say_stall, watched


def told(moves: dict[float, Place], *, until: float, limit: float = 10) -> list[tuple[float, int, str, float]]:
    """When what was told, of work that begins at step 1 and moves on at the given times."""
    now, heard = [0.0], []

    def place() -> Place:
        return max((place for time, place in moves.items() if time <= now[0]), key=lambda place: place.since)

    def wait(seconds: float) -> bool:
        assert seconds >= 0
        # A wait may end a bit too early, as real ones do.
        now[0] += max(seconds - 0.001, 0.0005)
        return now[0] >= until

    look(place, limit, lambda *what: heard.append((now[0], *what)), lambda: now[0], wait)
    return heard


def test_a_stall_is_told_at_growing_intervals() -> None:
    heard = told({0: Place(3, "waiting for a batch", 0)}, until=100)
    assert [(step, what, round(seconds)) for _, step, what, seconds in heard] == [
        (3, "waiting for a batch", 10),
        (3, "waiting for a batch", 20),
        (3, "waiting for a batch", 40),
        (3, "waiting for a batch", 80),
    ]
    assert all(time == seconds for time, _, _, seconds in heard)


def test_work_that_goes_on_is_not_told_of() -> None:
    moves = {9.0 * step: Place(step, "waiting for the devices", 9.0 * step) for step in range(20)}
    assert told(moves, until=170) == []


def test_each_stall_is_told_anew_with_its_own_place() -> None:
    moves = {
        0.0: Place(1, "waiting for a batch", 0.0),
        12.0: Place(1, "waiting for the devices", 12.0),
        15.0: Place(2, "waiting for a batch", 15.0),
    }
    heard = told(moves, until=40)
    assert [step for _, step, _, _ in heard] == [1, 2, 2]
    assert [round(seconds) for *_, seconds in heard] == [10, 10, 20]


def test_the_thread_tells_and_ends_with_the_block() -> None:
    event, before = threading.Event(), threading.active_count()

    def tell(step: int, what: str, seconds: float) -> None:
        if (step, what) == (7, "saving a checkpoint"):
            event.set()
        raise UserError("file", found="no room", wanted="room", fix="make room")  # which stops nothing

    with watched(1e-3, tell, "beginning") as at:
        at(7, "saving a checkpoint")
        assert event.wait(10)
    assert threading.active_count() == before


def test_every_process_says_where_it_stands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first one shows no progress of the others, and what holds up all may be any of them."""
    shown = io.StringIO()
    say_stall(Console(file=shown), 3, "validating case_7", 600.4)
    say_stall(Console(file=shown), 0, "preparing the cases", 60)
    monkeypatch.setattr(watch, "count", lambda: 4)
    monkeypatch.setattr(watch, "index", lambda: 2)
    monkeypatch.setattr(watch, "is_first", lambda: False)
    say_stall(Console(file=shown), 3, "waiting for a batch", 600.4)
    assert shown.getvalue().splitlines() == [
        "no progress for 600 s: step 3, validating case_7",
        "no progress for 60 s: preparing the cases",
    ]
    assert capsys.readouterr().err == "process 2: no progress for 600 s: step 3, waiting for a batch\n"


@pytest.mark.parametrize("limit", [0, 0.0])
def test_zero_never_tells(limit: float) -> None:
    def fail(*_: object) -> None:
        raise AssertionError

    at: Callable[[int, str], None]
    with watched(limit, fail, "beginning") as at:
        at(1, "waiting for a batch")
