"""Asks for eight virtual CPU devices, which has to happen before the first use of jax in the process."""

from collections.abc import Iterator

import jax
import pytest

from ars_jax import compiled
from tests.compilation import quick_compilation

jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture(scope="session", autouse=True)
def own_programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the compiled programs of the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "default_folder", lambda: tmp_path_factory.getbasetemp() / "programs")
        yield


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For modules whose laws hold of the mathematics, whatever the compiler makes of it."""
    with quick_compilation(tmp_path_factory.getbasetemp()):
        yield
