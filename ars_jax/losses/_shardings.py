"""Meshes of Explicit axes: what arrays say about them, and functions that leave shardings to the compiler."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AxisType, PartitionSpec


def explicit_shards(x: jax.Array, axis: int) -> int | None:
    """Returns over how many devices an axis is divided, or None without a mesh of Explicit axes."""
    sharding = jax.typeof(x).sharding
    if AxisType.Explicit not in sharding.mesh.axis_types:
        return None
    names = sharding.spec[axis] or ()
    return math.prod(sharding.mesh.shape[name] for name in ((names,) if isinstance(names, str) else names))


def on_auto_axes(function: Callable[..., Any], x: jax.Array) -> Callable[..., Any]:
    """Lets the compiler propagate shardings within a function, where `x` is on a mesh of Explicit axes.

    Args:
        function: of arrays on the mesh of `x`; the first axis of its results is divided as that of `x`.
        x: an array on the mesh.

    Returns:
        The function; itself where there is no such mesh.
    """
    sharding = jax.typeof(x).sharding
    if AxisType.Explicit not in sharding.mesh.axis_types:
        return function

    kinds = zip(sharding.mesh.axis_names, sharding.mesh.axis_types, strict=True)
    axes = tuple(name for name, kind in kinds if kind == AxisType.Explicit)
    auto = jax.sharding.auto_axes(function, axes=axes, out_sharding=PartitionSpec(sharding.spec[0]))

    def run(*arguments: Any) -> Any:
        if not jax.sharding.get_abstract_mesh().empty:
            return auto(*arguments)
        with jax.sharding.use_abstract_mesh(sharding.mesh):
            return auto(*arguments)

    return run
