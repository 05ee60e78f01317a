"""Signals that end a training: the running step is finished and what was reached is saved."""

import _thread
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
from jax.experimental import multihost_utils

from ars_jax.errors import StoppedError

_AT_ONCE = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}


@contextmanager
def stopped_at_once() -> Iterator[None]:
    """Turns a SIGTERM into an error, while there is nothing to save.

    Yields:
        Nothing.

    Raises:
        StoppedError: at a SIGTERM.
    """

    def stop(*_: Any) -> None:
        raise StoppedError("stopped by SIGTERM with nothing new to save")

    with _handled({signal.SIGTERM: stop}):
        yield


@contextmanager
def stopping(say: Callable[[str], None]) -> Iterator[Callable[[int], str | None]]:
    """Notes the first SIGTERM or SIGINT; the next one ends the process at once.

    Of several processes one may be told to stop while the others are not: there JAX takes SIGTERM (not SIGINT), and has
    all stop after the same step.

    Args:
        say: is told of the first signal, in a thread of its own: the signal may have come while something was written.

    Yields:
        What is to be called after every step, in every process, with how many it has taken since it was started (JAX
        has all stop at the first number that none has passed): the name of the signal if the training has to stop now,
        else None.
    """
    if jax.distributed.is_initialized():
        yield lambda step: "SIGTERM" if multihost_utils.reached_preemption_sync_point(step) else None
        return
    noted: list[str] = []

    def note(number: int, _: Any) -> None:
        noted.append(signal.Signals(number).name)
        for other, handler in _AT_ONCE.items():
            signal.signal(other, handler)
        text = f"{noted[0]}: stopping after this step, and its validation if it has one; once more stops at once"
        _thread.start_new_thread(say, (text,))  # takes none of the locks that may be held here, as Thread would

    with _handled(dict.fromkeys(_AT_ONCE, note)):
        yield lambda _: noted[0] if noted else None


@contextmanager
def _handled(handlers: Mapping[signal.Signals, Callable[[int, Any], None]]) -> Iterator[None]:
    """Sets signal handlers, and back; only the main thread may, and of several processes none: JAX has set its own."""
    if threading.current_thread() is not threading.main_thread() or jax.distributed.is_initialized():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set by Python
