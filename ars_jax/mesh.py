"""The devices as a mesh and how arrays lie on it; the only place that names shardings."""

from collections.abc import Sequence
from typing import Any, TypeVar

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

T = TypeVar("T")

VOLUME_AXES = 4
"""Arrays of a batch with at least this many axes are volumes, `[b, z, y, x, ...]`."""


def make_mesh(data: int | None = None, space: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """Makes a mesh with the axes "data" (the batch) and "space" (the depth of a volume).

    Args:
        data: devices along "data"; as many as there are by default.
        space: devices along "space", which share every volume of the batch.
        devices: to choose from, the first ones first; those of this machine by default.

    Returns:
        A mesh whose shardings the compiler propagates (`AxisType.Auto`).

    Raises:
        ValueError: there are fewer devices.
    """
    devices = jax.devices() if devices is None else devices
    data = max(len(devices) // space, 1) if data is None else data
    if data * space > len(devices):
        raise ValueError(f"a mesh of {data} x {space} needs more than the {len(devices)} devices")
    chosen = devices[: data * space]
    return jax.make_mesh((data, space), ("data", "space"), (AxisType.Auto,) * 2, devices=chosen)


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array: parameters and statistics."""
    return NamedSharding(mesh, PartitionSpec())


def by_batch(mesh: Mesh) -> NamedSharding:
    """The first axis is divided over "data": what a batch says of its cases."""
    return NamedSharding(mesh, PartitionSpec("data"))


def by_volume(mesh: Mesh) -> NamedSharding:
    """The first axis is divided over "data" and the second, the depth, over "space": images and labels."""
    return NamedSharding(mesh, PartitionSpec("data", "space"))


def batch_shardings(mesh: Mesh, batch: Any) -> Any:
    """Says how every array of a batch lies.

    Args:
        mesh: the devices.
        batch: a tree of arrays or of their shapes, `[b, z, y, x, ...]` for volumes.

    Returns:
        The same tree with a sharding for each: `by_volume` for volumes, else `by_batch`.
    """
    return jax.tree.map(lambda x: by_volume(mesh) if x.ndim >= VOLUME_AXES else by_batch(mesh), batch)


def put_batch(mesh: Mesh, batch: T) -> T:
    """Lays this process's share of a batch on its devices; the same call for one process or many.

    Args:
        mesh: the devices.
        batch: NumPy arrays `[b, ...]`, b a multiple of the process's devices along "data".

    Returns:
        Global arrays, divided as `batch_shardings` says.
    """
    return jax.make_array_from_process_local_data(batch_shardings(mesh, batch), batch)
