"""Signals: the first is noted, the next one ends the process, and handlers are as they were afterwards."""

import os
import queue
import signal
import subprocess
import sys
import threading

import pytest

from ars_jax.errors import StoppedError
from ars_jax.train.interrupt import stopped_at_once, stopping

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_noted(number: signal.Signals) -> None:
    before, said = [signal.getsignal(one) for one in SIGNALS], queue.SimpleQueue[str]()
    with stopping(said.put) as asked:
        assert asked(1) is None
        os.kill(os.getpid(), number)
        assert asked(2) == number.name
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert [signal.getsignal(one) for one in SIGNALS] == before
    assert said.get(timeout=10).startswith(f"{number.name}: stopping after this step")
    assert said.empty()


def test_a_signal_may_come_while_something_is_written() -> None:
    """What is said of it is not written by the handler, within the write that it interrupts."""
    written = threading.Lock()
    said = threading.Event()

    def say(_: str) -> None:
        with written:
            said.set()

    with stopping(say) as asked:
        with written:
            os.kill(os.getpid(), signal.SIGTERM)
            assert asked(1) == "SIGTERM"
        assert said.wait(10)


def test_a_handler_that_python_did_not_set_is_put_back_as_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    real, unknown = signal.signal, {*SIGNALS}

    def set_by_c(number: signal.Signals, handler: object) -> object:
        before = real(number, handler)  # pyright: ignore[reportArgumentType]
        if number not in unknown:
            return before
        unknown.remove(number)
        return None

    before = [signal.getsignal(one) for one in SIGNALS]
    monkeypatch.setattr(signal, "signal", set_by_c)
    with stopping(lambda _: None):
        pass
    assert [signal.getsignal(one) for one in SIGNALS] == [signal.SIG_DFL] * 2
    for number, handler in zip(SIGNALS, before, strict=True):
        real(number, handler)


def test_a_second_interrupt_is_an_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt), stopping(lambda _: None):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_a_second_sigterm_ends_the_process() -> None:
    code = """
import os, signal
from ars_jax.train.interrupt import stopping
with stopping(lambda _: None) as asked:
    os.kill(os.getpid(), signal.SIGTERM)
    print(asked(1), flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print("still here", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("SIGTERM\n", -signal.SIGTERM)


def test_while_there_is_nothing_to_save_a_sigterm_ends_at_once() -> None:
    with pytest.raises(StoppedError) as caught, stopped_at_once():
        os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.code == caught.value.STATUS == 75
    assert not isinstance(caught.value, Exception)  # which nothing on the way may take for a fault


def test_other_threads_leave_the_handlers_alone() -> None:
    before, seen = [signal.getsignal(one) for one in SIGNALS], []

    def work() -> None:
        with stopped_at_once(), stopping(lambda _: None) as asked:
            seen.extend([asked(1), *(signal.getsignal(one) for one in SIGNALS)])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None, *before]
