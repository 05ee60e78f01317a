"""Segmentation losses: one pass over the volume, then arithmetic on regional sums.

Arrays are batch first and channels last: logits `[b, z, y, x, c]`, labels `[b, z, y, x]`; two spatial axes with
`spatial_dims=2`. JAX is imported with the first function, so that a configuration can hold an `Objective`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ars_jax.losses._checks import suggest
from ars_jax.losses._objective import Objective as Objective
from ars_jax.losses._objective import RegionSize as RegionSize

if TYPE_CHECKING:
    from ars_jax.losses._public import *  # noqa: F403


def __getattr__(name: str) -> Any:
    public = vars(import_module("ars_jax.losses._public"))
    if name[0] != "_" and name in public:
        return public[name]
    meant = suggest(name, __dir__())
    raise AttributeError(f"ars_jax.losses has no {name!r}" + (f"; did you mean {meant!r}?" if meant else ""))


def __dir__() -> list[str]:
    return sorted(name for name in vars(import_module("ars_jax.losses._public")) if name[0] != "_")
