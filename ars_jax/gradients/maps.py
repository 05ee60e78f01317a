"""What happens inside the regions of a loss: errors, penalties, slopes; gradients per voxel, and curvature."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ars_jax.gradients.closed_form import effective_weights
from ars_jax.losses._checks import names_arguments
from ars_jax.losses._documented import documented
from ars_jax.losses._equations import adaptive_tversky_loss, adaptive_weights
from ars_jax.losses._objective import AdaptiveGradient, RegionSize
from ars_jax.losses._regions import Regions, region_bounds
from ars_jax.losses._statistics import overlap_statistics
from ars_jax.losses._types import Labels, Logits, Mask

ScalarLoss = Callable[..., jax.Array]
"""From logits `[b, *space, c]`, labels `[b, *space]` and, where said, further arrays to a scalar."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class RegionMaps:
    """The adaptive region-specific loss by region and class, all `[b, *grid, c]`; those of a `RegionMap` are one axis.

    Attributes:
        false_positives: FP, soft, in voxels.
        false_negatives: FN, soft, in voxels.
        alpha: penalty on false positives (Eq. 7), within [A, A + B].
        beta: penalty on false negatives (Eq. 8).
        effective_fp_weight: what a further voxel of FP adds to the loss's denominator, the penalty that the gradient
            has: alpha itself where the penalties are not differentiated; where they are, negative values reward false
            positives.
        effective_fn_weight: the same of FN.
        loss: of the region and class (Eq. 6), within [0, 1].
        present: whether the class has reference voxels in the region; the paper's loss skips the others.
        negatives: voxels of the region outside of the class, the only possible false positives.
    """

    false_positives: jax.Array
    false_negatives: jax.Array
    alpha: jax.Array
    beta: jax.Array
    effective_fp_weight: jax.Array
    effective_fn_weight: jax.Array
    loss: jax.Array
    present: jax.Array
    negatives: jax.Array

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the maps by name as NumPy arrays, as `numpy.savez` takes them."""
        return {field.name: np.asarray(getattr(self, field.name)) for field in dataclasses.fields(self)}


@names_arguments
@documented
def region_maps(
    logits: "Logits",
    labels: "Labels",
    *,
    where: "Mask | None" = None,
    ignore_label: int | None = None,
    spatial_dims: Literal[2, 3] = 3,
    min_penalty: float = 0.3,
    penalty_range: float = 0.4,
    exponent: float = 1.0,
    adaptive_gradient: AdaptiveGradient = "through",
    regions: "Regions | None" = 16,
    eps: float = 1e-7,
) -> RegionMaps:
    """Computes what is inside the adaptive region-specific loss, by region and class (Eqs. 6-8).

    Works under `jax.jit`.

    Returns:
        The maps, float32 for float32 logits.

    Raises:
        ValueError: shapes, words or regions that do not fit.

    Examples:
        >>> import numpy as np
        >>> from ars_jax.gradients.maps import region_maps
        >>> labels = np.arange(64).reshape(1, 4, 4, 4) % 2
        >>> maps = region_maps(np.zeros((1, 4, 4, 4, 2), np.float32), labels, regions=2)
        >>> maps.alpha.shape  # [batch, z, y, x, classes]
        (1, 2, 2, 2, 2)
        >>> print(f"{maps.alpha[0, 0, 0, 0, 1]:.2f} {maps.effective_fp_weight[0, 0, 0, 0, 1]:.2f}")  # FP = FN
        0.50 0.50
    """
    measured = {"where": where, "ignore_label": ignore_label, "spatial_dims": spatial_dims, "regions": regions}
    s = overlap_statistics(jnp.asarray(logits), jnp.asarray(labels), **measured)
    how = {"min_penalty": min_penalty, "penalty_range": penalty_range, "exponent": exponent, "eps": eps}
    loss = adaptive_tversky_loss(s, adaptive_gradient=adaptive_gradient, **how)

    def denominator(fp: jax.Array, fn: jax.Array) -> jax.Array:
        alpha, beta = adaptive_weights(dataclasses.replace(s, false_positives=fp, false_negatives=fn), **how)
        if adaptive_gradient == "stop":
            alpha, beta = jax.lax.stop_gradient((alpha, beta))
        return jnp.sum(alpha * fp + beta * fn)

    fp, fn = s.false_positives, s.false_negatives
    effective_fp_weight, effective_fn_weight = jax.grad(denominator, (0, 1))(fp, fn)
    alpha, beta = adaptive_weights(s, **how)
    return RegionMaps(
        false_positives=fp,
        false_negatives=fn,
        alpha=alpha,
        beta=beta,
        effective_fp_weight=effective_fp_weight,
        effective_fn_weight=effective_fn_weight,
        loss=loss,
        present=s.reference > 0,
        negatives=jnp.broadcast_to(s.voxels - s.reference, fp.shape),
    )


def trained_regions(
    space: Sequence[int], canvas: Sequence[int] | None, regions: int | Sequence[int] | RegionSize | None
) -> int | Sequence[int] | RegionSize | None:
    """Divides a volume into regions of the size that training saw on a smaller canvas.

    Args:
        space: voxels per axis of the volume.
        canvas: voxels per axis of a training sample, `None` where none is known.
        regions: number per axis of the canvas, one number or one per axis; a `RegionSize` or `None`.

    Returns:
        Regions per axis of the volume: those of the canvas, or, along axes that are longer than it, as many as bring
        the regions' sides nearest to those of the canvas. Without a canvas, and for a `RegionSize` or `None`, the
        regions that were given.

    Raises:
        ValueError: a wrong count of numbers, or more regions than voxels along an axis of the canvas.
    """
    if canvas is None or regions is None or isinstance(regions, RegionSize):
        return regions
    counts = [len(bounds) for bounds in region_bounds(canvas, regions)]
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
    for axis, bounds in enumerate(region_bounds(space, voxels.shape[: len(space)])):
        voxels = np.repeat(voxels, [stop - start for start, stop in bounds], axis)
    return voxels


def gradient_maps(
    objectives: Mapping[str, ScalarLoss], logits: jax.Array | np.ndarray, labels: jax.Array | np.ndarray, *further: Any
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
    objective: ScalarLoss,
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
        effective_fp_weight: the effective weight of FP, `[points (FN), points (FP)]`.
        effective_fn_weight: that of FN.
        critical: the share s = FN / (FP + FN) above which the weight of FP is negative, and the share of FP above
            which that of FN is; None where no share is.
    """

    false_positives: np.ndarray
    false_negatives: np.ndarray
    effective_fp_weight: np.ndarray
    effective_fn_weight: np.ndarray
    critical: float | None


