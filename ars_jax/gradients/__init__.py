"""Research tools on the losses.

- `gradients.crosscheck.crosscheck`: values and gradients against closed forms, finite differences and PyTorch.
- `gradients.pytorch.loss`: the losses as functions of tensors, for a trainer in PyTorch.
- `gradients.maps.region_maps`: errors, penalties and effective weights by region and class.
- `gradients.closed_form.value_and_gradient`: the losses and gradients as written-out formulas in NumPy.
"""

from importlib import import_module as _import_module
from typing import Any as _Any

_MODULES = ("closed_form", "crosscheck", "maps", "pytorch")


def __getattr__(name: str) -> _Any:
    if name in _MODULES:
        return _import_module(f"ars_jax.gradients.{name}")
    raise AttributeError(f"module 'ars_jax.gradients' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(_MODULES)
