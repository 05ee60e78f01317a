"""The devices as a mesh and how arrays lie on it; the only place that names shardings."""

from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

T = TypeVar("T")
Parameters = Literal["replicated", "sharded"]

VOLUME_AXES = 4
"""Arrays of a batch with at least this many axes are volumes, `[b, z, y, x, ...]`."""
LEAST_DIVIDED = 2**12
"""Parameters of fewer numbers are never divided: gathering them costs more than keeping them."""


def make_mesh(data: int | None = None, space: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """Makes a mesh with the axes "data" (the batch) and "space" (the depth of a volume).

    Neighbours along "space" are neighbours among the devices, so that a volume is shared within a process where it can
    be.

    Args:
        data: devices along "data"; as many as there are by default.
        space: devices along "space", which share every volume of the batch.
        devices: to choose from, the first ones first; those of all processes by default.

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
    """Every device holds the whole array: statistics, and parameters unless they are divided."""
    return NamedSharding(mesh, PartitionSpec())


def by_batch(mesh: Mesh) -> NamedSharding:
    """The first axis is divided over "data": what a batch says of its cases."""
    return NamedSharding(mesh, PartitionSpec("data"))


def by_volume(mesh: Mesh) -> NamedSharding:
    """The first axis is divided over "data" and the second, the depth, over "space": images and labels."""
    return NamedSharding(mesh, PartitionSpec("data", "space"))


def state_shardings(mesh: Mesh, state: T, parameters: Parameters = "replicated") -> T:
    """Says how every array of a training's state lies.

    Args:
        mesh: the devices.
        state: a tree of arrays or of their shapes.
        parameters: `"replicated"` gives every device all of them; `"sharded"` divides parameters and the optimiser's
            moments over "data", each along its longest axis that divides, but for small ones.

    Returns:
        The same tree with a sharding for each.
    """
    whole = replicated(mesh)
    if parameters == "replicated":
        return jax.tree.map(lambda x: whole, state)
    return jax.tree.map(lambda x: _divided(mesh, x.shape) if x.size >= LEAST_DIVIDED else whole, state)


def _divided(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    axes = [axis for axis, side in enumerate(shape) if side % mesh.shape["data"] == 0]
    if not axes:
        return replicated(mesh)
    longest = max(axes, key=lambda axis: shape[axis])
    return NamedSharding(mesh, PartitionSpec(*[None] * longest, "data"))


def batch_shardings(mesh: Mesh, batch: Any, *, whole_volumes: bool = False) -> Any:
    """Says how every array of a batch lies.

    Args:
        mesh: the devices.
        batch: a tree of arrays or of their shapes, `[b, z, y, x, ...]` for volumes.
        whole_volumes: does not divide the depth of volumes, which then need not be a multiple of "space".

    Returns:
        The same tree with a sharding for each: `by_volume` for volumes, else `by_batch`.
    """
    volume = by_batch(mesh) if whole_volumes else by_volume(mesh)
    return jax.tree.map(lambda x: volume if x.ndim >= VOLUME_AXES else by_batch(mesh), batch)


def local_rows(mesh: Mesh, batch_size: int) -> range:
    """Says which cases of a batch the devices of this process need, whole or a part of their depth.

    Args:
        mesh: the devices.
        batch_size: cases over all processes, a multiple of the devices along "data".

    Returns:
        The places of the cases in the batch; where these do not follow each other, those between them too.
    """
    indices = by_batch(mesh).addressable_devices_indices_map((batch_size,)).values()
    bounds = [index[0].indices(batch_size)[:2] for index in indices if index is not None]
    return range(min(start for start, _ in bounds), max(stop for _, stop in bounds))


def put_batch(mesh: Mesh, batch: T, batch_size: int | None = None, *, whole_volumes: bool = False) -> T:
    """Lays a batch on the devices of this process; the same call for one process or many.

    Args:
        mesh: the devices.
        batch: NumPy arrays `[n, ...]` of the cases that `local_rows` names, volumes with their whole depth.
        batch_size: cases over all processes; by default the batch holds them all.
        whole_volumes: see `batch_shardings`.

    Returns:
        Global arrays `[b, ...]`, divided as `batch_shardings` says.
    """

    def put(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
        size = len(array) if batch_size is None else batch_size
        first = 0 if batch_size is None else local_rows(mesh, size).start

        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None, "the devices of this process have a part"
            start, stop, _ = index[0].indices(size)
            return array[(slice(start - first, stop - first), *index[1:])]

        return jax.make_array_from_callback((size, *array.shape[1:]), sharding, part)

    return jax.tree.map(put, batch, batch_shardings(mesh, batch, whole_volumes=whole_volumes))


def on_one_device(tree: T) -> T:
    """Brings arrays that lie on a mesh whole to the first device of this process; all processes have to call it.

    Args:
        tree: arrays, divided or not.

    Returns:
        The same tree on one device. What lay there whole is not copied, and is given up with the original.
    """
    if any(not leaf.is_fully_replicated for leaf in jax.tree.leaves(tree)):
        shardings = jax.tree.map(lambda x: replicated(x.sharding.mesh), tree)
        tree = jax.jit(lambda arrays: arrays, out_shardings=shardings)(tree)
    return jax.tree.map(lambda x: x.addressable_data(0), tree)
