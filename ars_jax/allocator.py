"""How the C library hands out memory: a training step on a CPU wants the same gigabyte again and again."""

import ctypes

import jax

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt."""


def keep_freed_memory() -> bool:
    """Has the process keep memory that it frees, for what it asks for next.

    glibc fetches large blocks from the system and gives them back at once. XLA asks for all of a step's temporaries in
    one block, so that every step on a CPU would begin with memory that the system must clear page by page, on one core:
    a fifth to a third of the step. Only the main thread's heap can grow to such blocks, so that CPU programs are run by
    the thread that calls them. (One heap for all threads would do as well, but they wait for it: compiling takes half
    as long again.) Call it before JAX is used. The process then holds the most memory that it ever used.

    Returns:
        Whether the C library is one that can be told so; all others are left as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc, or no such library at all
        return False
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    return all([mallopt(parameter, value) for parameter, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1))])
