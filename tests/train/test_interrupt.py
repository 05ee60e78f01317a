"""Signals: the first is noted, the next one ends the process, and handlers are as they were afterwards."""

import os
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
    before, said = [signal.getsignal(one) for one in SIGNALS], []
    with stopping(said.append) as asked:
        assert asked(1) is None
        os.kill(os.getpid(), number)
        assert asked(2) == number.name
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert [signal.getsignal(one) for one in SIGNALS] == before
    (line,) = said
    assert line.startswith(f"{number.name}: stopping after this step")


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
