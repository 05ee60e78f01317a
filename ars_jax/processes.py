"""Several processes that train as one: how they join, what the first says to all, and how all end when one does."""

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from itertools import count as counter
from typing import Any, NoReturn, TypeVar

import jax

# JAX has no public way to the values that its processes share; multihost_utils reaches them like this.
from jax._src import distributed

from ars_jax.errors import UserError, as_told

JOIN_SECONDS = 300
"""How long a process waits for the others to join."""

_MOST_SECONDS = 1e6

_ENDED = "ars_jax/ended"
_GATHERED = "ars_jax/gathered"
_POLL_SECONDS = 1.0
_SLICE_MS = 5_000
_LOST = ("gloo", "nccl", "connection", "unavailable", "socket")
"""Words of a failed collective, whose cause is that another process is not there any more."""

_numbers = counter()
_watching: threading.Event | None = None
T = TypeVar("T")


@contextmanager
def joined(
    *,
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    automatic: bool = False,
    timeout: float = JOIN_SECONDS,
) -> Iterator[None]:
    """Makes this process one of several, or leaves it alone where nothing is given; before any computation by JAX.

    Within the block an error in one process ends all of them with its message.

    Args:
        coordinator: HOST:PORT, where process 0 is reached by the others.
        processes: how many there are.
        process: number of this one, from 0.
        automatic: have JAX find out all three, from Slurm, Open MPI or a TPU pod.
        timeout: seconds to wait for the others, above 0, at most a million.

    Yields:
        Nothing.

    Raises:
        UserError: arguments that contradict each other, nothing to find out from, or others that do not join in time.
    """
    arguments = check_launch(coordinator, processes, process, automatic)
    if arguments is None:
        yield
        return
    if not 0 < timeout <= _MOST_SECONDS:
        wanted = f"above 0, at most {_MOST_SECONDS:g}"
        raise UserError("--join_timeout", found=timeout, wanted=wanted, fix=f"the default is {JOIN_SECONDS}")
    _join(arguments, timeout)
    try:
        with _watched(), ended_together():
            yield
    finally:  # which all come to: also those that were told to stop, after the same step
        jax.distributed.shutdown()


def check_launch(
    coordinator: str | None, processes: int | None, process: int | None, automatic: bool
) -> Mapping[str, Any] | None:
    """Holds the arguments of `joined` against each other.

    Args:
        coordinator: HOST:PORT.
        processes: how many there are.
        process: number of this one.
        automatic: whether JAX finds them out.

    Returns:
        Arguments of `jax.distributed.initialize`, or None for a process that is alone.

    Raises:
        UserError: some without the others, or numbers out of range.
    """
    given = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    missing = [name for name, value in given.items() if value is None]
    if automatic:
        if len(missing) < len(given):
            found = f"{', '.join(name for name in given if name not in missing)} as well"
            raise UserError("--distributed", found=found, wanted="one or the other", fix="leave one out")
        return {}
    if len(missing) == len(given):
        return None
    if coordinator is None or processes is None or process is None:
        fix = "give all three, or --distributed where Slurm, Open MPI or a TPU pod knows them"
        raise UserError(", ".join(missing), found="nothing", wanted="a value beside the others", fix=fix)
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 2**16):
        raise UserError("--coordinator", found=coordinator, wanted="HOST:PORT", fix="for example 10.0.0.1:12345")
    if processes < 1:
        raise UserError("--processes", found=processes, wanted="1 or more", fix="count the processes")
    if not 0 <= process < processes:
        raise UserError("--process", found=process, wanted=f"0 to {processes - 1}", fix="number them from 0")
    # All devices that the process sees are its own, also within a cluster that would give it one.
    how = {"coordinator_address": coordinator, "num_processes": processes, "process_id": process}
    return {**how, "cluster_detection_method": "deactivate"}


def count() -> int:
    """Returns the number of processes."""
    return jax.process_count()


def index() -> int:
    """Returns the number of this process, from 0."""
    return jax.process_index()


def is_first() -> bool:
    """Whether this is the process that writes and shows what is written and shown once."""
    return index() == 0


def gather(value: T) -> list[T]:
    """Collects a small value of every process; all have to call it, and wait for the slowest.

    Args:
        value: what JSON takes; floats come back as they were.

    Returns:
        The values in the order of the processes.
    """
    if count() == 1:
        return [value]
    client, number = _client(), next(_numbers)
    client.key_value_set(f"{_GATHERED}/{number}/{index()}", json.dumps(value))
    values = [json.loads(_awaited(client, f"{_GATHERED}/{number}/{other}")) for other in range(count())]
    if is_first() and number:  # who has written this has read the last
        client.key_value_delete(f"{_GATHERED}/{number - 1}/")
    return values


