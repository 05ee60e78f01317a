"""What is told in one line though nobody asked about it before it was raised."""

import errno
import os
from pathlib import Path

import jax
import pytest

from ars_jax.errors import DivergedError, as_told
from ars_jax.files import drop_temporaries

DIVERGED = DivergedError("step 3", found="loss nan", wanted="a finite loss", fix="lower it")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (DIVERGED, "step 3: found loss nan; wanted a finite loss; fix: lower it"),
        (OSError(errno.EACCES, os.strerror(errno.EACCES), "a\x1bb"), r"a\x1bb: found Permission denied; wanted what"),
        (MemoryError("9 GB"), "memory: found 9 GB; wanted enough of it"),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 99 bytes."),
            "memory of the device: found RESOURCE_EXHAUSTED: Out of memory while trying to allocate 99 bytes.; wanted",
        ),
    ],
)
def test_what_users_can_mend_is_one_line(error: Exception, line: str) -> None:
    told = as_told(error)
    assert str(told).startswith(line)
    assert "\n" not in str(told)


@pytest.mark.parametrize(
    "error", [ValueError("a fault"), KeyboardInterrupt(), jax.errors.JaxRuntimeError("INTERNAL: x")]
)
def test_a_fault_of_the_program_is_let_be(error: BaseException) -> None:
    assert as_told(error) is None


def test_only_temporaries_of_our_own_are_dropped(tmp_path: Path) -> None:
    """A cache may lie in a folder where other programs have hidden files."""
    ours, foreign = ".case_1.npz.4711-0123abcd.tmp", ".syncthing.a-b.nii.tmp"
    for name in (ours, foreign):
        (tmp_path / name).touch()
    drop_temporaries(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [foreign]
