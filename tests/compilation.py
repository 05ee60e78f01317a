"""Quick compilation, apart from what needs the whole package: an accelerator's machine may lack some of it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache


@contextlib.contextmanager
def quick_compilation(base: Path) -> Iterator[None]:
    """Compiles without optimisation and keeps it in a folder: compiling is nearly all that these tests cost.

    Not to be nested. Programs compiled with and without optimisation differ by rounding.
    """
    settings = {
        "jax_compilation_cache_dir": str(base / "compiled"),
        "jax_persistent_cache_min_compile_time_secs": 0.2,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in (settings | {"jax_disable_most_optimizations": True}).items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        for name, value in (before | {"jax_disable_most_optimizations": False}).items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
