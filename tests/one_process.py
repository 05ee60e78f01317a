"""`python -m tests.one_process DEVICES STOP_AT WORDS...`: `ars-jax WORDS` with virtual CPU devices, compiled quickly.

Before it makes batch STOP_AT the process is sent a SIGTERM, as a scheduler does; -1 for never.
"""

import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import jax

from ars_jax.cli import main
from ars_jax.data.loader import Batch
from ars_jax.train import loop


def stop_at(last: int) -> None:
    real = loop.batches

    def changed(*arguments: Any, start: int, **options: Any) -> Iterator[Batch]:
        for number, batch in enumerate(real(*arguments, start=start, **options), start):
            if number == last:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    loop.batches = changed


if __name__ == "__main__":
    devices, last, *words = sys.argv[1:]
    jax.config.update("jax_num_cpu_devices", int(devices))
    jax.config.update("jax_disable_most_optimizations", True)
    stop_at(int(last))
    sys.exit(main(words))
