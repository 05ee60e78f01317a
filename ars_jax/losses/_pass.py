"""The sums of the one pass over the volume, in slabs that suit the platform.

Confident predictions have probabilities that float32 rounds to 1, so that 1 - p keeps no digit. Where a class has
more than three quarters of a voxel's probability, its 1 - p and log p come from the sum of the others, and the
derivative of its probability is minus the sum of theirs: every result keeps the digits of the small numbers.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ars_jax.losses._regions import Bounds, RegionMap, equal_side, sum_groups, sum_over_regions
from ars_jax.losses._shardings import explicit_shards, on_auto_axes

SLAB_ELEMENTS = {"cpu": 2**19, "tpu": 2**23}
"""Logits of a slab, on a TPU of each sample. A CPU then has a slab's temporaries in its cache, and a TPU needs little
memory for them. On other platforms the volume is one slab: each further one costs a GPU 20 launches."""

SURE = 0.75
"""The probability above which 1 - p is the sum of the other classes' probabilities."""


class Sums(NamedTuple):
    """The fields of `OverlapStatistics`, in its order."""

    false_positives: jax.Array
    false_negatives: jax.Array
    reference: jax.Array
    squared_false_positives: jax.Array
    squared_false_negatives: jax.Array
    log_loss: jax.Array
    voxels: jax.Array


class Volume(NamedTuple):
    """The arrays of the pass, all of them or a slab of each."""

    logits: jax.Array
    labels: jax.Array
    where: jax.Array | None
    region_map: RegionMap | None


class OverClasses(NamedTuple):
    """What the softmax needs of all classes of a voxel, each `[b, *space, 1]`, the classes where the plan has them.

    Attributes:
        largest: m, the largest logit (its class is the last axis).
        total: sum exp(x - m).
        others: the same without the largest.
        own: x - m of the voxel's class by its label, or None where the plan does without.
    """

    largest: jax.Array
    total: jax.Array
    others: jax.Array
    own: jax.Array | None


@partial(jax.jit, static_argnums=(0, 1), static_argnames="depth_shards")
def sum_slabs(
    bounds: tuple[Bounds, ...],
    from_probabilities: bool,
    logits: jax.Array,
    labels: jax.Array,
    where: jax.Array | None,
    region_map: RegionMap | None,
    *,
    depth_shards: int = 1,
) -> Sums:
    """Goes through the volume in slabs, so that every temporary is slab-sized, and keeps only the arrays themselves.

    The platform that the program is lowered for decides the slabs: along the second spatial axis on a CPU, along the
    first one on a TPU, none on a GPU. A TPU's slabs are along the second axis too where the first one is divided over
    devices, and all sums along a divided axis wait for the end, so that devices add theirs up once. Arrays on a mesh
    of Explicit axes say how they are divided; for other meshes `depth_shards` must.

    Args:
        bounds: the regions of each spatial axis; they may overlap. Not used with a region map.
        from_probabilities: `logits` holds probabilities.
        logits: `[b, *space, c]`.
        labels: integers `[b, *space]`, or `[b, *space, c]`.
        where: `[b, *space]` or None.
        region_map: ids `[b, *space]` or None.
        depth_shards: over how many devices the first spatial axis is divided.

    Returns:
        Sums per region and class, `[b, *grid, c]`.
    """
    depth_shards = max(explicit_shards(logits, 1) or 1, depth_shards)

    # The outer checkpoint keeps one copy of the arrays, whatever the platforms' branches would keep.
    @partial(jax.checkpoint, prevent_cse=False)
    def run(volume: Volume) -> Sums:
        branch = partial(_sum_volume, bounds, from_probabilities, depth_shards)
        slabs = {platform: partial(branch, platform) for platform in SLAB_ELEMENTS}
        return jax.lax.platform_dependent(volume, default=partial(branch, "other"), **slabs)

    return on_auto_axes(run, logits)(Volume(logits, labels, where, region_map))


