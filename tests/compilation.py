"""Quick compilation, apart from what needs the whole package: an accelerator's machine may lack some of it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

# JAX has no public way to tell the compiler something for all programs of a block.
from jax._src import compiler
from jax.experimental.compilation_cache import compilation_cache

QUICKLY = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
if jax.__version_info__ < (0, 11):
    # The older way to machine code, of the same operations, takes less than half of the time; later versions lack it.
    QUICKLY["xla_cpu_use_fusion_emitters"] = False


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
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        with pytest.MonkeyPatch.context() as patch:
            compile_quickly(patch)
            yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def compile_quickly(patch: pytest.MonkeyPatch) -> None:
    """Has all programs compiled without optimisation, whatever they ask for."""
    whole = compiler.get_compile_options

    def quick(*arguments: Any, env_options_overrides: Any = None, **options: Any) -> Any:
        return whole(*arguments, env_options_overrides={**(env_options_overrides or {}), **QUICKLY}, **options)

    patch.setattr(compiler, "get_compile_options", quick)
