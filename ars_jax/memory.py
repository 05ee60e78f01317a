"""How much memory devices have."""

import os
import re
from pathlib import Path
from typing import Any

from ars_jax.errors import UserError
from ars_jax.topology import GPUS

GROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""Where Linux names a control group's limit in bytes, or "max"."""

_GIBIBYTES = {"TPU v4": 15.25, "TPU v5": 95.74, "TPU v5 lite": 15.75, "TPU v6 lite": 31.25, "TPU7x": 94.75}
MEMORY_OF = {name: int(gibibytes * 2**30) for name, gibibytes in _GIBIBYTES.items()}
MEMORY_OF |= {gpu.kind: gpu.memory * 3 // 4 for gpu in GPUS.values()}
"""Bytes of devices that need not be there, by their names.

Of a TPU what its compiler lets a program use: a chip, or one of the two halves of a v4 or 7x; a compiler without a
device says it only where a program does not fit. Of a GPU the three quarters that JAX takes unless
XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise.
"""

_UNITS = {unit: 1000**power for power, unit in enumerate(("B", "KB", "MB", "GB", "TB"))}
_UNITS |= {unit: 1024**power for power, unit in enumerate(("KIB", "MIB", "GIB", "TIB"), start=1)}


def find_memory(device: Any) -> int | None:
    """Says how many bytes a device has.

    Args:
        device: of this machine, or of a topology.

    Returns:
        The limit that the device names; for a CPU the machine's memory, or the smaller limit of the process's control
        group; None where neither is known.
    """
    if device.platform == "cpu":
        return min(filter(None, (_physical_memory(), _group_limit())), default=None)
    try:
        return (device.memory_stats() or {})["bytes_limit"]
    except (RuntimeError, KeyError):  # a device that is not there has no statistics
        return MEMORY_OF.get(device.device_kind)


def parse_memory(text: str) -> int:
    """Reads an amount of memory.

    Args:
        text: such as "11GB" (10^9 bytes each) or "16 GiB" (2^30).

    Returns:
        Bytes.

    Raises:
        UserError: no number with a unit.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?B)\s*", text.upper())
    if not match or match[2] not in _UNITS:
        raise UserError("--memory", found=text, wanted="a number with a unit", fix="for example 11GB or 16GiB")
    return round(float(match[1]) * _UNITS[match[2]])


def _physical_memory() -> int | None:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not every system counts its pages
        return None
    return size if size > 0 else None


def _group_limit() -> int | None:
    try:
        return int(GROUP_LIMIT.read_text())
    except (OSError, ValueError):
        return None