class Plan(NamedTuple):
    """How the volume is summed: what was asked for, and what suits the platform.

    Attributes:
        from_probabilities: the logits are probabilities.
        depth_shards: over how many devices the first spatial axis is divided.
        axis: the one that slabs are cut along.
        limit: the width that a slab should have.
        classes_first: the classes are moved before the voxels. Vectors over voxels suit a CPU, and sums over classes
            are then matrix products; sums over regions that are not alike are slower so.
        by_label: the sums of a voxel's own class are made of numbers per voxel, so that a GPU reads fewer logits.
    """

    from_probabilities: bool
    depth_shards: int
    axis: int
    limit: int
    classes_first: bool
    by_label: bool


def _sum_volume(
    bounds: tuple[Bounds, ...], from_probabilities: bool, depth_shards: int, platform: str, volume: Volume
) -> Sums:
    mapped = volume.region_map is not None
    axis = 1 if platform == "tpu" and depth_shards == 1 else 2
    limit = side = volume.logits.shape[axis]
    batch, *sample = volume.logits.shape
    if platform in SLAB_ELEMENTS:
        limit = SLAB_ELEMENTS[platform] * depth_shards * side // math.prod(sample)
    if platform == "cpu" and isinstance(batch, int):  # it has the slabs of all samples in one cache
        limit //= max(batch, 1)
    plan = Plan(
        from_probabilities,
        depth_shards,
        axis,
        limit=max(1, min(limit, side)),
        classes_first=platform == "cpu" and not mapped and all(equal_side(axis) for axis in bounds),
        by_label=platform not in SLAB_ELEMENTS and volume.labels.ndim < volume.logits.ndim,
    )
    if plan.by_label:
        volume = volume._replace(labels=_as_bytes(volume.labels, volume.logits.shape[-1]))
    return _sum_map(plan, volume) if mapped else _sum_grid(plan, bounds, volume)


def _as_bytes(labels: jax.Array, classes: int) -> jax.Array:
    """Narrows labels to bytes, which a GPU compares anew in every kernel where it would store those of wider ones."""
    if labels.dtype.itemsize == 1 or classes >= 255:
        return labels
    inside = (labels >= 0) & (labels < classes)
    return _apart(jnp.where(inside, labels, 255).astype(jnp.uint8))


