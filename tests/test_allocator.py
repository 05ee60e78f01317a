"""What a process keeps of the memory that it frees."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import jax, jax.numpy as jnp, numpy as np
from ars_jax.allocator import keep_freed_memory

def step(state, batch):
    return state + jax.lax.optimization_barrier(jnp.cos(batch)).sum(), batch[0]

if sys.argv[1] == "keep":
    assert keep_freed_memory()
batch, state = np.ones(2**24, np.float32), jnp.float32(0)
step = jax.jit(step, donate_argnums=0).lower(state, batch).compile()
assert step.memory_analysis().temp_size_in_bytes >= batch.nbytes
pages = []
for _ in range(8):
    placed = jax.block_until_ready(jax.device_put(batch))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    state, other = step(state, placed)
    jax.block_until_ready(state)
    pages.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sum(pages[3:]))
"""


def pages_of_later_steps(how: str) -> int:
    run = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
def test_memory_that_is_asked_for_again_is_not_fetched_again() -> None:
    """A step's temporaries fill thousands of pages of 4 KiB."""
    assert pages_of_later_steps("keep") < 0.3 * pages_of_later_steps("as it is")
