"""Segmentation losses: one pass over the volume, then arithmetic on regional sums.

Arrays are batch first and channels last: logits `[b, z, y, x, c]`, labels `[b, z, y, x]`; two spatial axes with
`spatial_dims=2`. JAX is imported with the first function, so that a configuration can hold an `Objective`.
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING

from ars_jax.losses._objective import Objective as Objective
from ars_jax.losses._objective import RegionSize as RegionSize

if _TYPE_CHECKING:
    from ars_jax.losses._public import *  # noqa: F403


def __getattr__(name: str) -> object:
    if name[0] != "_" or name == "__all__":
        from importlib import import_module

        public = import_module("ars_jax.losses._public")
        if name == "__all__":
            return sorted(each for each in vars(public) if each[0] != "_")
        if name in vars(public):
            return vars(public)[name]
    raise AttributeError(f"module 'ars_jax.losses' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__getattr__("__all__"))  # type: ignore[arg-type]
