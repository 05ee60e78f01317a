"""What happens inside the regions of a loss: errors, penalties, slopes; gradients per voxel, and curvature."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ars_jax.gradients.closed_form import effective_weights
from ars_jax.losses.compose import grid_or_paper
from ars_jax.losses.overlap import AdaptiveGradient, adaptive_tversky_loss, adaptive_weights
from ars_jax.losses.regions import RegionMap, region_bounds
from ars_jax.losses.statistics import overlap_statistics

Objective = Callable[..., jax.Array]
"""From logits `[b, *space, c]`, labels `[b, *space]` and, where said, further arrays to a scalar."""


@dataclasses.dataclass(frozen=True)
class RegionMaps:
    """The adaptive region-specific loss taken apart, all `[b, *grid, c]`; the regions of a `RegionMap` are one axis.

    Attributes:
        false_positives: FP, soft, in voxels.
        false_negatives: FN, soft, in voxels.
        alpha: penalty on false positives (Eq. 7), within [a, a + b].
        beta: penalty on false negatives (Eq. 8).
        fp_slope: what a further voxel of FP adds to the loss's denominator, the penalty that the gradient feels:
            alpha itself where the penalties are not differentiated; where they are, negative values reward false
            positives.
        fn_slope: the same of FN.
        loss: of the region and class (Eq. 6), within [0, 1].
        present: whether the class has reference voxels in the region; the paper's loss skips the others.
        others: voxels of the region that are not the class's, of which alone false positives can be made.
    """

    false_positives: np.ndarray
    false_negatives: np.ndarray
    alpha: np.ndarray
    beta: np.ndarray
    fp_slope: np.ndarray
    fn_slope: np.ndarray
    loss: np.ndarray
    present: np.ndarray
    others: np.ndarray

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the maps by name, as `numpy.savez` takes them."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


def region_maps(
    logits: jax.Array | np.ndarray,
    labels: jax.Array | np.ndarray,
    *,
    grid: int | Sequence[int] | None = None,
    region_size: int | Sequence[int] | None = None,
    region_map: RegionMap | None = None,
    a: float = 0.3,
    b: float = 0.4,
    exponent: float = 1.0,
    adaptive_gradient: AdaptiveGradient = "through",
    eps: float = 1e-7,
    where: jax.Array | np.ndarray | None = None,
) -> RegionMaps:
    """Takes the adaptive region-specific loss apart, by region and class (Eqs. 6-8).

    Args:
        logits: `[b, *space, c]`, two or three spatial axes.
        labels: `[b, *space]` integers, or `[b, *space, c]` one-hot or soft.
        grid: regions per axis, one number or one per axis; the paper's 16 when no division is given.
        region_size: largest region side in voxels, instead of `grid`.
        region_map: regions of any shape, instead of `grid`.
        a: the smallest penalty.
        b: the range of the penalty.
        exponent: of the error fraction in the penalties.
        adaptive_gradient: whether the slopes are those of differentiated penalties (`"through"`) or not (`"stop"`).
        eps: smoothing, in voxels, above 0.
        where: `[b, *space]`, false takes a voxel out of every sum.

    Returns:
        The maps, float32 for float32 logits, but slopes in float64.

    Raises:
        ValueError: shapes, words or a division that do not fit.
    """
    s = overlap_statistics(
        jnp.asarray(logits),
        jnp.asarray(labels),
        grid=grid_or_paper(grid, region_size, region_map),
        region_size=region_size,
        region_map=region_map,
        where=None if where is None else jnp.asarray(where),
    )
    alpha, beta = adaptive_weights(s, a=a, b=b, exponent=exponent, eps=eps)
    loss = adaptive_tversky_loss(s, a=a, b=b, exponent=exponent, adaptive_gradient=adaptive_gradient, eps=eps)
    fp, fn = np.asarray(s.false_positives), np.asarray(s.false_negatives)
    how = {"a": a, "b": b, "exponent": exponent, "eps": eps}
    fp_slope, fn_slope = effective_weights(fp, fn, adaptive_gradient=adaptive_gradient, **how)
    return RegionMaps(
        false_positives=fp,
        false_negatives=fn,
        alpha=np.asarray(alpha),
        beta=np.asarray(beta),
        fp_slope=fp_slope,
        fn_slope=fn_slope,
        loss=np.asarray(loss),
        present=np.asarray(s.reference > 0),
        others=np.broadcast_to(np.asarray(s.voxels - s.reference), fp.shape),
    )


def trained_grid(space: Sequence[int], canvas: Sequence[int], grid: int | Sequence[int]) -> tuple[int, ...]:
    """Divides a volume into regions of the size that training saw on a smaller canvas.

    Args:
        space: voxels per axis of the volume.
        canvas: voxels per axis of a training sample.
        grid: regions per axis of the canvas, one number or one per axis.

    Returns:
        Regions per axis of the volume: those of the canvas, or, along axes that are longer than it, as many as bring
        the regions' sides nearest to those of the canvas.

    Raises:
        ValueError: a wrong count of numbers, or more regions than voxels along an axis of the canvas.
    """
    counts = [len(bounds) for bounds in region_bounds(canvas, grid=grid)]
    return tuple(
        max(count, round(side * count / trained)) for side, trained, count in zip(space, canvas, counts, strict=True)
    )


def voxels_of_regions(values: np.ndarray, space: Sequence[int]) -> np.ndarray:
    """Gives every voxel the value of its region.

    Args:
        values: `[*grid, ...]` of one sample, from `region_maps` or `overlap_statistics` with a grid or region size.
        space: voxels per axis of the volume that was divided.

    Returns:
        `[*space, ...]`.

    Raises:
        ValueError: more regions than voxels along an axis.
    """
    voxels = np.asarray(values)
    for axis, bounds in enumerate(region_bounds(space, grid=voxels.shape[: len(space)])):
        voxels = np.repeat(voxels, [stop - start for start, stop in bounds], axis)
    return voxels


def gradient_maps(
    objectives: Mapping[str, Objective], logits: jax.Array | np.ndarray, labels: jax.Array | np.ndarray, *further: Any
) -> dict[str, jax.Array]:
    """Differentiates objectives by the same logits.

    Args:
        objectives: name to scalar function of logits, labels and `further`; compiled here.
        logits: `[b, *space, c]`.
        labels: `[b, *space]` integers, or `[b, *space, c]`.
        *further: what all objectives take besides, such as `where`.

    Returns:
        Name to gradient `[b, *space, c]`: the objective's change per unit of each logit.
    """
    arrays = jnp.asarray(logits), jnp.asarray(labels)
    return {name: jax.jit(jax.grad(objective))(*arrays, *further) for name, objective in objectives.items()}


def gradient_norm(gradient: jax.Array | np.ndarray) -> np.ndarray:
    """Returns the length of every voxel's gradient over its classes, `[b, *space, c]` to `[b, *space]`."""
    return np.sqrt(np.square(np.asarray(gradient)).sum(-1))


