"""What a process keeps of the memory that it frees."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import jax, jax.numpy as jnp
from ars_jax.allocator import keep_freed_memory

def new_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    jax.block_until_ready(program(values))
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "keep":
    assert keep_freed_memory()
values = jnp.ones(2**22)
program = jax.jit(lambda x: jnp.sort(jnp.cos(x).reshape(2, -1), 0).sum())
assert program.lower(values).compile().memory_analysis().temp_size_in_bytes >= values.nbytes
new_pages()
print(new_pages())
"""


def pages_of_the_second_time(how: str) -> int:
    run = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
def test_memory_that_is_asked_for_again_is_not_fetched_again() -> None:
    """The temporaries of a program fill thousands of pages of 4 KiB."""
    assert pages_of_the_second_time("keep") < 0.05 * pages_of_the_second_time("as it is")
