"""What a process keeps of the memory that it frees."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from ars_jax.allocator import keep_freed_memory

def new_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**26)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "keep":
    assert keep_freed_memory()
new_pages()
print(new_pages())
"""


def pages_of_the_second_time(how: str) -> int:
    run = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
def test_memory_that_is_asked_for_again_is_not_fetched_again() -> None:
    """Half a gigabyte has 131072 pages of 4 KiB; large pages are fewer."""
    assert pages_of_the_second_time("keep") < 0.05 * pages_of_the_second_time("as it is")