def _sum_grid(plan: Plan, bounds: tuple[Bounds, ...], volume: Volume) -> Sums:
    axis, side, depth = plan.axis, volume.logits.shape[plan.axis], volume.logits.shape[1]
    width, rows = _slab(bounds[axis - 1], side, plan.limit)
    inner, outer = list(bounds), [_units(len(regions), 1) for regions in bounds]
    if width < side:
        outer[axis - 1] = _coarser(bounds[axis - 1], rows)
    if plan.depth_shards > 1:
        unit = math.gcd(depth // plan.depth_shards, *(cut for region in bounds[0] for cut in region))
        inner[0], outer[0] = _units(depth, unit), _coarser(bounds[0], unit)

    def sum_slab(size: int, start: jax.Array | int) -> Sums:
        units = [*inner[: axis - 1], _units(size, rows) if size < side else inner[axis - 1], *inner[axis:]]
        sum_regions = _sum_classes_first if plan.classes_first else sum_over_regions
        return _sum_slab(plan, lambda x, _: sum_regions(x, units), size, start, volume)

    slabs, rest = divmod(side, width)
    if width == side:
        # A GPU then sums all fields over the same regions at once, also those that are wanted of the whole volume.
        sums = jax.tree.map(_apart, sum_slab(side, 0))
    else:
        # The second slab of a turn gives a CPU's other cores work while one waits: 269 ms beside 291.
        turn = 2 if plan.classes_first else 1
        starts = jnp.arange(slabs) * width  # computed inside, they would be stored by a loop of their own
        _, sums = jax.lax.scan(lambda _, start: (None, sum_slab(width, start)), None, starts, unroll=turn)
        sums = jax.tree.map(lambda x: _join(x, axis), sums)
    if rest:
        sums = jax.tree.map(lambda x, y: jnp.concatenate([x, y], axis), sums, sum_slab(rest, slabs * width))
    if plan.depth_shards > 1:
        return _together(lambda x: sum_over_regions(x, outer), sums)
    return sums if width == side else jax.tree.map(lambda x: sum_over_regions(x, outer), sums)


def _sum_map(plan: Plan, volume: Volume) -> Sums:
    side, width = volume.logits.shape[plan.axis], plan.limit

    def regional(x: jax.Array, slab: Volume) -> jax.Array:
        assert slab.region_map is not None
        return sum_groups(x, slab.region_map, math.gcd(plan.depth_shards, x.shape[1]))

    def add(sums: Sums, start: jax.Array) -> tuple[Sums, None]:
        return jax.tree.map(jnp.add, sums, _sum_slab(plan, regional, width, start, volume)), None

    # The last slab's sums begin the loop's: zeros would not vary over the devices of a shard_map.
    slabs = -(-side // width) - 1
    sums = _sum_slab(plan, regional, side - slabs * width, slabs * width, volume)
    if slabs:
        sums = jax.lax.scan(add, sums, jnp.arange(slabs) * width)[0]
    return _together(lambda x: x.sum(1), sums)


def _sum_slab(
    plan: Plan, regional: Callable[[jax.Array, Volume], jax.Array], size: int, start: jax.Array | int, volume: Volume
) -> Sums:
    """Sums a slab, of which nothing is kept for the derivative.

    Where the whole volume is one slab, the sums over classes are kept, which are small beside the logits. A slab is
    cut out inside the checkpointed function: what is kept is then the volume itself, not its slabs.
    """
    whole = size == volume.logits.shape[plan.axis]

    @partial(jax.checkpoint, prevent_cse=whole)  # a loop's body needs no barriers
    def one_slab(volume: Volume, over_classes: OverClasses | None) -> Sums:
        slab = volume
        if not whole:
            slab = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, size, plan.axis), volume)
        return _sum_voxels(plan, lambda x: regional(x, slab), slab, over_classes)

    keep = whole and not plan.from_probabilities
    return one_slab(volume, jax.lax.stop_gradient(_over_classes(plan, *_arrays(plan, volume))) if keep else None)


def _sum_voxels(
    plan: Plan, regional: Callable[[jax.Array], jax.Array], volume: Volume, over_classes: OverClasses | None
) -> Sums:
    x, g = _arrays(plan, volume)
    axis = 1 if plan.classes_first else x.ndim - 1
    hard = g.dtype == bool
    if plan.from_probabilities:
        p = jnp.moveaxis(x, -1, axis)
        q, log_p = 1 - p, jnp.log(jnp.maximum(p, jnp.finfo(p.dtype).tiny))
    else:
        over_classes = over_classes or jax.lax.stop_gradient(_over_classes(plan, x, g))
        if over_classes.own is None:
            p, q, log_p, _ = _softmax(x, over_classes, axis)
        else:
            p, _, q, log_p, _ = _softmax_of_labels(x, g, over_classes)
    counted = jnp.ones_like(p, shape=(*p.shape[:axis], 1, *p.shape[axis + 1 :]))
    if volume.where is not None:
        counted = jnp.expand_dims(volume.where.astype(bool), axis)
        p = jnp.where(counted, p, 0)
    if hard:
        fp, fn, loss = jnp.where(g, 0, p), jnp.where(g, q, 0), jnp.where(g, log_p, 0)
        squared_fp, squared_fn = fp * fp, fn * fn
    else:
        fp, fn, loss = p * (1 - g), q * g, g * jnp.where(g > 0, log_p, 0)
        squared_fp, squared_fn = p * fp, q * fn
    return Sums(
        false_positives=regional(fp),
        false_negatives=regional(fn),
        reference=regional(g.astype(p.dtype)),
        squared_false_positives=regional(squared_fp),
        squared_false_negatives=regional(squared_fn),
        log_loss=-regional(loss),
        voxels=regional(counted.astype(p.dtype)),
    )