def from_first(make: Callable[[], T]) -> T:
    """Has the first process make a small value for all; the others wait for it.

    Args:
        make: what the first one calls; its value is such as JSON takes.

    Returns:
        What the first process made.
    """
    return gather(make() if is_first() else None)[0]  # pyright: ignore[reportReturnType]


def is_lost(error: BaseException) -> bool:
    """Whether a collective failed, as it does when another process is not there any more."""
    failed = isinstance(error, jax.errors.JaxRuntimeError | ValueError)  # orbax makes one the other
    return count() > 1 and failed and any(word in str(error).lower() for word in _LOST)


def barrier() -> None:
    """Waits until every process has come here."""
    gather(None)


@contextmanager
def ended_together() -> Iterator[None]:
    """Ends every process with the message of the one in which something was raised; a process alone is let be.

    What is no error, such as `StoppedError`, is raised in all of them.

    It has to be the innermost of blocks whose end waits for the other processes: they would never come.

    Yields:
        Nothing.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if _watching is not None:
            _end(error)
        raise


def _join(arguments: Mapping[str, Any], timeout: float) -> None:
    """Joins in a thread: where JAX gives up waiting, it takes the process with it."""
    done: Future[None] = Future()

    def join() -> None:
        try:
            jax.distributed.initialize(**arguments, initialization_timeout=int(timeout) + 60)
            done.set_result(None)
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=join, daemon=True).start()
    place = arguments.get("coordinator_address", "the processes")
    try:
        done.result(timeout)
    except TimeoutError:
        error = UserError(
            place,
            found=f"not all processes after {timeout:g} s",
            wanted="every process of the run",
            fix="start all, check that this machine reaches the address, or raise --join_timeout",
        )
        _leave(f"ars-jax: {error}", 2)
    except (ValueError, RuntimeError, OSError) as error:
        if arguments:
            fix = "check address and port, and that nothing else listens there"
            raise UserError(place, found=_short(error), wanted="a place to meet", fix=fix) from error
        found, wanted = f"none of them ({_short(error)})", "Slurm, Open MPI or a TPU pod"
        fix = "give --coordinator, --processes and --process"
        raise UserError("--distributed", found=found, wanted=wanted, fix=fix) from error


@contextmanager
def _watched() -> Iterator[None]:
    """Listens for the end of another process."""
    global _watching
    _watching = threading.Event()
    thread = threading.Thread(target=_watch, args=(_watching,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        _watching.set()
        thread.join()
        _watching = None


def _watch(stopped: threading.Event) -> None:
    client = _client()
    while not stopped.wait(_POLL_SECONDS):
        with suppress(jax.errors.JaxRuntimeError):  # nobody has ended
            number, status, message = json.loads(client.key_value_try_get(_ENDED))
            if not stopped.is_set():
                _leave(f"ars-jax: ended with process {number}: {message}", status)


def _end(error: BaseException) -> NoReturn:
    """Says why to this process's user and to the other processes, and leaves without waiting for them."""
    assert _watching is not None
    if is_lost(error):
        time.sleep(2 * _POLL_SECONDS)  # the cause may just be on its way, and is then told instead
        message, status = f"another process was lost ({_short(error)}); see its output; with --resume it goes on", 1
    elif told := as_told(error):
        message, status = str(told), 2
    elif isinstance(error, KeyboardInterrupt):
        message, status = "interrupted; with --resume it goes on", 130
    else:
        traceback.print_exception(error)
        message, status = f"{type(error).__name__}: {_short(error)}", 1
    _watching.set()
    with suppress(jax.errors.JaxRuntimeError):  # another was faster
        _client().key_value_set(_ENDED, json.dumps([index(), status, message]))
    if is_first():  # which carries what is shared
        time.sleep(3 * _POLL_SECONDS)
    _leave(f"ars-jax: {message}", status)


def _leave(message: str, status: int) -> NoReturn:
    """Ends at once: an orderly end would wait for threads that wait for the other processes."""
    if sys.stdout.isatty():
        sys.stdout.write("\x1b[?25h")  # the progress bar has hidden the cursor
    sys.stderr.write(f"{message}\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _awaited(client: Any, key: str) -> str:
    while True:
        try:
            return client.blocking_key_value_get(key, _SLICE_MS)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise


def _client() -> Any:
    return distributed.global_state.client


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
