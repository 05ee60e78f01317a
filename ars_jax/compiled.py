"""How programs are compiled, and kept in a folder from one run to the next: compiling can outlast a short run."""

import hashlib
import os
import platform
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from ars_jax.errors import UserError

LIMIT_BYTES = 2**31
"""The folder's size, from which on what was not used for longest is deleted."""
SHORTEST_SECONDS = 0.2
"""Programs that compile faster are not kept: reading them would take as long."""

_FOLDER = "jax_compilation_cache_dir"
_DECISIVE = ("vendor_id", "cpu family", "model", "flags", "CPU implementer", "CPU variant", "CPU part", "Features")


def compiler_options(platform: str, *, save_memory: bool = False) -> dict[str, int | str]:
    """Says what the compiler is told besides its defaults.

    On a CPU, where nearly all work is done by library calls, higher levels of optimisation take longer to compile and
    gain nothing. There the compiler also merges what is to be computed again with what was computed before; all that
    saves memory is another order of the operations.

    Args:
        platform: that is compiled for.
        save_memory: whether time may be given for memory.

    Returns:
        Options for `jax.jit`.
    """
    if platform != "cpu":
        return {}
    order = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"} if save_memory else {}
    return {"xla_backend_optimization_level": 1, **order}


@contextmanager
def kept_programs(folder: Path | None = None) -> Iterator[None]:
    """Keeps the programs that are compiled meanwhile, and finds those of earlier runs.

    Without a folder, one that JAX was told to use (by JAX_COMPILATION_CACHE_DIR, say) is used as JAX is told to, and
    else `default_folder`; where that cannot be written, nothing is kept. No fault of the kept programs stops a run.

    Args:
        folder: where they are kept, in a sub-folder for this kind of processor.

    Yields:
        Nothing.

    Raises:
        UserError: the given folder cannot be written.
    """
    if folder is None and getattr(jax.config, _FOLDER):
        yield
        return
    try:
        place = (folder or default_folder()) / processor()
        _try_writing(place)
    except (OSError, RuntimeError) as error:
        if folder is not None:
            wanted, fix = "a folder that can be written", "check the path and your rights"
            raise UserError(folder, found=getattr(error, "strerror", error), wanted=wanted, fix=fix) from error
        yield
        return
    _drop_half_written(place)
    with _settings(place), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry")
        yield


def default_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Says where programs are kept if nobody names a folder.

    Args:
        environment: with XDG_CACHE_HOME, maybe.

    Returns:
        The folder `ars_jax/compiled` of the user's caches.

    Raises:
        RuntimeError: this user has no home.
    """
    named = Path(environment.get("XDG_CACHE_HOME", ""))
    caches = named if named.is_absolute() else Path.home() / ".cache"
    return caches / "ars_jax" / "compiled"


def processor(facts: Path = Path("/proc/cpuinfo")) -> str:
    """Names the kind of processor, since a program for one may hold instructions that another lacks.

    JAX's own key of a program does not tell processors apart, and machines may share a home.

    Args:
        facts: what Linux says of the processors.

    Returns:
        The architecture and a digest of model and instruction sets.
    """
    known = [platform.processor()]
    with suppress(OSError):
        lines = facts.read_text(encoding="utf-8", errors="replace").split("\n\n")[0].splitlines()
        known += sorted(" ".join(line.split()) for line in lines if line.split(":")[0].strip() in _DECISIVE)
    digest = hashlib.sha256("\n".join(known).encode()).hexdigest()
    return f"{platform.machine()}-{digest[:12]}"


def _try_writing(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"0")


def _drop_half_written(folder: Path) -> None:
    """Deletes what a killed run left: JAX writes a program's time of use last, and stops writing where one has none."""
    for program in folder.glob("*-cache"):
        if not program.with_name(program.name.removesuffix("-cache") + "-atime").exists():
            program.unlink(missing_ok=True)


@contextmanager
def _settings(folder: Path) -> Iterator[None]:
    """Sets JAX's own cache to a folder, and back."""
    settings = {
        _FOLDER: str(folder),
        "jax_compilation_cache_max_size": LIMIT_BYTES,
        "jax_persistent_cache_min_compile_time_secs": SHORTEST_SECONDS,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()  # it opens its folder once
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
