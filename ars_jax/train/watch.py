"""Tells of work that makes no progress."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from rich.console import Console

from ars_jax.errors import UserError
from ars_jax.processes import count, index, is_first

Tell = Callable[[int, str, float], None]


class Place(NamedTuple):
    """Where the work stands.

    Attributes:
        step: number of the step.
        what: what it is at.
        since: when it came there, in seconds of the clock.
    """

    step: int
    what: str
    since: float


@contextmanager
def watched(limit: float, tell: Tell, what: str) -> Iterator[Callable[[int, str], None]]:
    """Watches the work within the block from a thread.

    Args:
        limit: seconds at one place after which it is told, then after twice, four times, ... as long; 0 never tells.
        tell: is called with step, place and the seconds there so far.
        what: the first place.

    Yields:
        What is to be called with step and place whenever the work goes on to another one.
    """
    if not limit:
        yield lambda _step, _what: None
        return
    now, ended = [Place(0, what, time.monotonic())], threading.Event()

    def move(step: int, what: str) -> None:
        now[0] = Place(step, what, time.monotonic())

    thread = threading.Thread(
        target=look, args=(lambda: now[0], limit, tell, time.monotonic, ended.wait), name="watch", daemon=True
    )
    thread.start()
    try:
        yield move
    finally:
        ended.set()
        thread.join()


def say_stall(console: Console, step: int, what: str, seconds: float) -> None:
    """Says where the work stands: of several processes each for itself, as any may be the one that holds up the others.

    Args:
        console: of the first process.
        step: number of the step, 0 before the first.
        what: what it is at.
        seconds: how long so far.
    """
    text = f"no progress for {seconds:.0f} s: {f'step {step}, {what}' if step else what}"
    if count() > 1:
        text = f"process {index()}: {text}"
    if is_first():
        console.print(text, highlight=False, soft_wrap=True)
    else:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def look(
    place: Callable[[], Place], limit: float, tell: Tell, clock: Callable[[], float], wait: Callable[[float], bool]
) -> None:
    """Looks at the work until it ends.

    Args:
        place: returns where it stands.
        limit: see `watched`.
        tell: see `watched`.
        clock: returns the time in seconds.
        wait: waits for some seconds; returns whether the work has ended.
    """
    seen, told = place(), 0
    while not wait(max(seen.since + limit * 2**told - clock(), 0.0)):
        if (here := place()) != seen:
            seen, told = here, 0
        elif (seconds := clock() - seen.since) >= limit * 2**told:
            told += 1
            with suppress(UserError):  # the file cannot be written, which the work itself will meet
                tell(seen.step, seen.what, seconds)
