"""Adaptive region-specific losses, a V-Net and its training for 3-D medical image segmentation, in JAX.

Start here:

- train with a loss: `help(ars_jax.losses.Objective)`, `help(ars_jax.losses.adaptive_region_specific)`
- compare with PyTorch: `help(ars_jax.gradients.crosscheck.crosscheck)`, `help(ars_jax.gradients.pytorch.loss)`
- look at regional gradients: `help(ars_jax.gradients.maps.region_maps)`
"""

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ars_jax import gradients as gradients
    from ars_jax import losses as losses
    from ars_jax import metrics as metrics
    from ars_jax import models as models

_PACKAGES = ("gradients", "losses", "metrics", "models")


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f"ars_jax.{name}")
    if name == "__version__":
        return metadata.version("ars_jax")
    raise AttributeError(f"ars_jax has no {name!r}; its names are {', '.join(__dir__())}")


def __dir__() -> list[str]:
    return [*_PACKAGES, "__version__"]