def phase_diagram(
    *,
    min_penalty: float = 0.3,
    penalty_range: float = 0.4,
    exponent: float = 1.0,
    adaptive_gradient: AdaptiveGradient = "through",
    extent: tuple[float, float] = (1e-2, 1e3),
    points: int = 201,
) -> PhaseDiagram:
    """Computes the effective weights of the adaptive Tversky loss wherever a region may stand.

    The weights depend on the ratio of the two errors alone, so that on logarithmic axes their contours are parallel.

    Args:
        min_penalty: smallest penalty, the paper's A.
        penalty_range: range of the penalty, the paper's B.
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
    how = {"min_penalty": min_penalty, "penalty_range": penalty_range, "exponent": exponent}
    effective_fp_weight, effective_fn_weight = effective_weights(
        errors, errors[:, None], adaptive_gradient=adaptive_gradient, **how
    )
    through = adaptive_gradient == "through"
    return PhaseDiagram(
        errors, errors, effective_fp_weight, effective_fn_weight, critical_share(**how) if through else None
    )


def critical_share(*, min_penalty: float = 0.3, penalty_range: float = 0.4, exponent: float = 1.0) -> float | None:
    """Finds the share s = FN / (FP + FN) above which differentiated penalties reward false positives.

    For an exponent of 1 it is `sqrt((1 + A / B) / 2)`, if that is below 1; for others it is found to 1e-5.

    Args:
        min_penalty: smallest penalty, the paper's A.
        penalty_range: range of the penalty, the paper's B.
        exponent: of the error fraction in the penalties.

    Returns:
        A share below 1, or None where no share gives a negative weight, as where `B exponent <= A`.
    """
    if exponent == 1:
        return math.sqrt((1 + min_penalty / penalty_range) / 2) if penalty_range > min_penalty else None
    how = {"min_penalty": min_penalty, "penalty_range": penalty_range, "exponent": exponent}
    share = np.linspace(0.5, 1, 50_001)[:-1]
    slope, _ = effective_weights(1 - share, share, **how, adaptive_gradient="through")
    below = np.flatnonzero(slope < 0)
    return float(share[below[0]]) if below.size else None
