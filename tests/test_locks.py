"""Locks: one holder, known by name, and none left behind by a process that was killed."""

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ars_jax import locks
from ars_jax.errors import UserError
from ars_jax.locks import holder, locked

HOLD = """
import sys
from pathlib import Path
from ars_jax.locks import locked
with locked(Path(sys.argv[1])) as free:
    print(free, flush=True)
    input()
"""


@contextmanager
def held_by_another(path: Path) -> Iterator[subprocess.Popen]:
    """Another process that holds a lock until a line is written to it."""
    words = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        yield process
        process.kill()


def test_a_lock_has_one_holder_who_is_known_and_ends_with_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / ".lock"
    with held_by_another(path) as other:
        with locked(path) as free:
            assert free is False
        assert holder(path) == f"process {other.pid} on {socket.gethostname()}"
        other.kill()
        other.wait()
        with locked(path) as free:
            assert free is True
            assert holder(path) == f"process {os.getpid()} on {socket.gethostname()}"


def test_a_lock_can_be_waited_for(tmp_path: Path) -> None:
    path, told = tmp_path / ".lock", []
    with held_by_another(path) as other:

        def let_go(name: str) -> None:
            told.append(name)
            other.communicate("\n")

        with locked(path, waiting=let_go) as free:
            assert free is True
        assert told == [f"process {other.pid} on {socket.gethostname()}"]


@pytest.mark.parametrize("again", [False, True], ids=["deleted", "made again"])
def test_a_lock_that_was_deleted_while_it_was_waited_for_is_not_held(tmp_path: Path, again: bool) -> None:
    """Its holder's work came to nothing; who comes now would find another file, and hold that."""
    path = tmp_path / "made" / ".lock"
    with held_by_another(path) as other:

        def undone(_: str) -> None:
            path.unlink()
            path.parent.rmdir()
            if again:
                path.parent.mkdir()
                path.touch()
            other.communicate("\n")

        with locked(path, waiting=undone) as free, locked(path) as too:
            assert (free, too) == (True, False)
            assert holder(path) == f"process {os.getpid()} on {socket.gethostname()}"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EROFS, errno.EACCES])
def test_without_locks_it_depends_on_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks, "_take", refuse)
    with pytest.raises(UserError, match=r"\.lock: found .*wanted a place that can be written and locked"):
        with locked(tmp_path / ".lock"):
            pass
    with locked(tmp_path / ".lock", required=False) as free:
        assert free is None


def test_where_nothing_came_of_it_nothing_is_left(tmp_path: Path) -> None:
    """Neither the lock nor the folders that were made for it; others stay as they were."""
    with pytest.raises(ValueError, match="fault"), locked(tmp_path / "a" / "b" / ".lock"):
        raise ValueError("fault")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="fault"), locked(tmp_path / "a" / "b" / ".lock"):
        (tmp_path / "a" / "b" / "kept").touch()
        raise ValueError("fault")
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == [".lock", "kept"]
