"""Reading JSON, writing files whole or not at all, and locks between processes."""

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ars_jax.errors import UserError


@contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """Gives a temporary name in the same folder and moves it to its place only if nothing was raised.

    Args:
        path: the file that is to be written; its folder is made.

    Yields:
        The temporary path to write to.

    Raises:
        UserError: the place cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        found, fix = error.strerror or error, "check folder, rights and free space"
        raise UserError(path, found=found, wanted="a place that can be written", fix=fix) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


class _Tried(Exception):
    """Ends the trial of a place before anything is moved there."""


def check_place(path: Path) -> None:
    """Tries whether a file can be written, and leaves one that is there as it is.

    Args:
        path: the file; its folder is made.

    Raises:
        UserError: the place cannot be written.
    """
    if path.is_dir():
        raise UserError(path, found="a folder", wanted="a file to write", fix="give the name of a file")
    with suppress(_Tried), written_atomically(path) as temporary:
        temporary.touch()
        raise _Tried


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Args:
        path: UTF-8 text.

    Returns:
        What it holds.

    Raises:
        UserError: missing, not text or not JSON; with the line.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        found = (error.strerror or str(error)).lower()
        raise UserError(path, found=found, wanted="a JSON file", fix="check the path and your rights") from error
    except json.JSONDecodeError as error:
        found = f"{error.msg.lower()} in column {error.colno}"
        raise UserError(f"{path}, line {error.lineno}", found=found, wanted="JSON", fix="correct the line") from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise UserError(path, found="not JSON text", wanted="JSON in UTF-8", fix="save it as UTF-8") from error


def write_json(path: Path, content: object) -> None:
    """Writes strict JSON, whole or not at all.

    Args:
        path: the file; its folder is made.
        content: what JSON takes; NaN and infinity are not JSON.

    Raises:
        UserError: the place cannot be written.
    """
    with written_atomically(path) as temporary:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def write_arrays(path: Path, arrays: Mapping[str, ArrayLike]) -> None:
    """Writes arrays of numbers and words as a compressed .npz file, whole or not at all.

    Args:
        path: the file; its folder is made.
        arrays: by name; read again by `numpy.load`.

    Raises:
        UserError: the place cannot be written.
    """
    with written_atomically(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **{name: np.asarray(array) for name, array in arrays.items()})


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Holds a lock that ends with the process, however it ends.

    Args:
        path: the lock's file; its folder is made, and the file stays.

    Yields:
        Whether the lock was free; where it was not, nothing is held.

    Raises:
        UserError: the place cannot be written, or its file system has no locks.
    """
    import fcntl  # not on Windows, where all but experiments works without

    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.open("w"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except BlockingIOError:
            free = False
        except OSError as error:
            found, fix = error.strerror or error, "check folder, rights and free space, or take a local disk"
            raise UserError(path, found=found, wanted="a place that can be written and locked", fix=fix) from error
        yield free
