"""The one pass over the volume: per region and class, the sums that every overlap loss is made of."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ars_jax.losses.regions import Edges, region_edges, sum_over_regions


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OverlapStatistics:
    """Sufficient statistics of a prediction against its reference, per region and class.

    With p the probability of class c at a voxel and g its reference (1 or 0, or soft), summed over a region's
    counted voxels. All are float32 (float64 for float64 logits), `[b, *grid, c]` unless said.

    Attributes:
        intersection: I = sum p g, the true positives.
        predicted: P = sum p.
        reference: G = sum g.
        predicted_squared: P2 = sum p^2.
        intersection_squared: Q = sum p^2 g.
        voxels: N, the counted voxels, `[b, *grid, 1]`.
        log_loss: E = -sum of g log p over voxels and classes, `[b, *grid]`.
    """

    intersection: jax.Array
    predicted: jax.Array
    reference: jax.Array
    predicted_squared: jax.Array
    intersection_squared: jax.Array
    voxels: jax.Array
    log_loss: jax.Array

    @property
    def false_positives(self) -> jax.Array:
        """FP = sum p (1 - g) = P - I, `[b, *grid, c]`."""
        return _not_negative(self.predicted - self.intersection)

    @property
    def false_negatives(self) -> jax.Array:
        """FN = sum (1 - p) g = G - I, `[b, *grid, c]`."""
        return _not_negative(self.reference - self.intersection)

    def total(self) -> "OverlapStatistics":
        """Returns the statistics of the whole volume: the sums of the regional ones, `[b, c]`."""
        return jax.tree.map(lambda x: x.sum(tuple(range(1, self.log_loss.ndim))), self)


def overlap_statistics(
    logits: jax.Array,
    labels: jax.Array,
    *,
    grid: int | Sequence[int] | None = None,
    region_size: int | Sequence[int] | None = None,
    where: jax.Array | None = None,
    from_probabilities: bool = False,
) -> OverlapStatistics:
    """Sums a prediction against its reference over every region, in one pass (METHOD: symbols of Eqs. 1-11).

    Softmax, comparison with the label map and sums are fused; no one-hot volume is stored. The backward pass computes
    the softmax again, so that only logits and labels are kept for it.

    Args:
        logits: `[b, *space, c]` with two or three spatial axes, any float type.
        labels: integers in `[0, c)`, `[b, *space]`, or one-hot or soft labels, `[b, *space, c]`.
        grid: regions per axis, see `region_edges`; without it and `region_size` the volume is one region.
        region_size: largest region side in voxels, instead of `grid`.
        where: `[b, *space]`, false takes a voxel out of every sum.
        from_probabilities: `logits` holds probabilities instead; their logarithm is then clipped at the smallest
            normal number.

    Returns:
        Statistics per region and class, `[b, *grid, c]`.

    Raises:
        ValueError: shapes that do not fit together, or a division that does not fit the volume.
    """
    _check_shapes(logits, labels, where)
    edges = region_edges(logits.shape[1:-1], grid=grid, region_size=region_size)
    return _sum_slabs(edges, from_probabilities, logits, labels, where)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _sum_slabs(
    edges: tuple[Edges, ...], from_probabilities: bool, logits: jax.Array, labels: jax.Array, where: jax.Array | None
) -> OverlapStatistics:
    """Goes through the volume in slabs along its second spatial axis, so that every temporary is slab-sized.

    The first spatial axis stays whole, because that is the one a sharded volume is divided along.
    """
    axis = 2
    slabs = _slab_count(edges[axis - 1])
    inner = (edges[0], _slab_edges(edges[axis - 1], slabs), *edges[axis:])

    def split(x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:axis], slabs, x.shape[axis] // slabs, *x.shape[axis + 1 :])

    def merge(x: jax.Array) -> jax.Array:
        x = jnp.moveaxis(x, 0, axis)
        regions = len(edges[axis - 1]) - 1
        return x.reshape(*x.shape[:axis], regions, -1, *x.shape[axis + 2 :]).sum(axis + 1) if slabs > 1 else x[:, :, 0]

    arrays = jax.tree.map(split, (logits, labels, where))

    def one_slab(index: jax.Array) -> OverlapStatistics:
        slab = jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, index, axis, keepdims=False), arrays)
        return _sum_slab(inner, from_probabilities, *slab)

    return jax.tree.map(merge, jax.lax.map(one_slab, jnp.arange(slabs)))


def _slab_count(cuts: Edges) -> int:
    """Returns how many equal slabs to cut an axis into: whole fractions of its regions, about sixteen."""
    regions, side = len(cuts) - 1, cuts[-1]
    if side % regions:
        return 1
    width = side // regions
    return regions * max(n for n in range(1, width + 1) if width % n == 0 and (n == 1 or regions * n <= 16))


def _slab_edges(cuts: Edges, slabs: int) -> Edges:
    return cuts if slabs == 1 else (0, cuts[-1] // slabs)


@functools.partial(jax.checkpoint, static_argnums=(0, 1))
def _sum_slab(
    edges: tuple[Edges, ...], from_probabilities: bool, logits: jax.Array, labels: jax.Array, where: jax.Array | None
) -> OverlapStatistics:
    x = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    if from_probabilities:
        p, log_p = x, jnp.log(jnp.maximum(x, jnp.finfo(x.dtype).tiny))
    else:
        log_p = x - jax.nn.logsumexp(x, axis=-1, keepdims=True)
        p = jnp.exp(log_p)
    g = _one_hot(labels, x)
    counted = jnp.ones(x.shape[:-1], x.dtype)
    if where is not None:
        counted = jnp.where(where, counted, 0)
        p, g, log_p = (jnp.where(where[..., None], y, 0) for y in (p, g, log_p))

    def regional(y: jax.Array) -> jax.Array:
        return sum_over_regions(y, edges)

    return OverlapStatistics(
        intersection=regional(p * g),
        predicted=regional(p),
        reference=regional(g),
        predicted_squared=regional(p * p),
        intersection_squared=regional(p * p * g),
        voxels=regional(counted)[..., None],
        log_loss=-regional((g * log_p).sum(-1)),
    )


def _one_hot(labels: jax.Array, x: jax.Array) -> jax.Array:
    if labels.ndim == x.ndim:
        return labels.astype(x.dtype)
    classes = jnp.arange(x.shape[-1]).reshape((1,) * labels.ndim + (-1,))
    return (labels[..., None] == classes).astype(x.dtype)


def _not_negative(x: jax.Array) -> jax.Array:
    """Removes the rounding of a difference of sums below 0, keeping the slope 1 at 0."""
    return jnp.where(x >= 0, x, 0)


def _check_shapes(logits: jax.Array, labels: jax.Array, where: jax.Array | None) -> None:
    if logits.ndim not in (4, 5):
        raise ValueError(f"logits must be [b, z, y, x, c] or [b, y, x, c]; their shape is {logits.shape}")
    if labels.shape not in (logits.shape, logits.shape[:-1]):
        raise ValueError(
            f"labels of shape {labels.shape} do not fit logits of shape {logits.shape}: "
            f"give integers {logits.shape[:-1]}, or one-hot or soft labels {logits.shape}"
        )
    if labels.ndim < logits.ndim and not (labels.dtype == bool or jnp.issubdtype(labels.dtype, jnp.integer)):
        raise ValueError(f"labels of shape {labels.shape} must be integers; their type is {labels.dtype}")
    if where is not None and where.shape != logits.shape[:-1]:
        raise ValueError(f"where of shape {where.shape} must be {logits.shape[:-1]}, as logits without classes")