def hessian_vector_product(
    objective: Objective,
    logits: jax.Array | np.ndarray,
    labels: jax.Array | np.ndarray,
    vector: jax.Array | np.ndarray,
) -> jax.Array:
    """Multiplies the Hessian by the logits with a vector, by forward over reverse differentiation.

    It costs a few gradients and never holds the Hessian. Of a loss with stopped penalties it is the Hessian of the
    loss with its present penalties held still, which is symmetric, and not the Jacobian of the gradient that training
    follows, whose penalties move.

    Args:
        objective: scalar function of logits and labels.
        logits: `[b, *space, c]`.
        labels: `[b, *space]` integers, or `[b, *space, c]`.
        vector: `[b, *space, c]`.

    Returns:
        `[b, *space, c]`.
    """
    labels = jnp.asarray(labels)
    gradient = jax.grad(lambda x: objective(x, labels))
    return jax.jvp(gradient, (jnp.asarray(logits),), (jnp.asarray(vector),))[1]


@dataclasses.dataclass(frozen=True)
class PhaseDiagram:
    """Effective weights over the plane of errors.

    Attributes:
        false_positives: FP, `[points]`, rising.
        false_negatives: FN, `[points]`, rising.
        fp_slope: the effective weight of FP, `[points (FN), points (FP)]`.
        fn_slope: that of FN.
        critical: the share s = FN / (FP + FN) above which the weight of FP is negative, and the share of FP above
            which that of FN is; None where no share is.
    """

    false_positives: np.ndarray
    false_negatives: np.ndarray
    fp_slope: np.ndarray
    fn_slope: np.ndarray
    critical: float | None


def phase_diagram(
    *,
    a: float = 0.3,
    b: float = 0.4,
    exponent: float = 1.0,
    adaptive_gradient: AdaptiveGradient = "through",
    extent: tuple[float, float] = (1e-2, 1e3),
    points: int = 201,
) -> PhaseDiagram:
    """Computes the effective weights of the adaptive Tversky loss wherever a region may stand.

    The weights depend on the ratio of the two errors alone, so that on logarithmic axes their contours are parallel.

    Args:
        a: the smallest penalty.
        b: the range of the penalty.
        exponent: of the error fraction in the penalties.
        adaptive_gradient: whether the penalties are differentiated.
        extent: smallest and largest error, in voxels, above 0.
        points: per axis, evenly spaced in the logarithm.

    Returns:
        The diagram, without smoothing (eps = 0).

    Raises:
        ValueError: another word for `adaptive_gradient`.
    """
    errors = np.geomspace(*extent, points)
    how = {"a": a, "b": b, "exponent": exponent}
    fp_slope, fn_slope = effective_weights(errors, errors[:, None], adaptive_gradient=adaptive_gradient, **how)
    through = adaptive_gradient == "through"
    return PhaseDiagram(errors, errors, fp_slope, fn_slope, critical_share(**how) if through else None)


def critical_share(*, a: float = 0.3, b: float = 0.4, exponent: float = 1.0) -> float | None:
    """Finds the share s = FN / (FP + FN) above which differentiated penalties reward false positives.

    For an exponent of 1 it is `sqrt((1 + a / b) / 2)`, if that is below 1; for others it is found to 1e-5.

    Args:
        a: the smallest penalty.
        b: the range of the penalty.
        exponent: of the error fraction in the penalties.

    Returns:
        A share below 1, or None where no share gives a negative weight, as where `b exponent <= a`.
    """
    if exponent == 1:
        return math.sqrt((1 + a / b) / 2) if b > a else None
    share = np.linspace(0.5, 1, 50_001)[:-1]
    slope, _ = effective_weights(1 - share, share, a=a, b=b, exponent=exponent, adaptive_gradient="through")
    below = np.flatnonzero(slope < 0)
    return float(share[below[0]]) if below.size else None
