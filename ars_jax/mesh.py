"""The devices as a mesh and how arrays lie on it; the only place that names shardings."""

from typing import TypeVar

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

T = TypeVar("T")


def make_mesh(data: int | None = None) -> Mesh:
    """Makes a mesh with the axes "data" (the batch) and "space" (the depth of a volume, here undivided).

    Args:
        data: number of devices; all by default.

    Returns:
        A mesh whose shardings the compiler propagates (`AxisType.Auto`).
    """
    devices = jax.devices()[:data]
    return jax.make_mesh((len(devices), 1), ("data", "space"), (AxisType.Auto,) * 2, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array: parameters and statistics."""
    return NamedSharding(mesh, PartitionSpec())


def by_batch(mesh: Mesh) -> NamedSharding:
    """The first axis is divided over "data": images, labels and their flags."""
    return NamedSharding(mesh, PartitionSpec("data"))


def put_batch(mesh: Mesh, batch: T) -> T:
    """Lays this process's share of a batch on its devices; the same call for one process or many.

    Args:
        mesh: the devices.
        batch: NumPy arrays `[b, ...]`, b a multiple of the process's devices.

    Returns:
        Global arrays, divided over "data".
    """
    return jax.make_array_from_process_local_data(by_batch(mesh), batch)