def _arrays(plan: Plan, volume: Volume) -> tuple[jax.Array, jax.Array]:
    """Returns logits `[b, *space, c]`, and the reference with its classes where the plan has them."""
    x, labels, where, _ = volume
    x = x.astype(jnp.float64 if x.dtype == jnp.float64 else jnp.float32)
    axis = 1 if plan.classes_first else x.ndim - 1
    hard = labels.ndim < x.ndim
    g = _is_class(labels, x, axis) if hard else jnp.moveaxis(labels.astype(x.dtype), -1, axis)
    if where is not None:
        x = jnp.where(where[..., None].astype(bool), x, 0)
        mask = jnp.expand_dims(where.astype(bool), axis)
        g = g & mask if hard else jnp.where(mask, g, 0)
    return x, g


def _over_classes(plan: Plan, x: jax.Array, g: jax.Array) -> OverClasses:
    axis = 1 if plan.classes_first else x.ndim - 1
    largest = _apart(jnp.max(x, -1, keepdims=True))
    shifted = jnp.moveaxis(x - largest, -1, axis)
    e = jnp.exp(shifted)
    total, others = _sum_classes(e, axis), _sum_classes(jnp.where(e < 1, e, 0), axis)
    own = _sum_classes(jnp.where(g, shifted, 0), axis) if plan.by_label else None
    return OverClasses(largest, total, others, own)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _softmax(x: jax.Array, over_classes: OverClasses, axis: int) -> tuple[jax.Array, ...]:
    """Returns p, 1 - p, log p and the sum of p without a sure class; classes move from the last axis to `axis`."""
    p, rest, log_scale = _shares(x, over_classes, axis)
    log_p = jnp.moveaxis(x - over_classes.largest, -1, axis) + log_scale
    return p, jnp.where(p > SURE, rest, 1 - p), log_p, rest


