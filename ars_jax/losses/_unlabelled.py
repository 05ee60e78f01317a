"""Classes that nobody drew in a case."""

import jax
import jax.numpy as jnp

from ars_jax.losses._types import Array, Logits


def merge_unlabelled(logits: Logits, labelled: Array) -> jax.Array:
    """Merges classes that nobody drew in a case into its background, so that no loss counts them.

    The probability of the background becomes the sum of its own and that of the undrawn classes, whose own becomes 0: a
    voxel of an undrawn organ, marked as background in the label map, is then no error. Computed in float32 or wider.

    Args:
        logits: `[b, *space, c]`, class 0 is background.
        labelled: `[b, c]`, false for a class that was not drawn in the case.

    Returns:
        `[b, *space, c]`, float32 or wider, for any loss; the logits themselves where all classes are drawn.

    Examples:
        >>> import numpy as np
        >>> from ars_jax import losses
        >>> merged = losses.merge_unlabelled(np.zeros((1, 1, 1, 1, 3), np.float32), np.array([[True, True, False]]))
        >>> print(np.exp(merged[0, 0, 0, 0]).round(4))  # 2/3, 1/3 and 0, not normalised
        [2. 1. 0.]
    """
    x = jnp.asarray(logits).astype(jnp.promote_types(logits.dtype, jnp.float32))
    drawn = labelled.reshape(labelled.shape[0], *(1,) * (x.ndim - 2), labelled.shape[1])
    classes = jnp.arange(x.shape[-1]).reshape(*(1,) * (x.ndim - 1), -1)
    merged = jnp.where(drawn & (classes > 0), -jnp.inf, x)
    background = jax.nn.logsumexp(merged, axis=-1, keepdims=True)
    kept = jnp.where(drawn, x, jnp.finfo(x.dtype).min / 2)
    return jnp.where(classes == 0, background, kept)
