"""Shapes and types of the arrays that the losses take: batch first, channels last."""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Bool, Float, Integer, Real

Array = jax.Array | np.ndarray
Logits = Float[Array, "b *space c"]
Labels = Integer[Array, "b *space"] | Bool[Array, "b *space"] | Real[Array, "b *space c"]
Mask = Bool[Array, "b *space"] | Integer[Array, "b *space"]
ClassWeights = Sequence[float] | Float[Array, " c"]
Scalar = Float[jax.Array, ""]
Loss = Float[jax.Array, "*shape"]
"""A scalar, or with `reduction="none"` the values `[b, *regions, c]`."""