@_softmax.defjvp
def _softmax_jvp(axis: int, primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    p, _, _, rest = out = _softmax(*primals, axis)
    t, mean = _beside_sure(p, rest, tangents[0], axis)
    by_log = t - _spread(mean, p.shape[axis], axis)
    return out, (p * by_log, -p * by_log, by_log, mean * (1 - rest))


@jax.custom_jvp
def _softmax_of_labels(x: jax.Array, g: jax.Array, over_classes: OverClasses) -> tuple[jax.Array, ...]:
    """Returns p; p, 1 - p and log p of each voxel's own class; and the sum of p without a sure class."""
    p, rest, log_scale = _shares(x, over_classes, x.ndim - 1)
    assert over_classes.own is not None
    own = over_classes.own + log_scale
    own_p = jnp.exp(own)
    return p, own_p, jnp.where(own_p > SURE, rest, 1 - own_p), own, rest


@_softmax_of_labels.defjvp
def _softmax_of_labels_jvp(primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    axis = primals[0].ndim - 1
    p, own_p, _, _, rest = out = _softmax_of_labels(*primals)
    t, mean = _beside_sure(p, rest, tangents[0], axis)
    own = _sum_classes(jnp.where(primals[1], t, 0), axis) - mean
    return out, (p * (t - mean), own_p * own, -own_p * own, own, mean * (1 - rest))


def _shares(x: jax.Array, over_classes: OverClasses, axis: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns p, the sum of p without a sure class, and log p - (x - m), each with all its digits."""
    largest, total, others, _ = over_classes
    scale = 1 / total
    e = jnp.exp(jnp.moveaxis(x - largest, -1, axis))
    log_scale = -jnp.log1p(jnp.where(scale > SURE, others, total - 1))
    return e * _spread(scale, e.shape[axis], axis), others * scale, log_scale


def _beside_sure(p: jax.Array, rest: jax.Array, t: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """Returns the logits' tangents beside that of a sure class, and their mean: log p changes by the difference."""
    sure = p > SURE
    t = jnp.moveaxis(t, -1, axis)
    of_sure = _sum_classes(jnp.where(sure, t, 0), axis)
    mean = _sum_classes(jnp.where(sure, 0, p) * t, axis) - rest * of_sure
    return jnp.where(sure, 0, t - _spread(of_sure, p.shape[axis], axis)), mean


def _sum_classes(x: jax.Array, axis: int) -> jax.Array:
    """Sums over classes; as a matrix product where they are not the last axis."""
    if axis == x.ndim - 1:
        return _apart(x.sum(-1, keepdims=True))
    flat = x.reshape(*x.shape[:2], -1)
    ones = jnp.ones((x.shape[0], 1, x.shape[1]), x.dtype)
    return jax.lax.batch_matmul(ones, flat, precision="highest").reshape(x.shape[0], 1, *x.shape[2:])


def _apart(x: jax.Array) -> jax.Array:
    """Keeps XLA's rewriting of softmax and of sums of sums away: they would store volumes, or read them twice."""
    return jax.lax.optimization_barrier(x)


def _spread(x: jax.Array, classes: int, axis: int) -> jax.Array:
    """Repeats x for each class; as a matrix product, so that its transpose is one too, as `_sum_classes`."""
    if axis == x.ndim - 1:
        return x
    ones = jnp.ones((x.shape[0], classes, 1), x.dtype)
    flat = x.reshape(*x.shape[:2], -1)
    return jax.lax.batch_matmul(ones, flat, precision="highest").reshape(x.shape[0], classes, *x.shape[2:])


def _is_class(labels: jax.Array, x: jax.Array, axis: int) -> jax.Array:
    """Compares labels with the classes of `x`, along `axis`."""
    labels = jnp.expand_dims(labels if labels.dtype.itemsize >= 4 else labels.astype(jnp.int32), axis)
    shape = (*labels.shape[:axis], x.shape[-1], *labels.shape[axis + 1 :])
    return labels == jax.lax.broadcasted_iota(labels.dtype, shape, axis)


def _sum_classes_first(x: jax.Array, bounds: Sequence[Bounds]) -> jax.Array:
    """Sums `[b, c, *space]` over regions, to `[b, *grid, c]`."""
    sums = sum_over_regions(x.reshape(-1, *x.shape[2:]), bounds)
    return jnp.moveaxis(sums.reshape(*x.shape[:2], *sums.shape[1:]), 1, -1)


def _join(x: jax.Array, axis: int) -> jax.Array:
    """Puts slabs `[slabs, b, ...]` behind each other along an axis of the volume."""
    x = jnp.moveaxis(x, 0, axis)
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def _together(function: Callable[[jax.Array], jax.Array], sums: Sums) -> Sums:
    """Applies a function to all sums as one array, so that devices exchange them once."""
    ends = np.cumsum([x.shape[-1] for x in sums])[:-1]
    return Sums(*jnp.split(function(jnp.concatenate(sums, -1)), ends, -1))


def _slab(bounds: Bounds, side: int, limit: int) -> tuple[int, int]:
    """Returns the width of the slabs of an axis, and the rows that are summed together within a slab.

    The last slab may be narrower. Where all regions are alike, slabs are multiples of a region within the limit, or
    even parts of one of half to twice the limit; elsewhere rows are summed into their regions after the pass.
    """
    region = equal_side(bounds)
    if limit >= side or region is None:
        return min(limit, side), 1
    if limit >= region:
        return limit - limit % region, region
    parts = [part for part in range(1, region + 1) if region % part == 0 and limit <= 2 * part <= 4 * limit]
    part = max(parts, default=0)
    return (part, part) if part else (limit, 1)


def _units(side: int, unit: int) -> Bounds:
    return tuple((start, start + unit) for start in range(0, side, unit))


def _coarser(bounds: Bounds, unit: int) -> Bounds:
    return tuple((start // unit, stop // unit) for start, stop in bounds)
