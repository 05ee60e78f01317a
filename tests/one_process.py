"""`python -m tests.one_process DEVICES SIGNAL AT PATH WORDS...`: `ars-jax WORDS` with virtual CPU devices.

Before it makes batch AT, and once PATH is there, the process is sent a signal: SIGTERM, as by a scheduler, or SIGKILL;
-1 for never. It compiles quickly.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest

from ars_jax.cli import main
from ars_jax.data.loader import Batch
from ars_jax.train import loop
from tests.compilation import compile_quickly


def signalled(number: signal.Signals, at: int, path: Path) -> None:
    real = loop.batches

    def changed(*arguments: Any, start: int, **options: Any) -> Iterator[Batch]:
        for place, batch in enumerate(real(*arguments, start=start, **options), start):
            if place == at:
                while not path.exists():
                    time.sleep(0.05)
                os.kill(os.getpid(), number)
            yield batch

    loop.batches = changed


if __name__ == "__main__":
    devices, name, at, path, *words = sys.argv[1:]
    jax.config.update("jax_num_cpu_devices", int(devices))
    compile_quickly(pytest.MonkeyPatch())
    signalled(signal.Signals[name], int(at), Path(path))
    sys.exit(main(words))
