"""Locks between processes, which end with the process that holds them, however it ends."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from ars_jax.errors import UserError


@contextmanager
def locked(path: Path, *, required: bool = True, waiting: Callable[[str], None] | None = None) -> Iterator[bool | None]:
    """Holds a lock; not to be taken twice by one process.

    Args:
        path: the lock's file; its folder is made, and the file stays, with the name of who holds it or held it last;
            except after an error, where folders were made and nothing else is in them.
        required: whether it is an error that no lock can be made (in a folder that cannot be written, on a file system
            without locks, on Windows).
        waiting: what is called with the holder's name where the lock is not free, which is then waited for.

    Yields:
        Whether it was free, and is held now, which it always is after waiting; None where no lock can be made.

    Raises:
        UserError: no lock can be made, though it is required.
    """
    made: list[Path] = []
    with ExitStack() as stack:
        try:
            free, made = _open_and_take(path, stack, None if waiting is None else lambda: waiting(holder(path)))
        except (OSError, ImportError) as error:
            if required:
                found, fix = (
                    getattr(error, "strerror", None) or error,
                    "check folder, rights and space, or take a local disk",
                )
                raise UserError(path, found=found, wanted="a place that can be written and locked", fix=fix) from error
            free = None
        try:
            yield free
        except BaseException:
            if free:
                _undo(path, made)
            raise


def _undo(path: Path, made: list[Path]) -> None:
    """Leaves nothing behind where nothing came of it: deletes the folders that were made for the lock alone."""
    with suppress(OSError):
        if made and list(path.parent.iterdir()) == [path]:
            path.unlink()
            for folder in made:
                folder.rmdir()


def _open_and_take(path: Path, stack: ExitStack, wait: Callable[[], None] | None) -> tuple[bool, list[Path]]:
    """Takes the lock of the file that bears the name when it is taken; returns whether, and the folders made for it.

    Who held it may have deleted the file that was waited for, and somebody else may hold another one of its name.
    """
    while True:
        made = [folder for folder in path.parents if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        file = stack.enter_context(path.open("a", encoding="utf-8"))
        free = _take(file, wait)
        if not free or _is_at(file, path):
            return free, made
        file.close()


def _is_at(file: IO[str], path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def holder(path: Path) -> str:
    """Says who holds a lock that is held.

    Args:
        path: the lock's file.

    Returns:
        Process and host, as far as they are known.
    """
    with suppress(OSError, ValueError):
        return path.read_text(encoding="utf-8").strip() or "another process"
    return "another process"


def _take(file: IO[str], wait: Callable[[], None] | None) -> bool:
    """Takes the lock of an open file, and writes into it who has it."""
    import fcntl  # not on Windows

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if wait is None:
            return False
        wait()
        fcntl.flock(file, fcntl.LOCK_EX)
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return True
