"""Losses of logits and labels as scalars."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, TypedDict, Unpack

import jax
import jax.numpy as jnp

from ars_jax.losses.overlap import (
    AdaptiveGradient,
    adaptive_tversky_loss,
    cross_entropy_loss,
    dice_loss,
    focal_tversky_loss,
    generalized_dice_loss,
    sensitivity_specificity_loss,
    tversky_loss,
)
from ars_jax.losses.reduction import (
    Absent,
    ClassWeights,
    Reduction,
    check_positive,
    check_word,
    class_factors,
    pyramid_loss,
    reduce_loss,
)
from ars_jax.losses.regions import RegionMap
from ars_jax.losses.statistics import OverlapStatistics, overlap_statistics

CrossEntropyReduction = Literal["mean", "sum"]


class Options(TypedDict, total=False):
    """What every loss of logits and labels takes besides its own parameters.

    Attributes:
        grid: regions per axis, one number or one per axis. With a division the loss is region-specific: computed in
            each region, then reduced. Without one the volume is one region, but for `region_specific` and
            `adaptive_region_specific`, whose division is then the paper's, 16 per axis.
        region_size: largest region side in voxels, instead of `grid`.
        region_map: regions of any shape, instead of `grid`.
        levels: grids of a pyramid, 1 unless given: each further one has half the regions per axis, their statistics
            being sums of the finer ones', and the loss is the mean of the levels'.
        where: `[b, *space]`, false takes a voxel out of every sum; `labels != 255` ignores a label.
        include_background: whether class 0 has a loss, true unless given; it keeps its part in the softmax.
        whole_batch: whether a batch is summed up as one sample, false unless given.
        absent: `"skip"` or `"count"` pairs of region and class without reference voxel, see `reduce_loss`; skipped
            where the volume is divided and counted where it is not, unless given.
        reduction: `"sum"`, `"mean"` or `"class_mean"` over regions and classes, see `reduce_loss`; a sum unless given.
        class_weights: one factor per counted class.
        eps: smoothing in voxels, the paper's 1e-7 unless given.
        from_probabilities: the first argument holds probabilities instead of logits.
    """

    grid: int | Sequence[int] | None
    region_size: int | Sequence[int] | None
    region_map: RegionMap | None
    levels: int
    where: jax.Array | None
    include_background: bool
    whole_batch: bool
    absent: Absent | None
    reduction: Reduction
    class_weights: ClassWeights | None
    eps: float
    from_probabilities: bool


def dice(logits: jax.Array, labels: jax.Array, *, squared: bool = True, **options: Unpack[Options]) -> jax.Array:
    """Dice loss, summed over classes with background (Eq. 2).

    Args:
        logits: `[b, *space, c]`, two or three spatial axes, any float type.
        labels: `[b, *space]` integers, or `[b, *space, c]` one-hot or soft.
        squared: whether probabilities are squared in the denominator, see `dice_loss`.
        **options: see `Options`.

    Returns:
        A scalar, the mean over the batch of each sample's loss; within [0, c] for hard labels of one region.

    Raises:
        ValueError: shapes, words or a division that do not fit.
    """
    return _reduced(partial(dice_loss, squared=squared), logits, labels, **options)


def tversky(
    logits: jax.Array,
    labels: jax.Array,
    *,
    fp_weight: float = 0.3,
    fn_weight: float = 0.7,
    **options: Unpack[Options],
) -> jax.Array:
    """Tversky loss, summed over classes with background (Eq. 5).

    Args:
        logits: `[b, *space, c]`.
        labels: `[b, *space]` integers, or `[b, *space, c]` one-hot or soft.
        fp_weight: penalty on false positives, the paper's alpha.
        fn_weight: penalty on false negatives, the paper's beta.
        **options: see `Options`.

    Returns:
        A scalar, the mean over the batch of each sample's loss.

    Raises:
        ValueError: shapes, words or a division that do not fit.
    """
    return _reduced(partial(tversky_loss, fp_weight=fp_weight, fn_weight=fn_weight), logits, labels, **options)


def focal_tversky(
    logits: jax.Array,
    labels: jax.Array,
    *,
    fp_weight: float = 0.3,
    fn_weight: float = 0.7,
    gamma: float = 4 / 3,
    **options: Unpack[Options],
) -> jax.Array:
    """Focal Tversky loss, summed over classes with background (Abraham & Khan 2019).

    Args:
        logits: `[b, *space, c]`.
        labels: `[b, *space]` integers, or `[b, *space, c]` one-hot or soft.
        fp_weight: penalty on false positives.
        fn_weight: penalty on false negatives.
        gamma: the Tversky loss of each class is taken to the power 1 / gamma, see `focal_tversky_loss`.
        **options: see `Options`.

    Returns:
        A scalar, the mean over the batch of each sample's loss.

    Raises:
        ValueError: shapes, words or a division that do not fit.
    """
    loss = partial(focal_tversky_loss, fp_weight=fp_weight, fn_weight=fn_weight, gamma=gamma)
    return _reduced(loss, logits, labels, **options)


def generalized_dice(logits: jax.Array, labels: jax.Array, **options: Unpack[Options]) -> jax.Array:
    """Generalised Dice loss of all classes together, weighted by 1 / G^2 (Sudre et al. 2017).

    Args:
        logits: `[b, *space, c]`.
        labels: `[b, *space]` integers, or `[b, *space, c]` one-hot or soft.
        **options: see `Options`; `absent` and `class_weights` are those of `generalized_dice_loss`, and classes
            without reference are left out unless `absent` says otherwise.

    Returns:
        A scalar, the mean over the batch of each sample's loss; within [0, 1] for one region.

    Raises:
        ValueError: shapes, words or a division that do not fit.
    """
    joint = partial(
        generalized_dice_loss,
        class_weights=options.pop("class_weights", None),
        absent=options.get("absent") or "skip",
    )
    return _reduced(joint, logits, labels, **options)


def sensitivity_specificity(
    logits: jax.Array, labels: jax.Array, *, sensitivity_weight: float = 0.05, **options: Unpack[Options]
) -> jax.Array:
    """Sensitivity-specificity loss, summed over classes with background (Brosch & Tam 2016).

    Args:
        logits: `[b, *space, c]`.
        labels: `[b, *space]` integers, or `[b, *space, c]` one-hot or soft.
        sensitivity_weight: r, weight of the error over a class's own voxels, see `sensitivity_specificity_loss`.
        **options: see `Options`.

    Returns:
        A scalar, the mean over the batch of each sample's loss.

    Raises:
        ValueError: shapes, words or a division that do not fit.
    """
    loss = partial(sensitivity_specificity_loss, sensitivity_weight=sensitivity_weight)
    return _reduced(loss, logits, labels, **options)


def cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    reduction: CrossEntropyReduction = "mean",
    where: jax.Array | None = None,
    class_weights: ClassWeights | None = None,
    whole_batch: bool = False,
) -> jax.Array:
    """Cross-entropy over voxels and classes (second term of Eq. 9).

    Args:
        logits: `[b, *space, c]`.
        labels: `[b, *space]` integers, or `[b, *space, c]` one-hot or soft.
        reduction: `"mean"` over a sample's counted voxels, weighted by their classes' weights, or `"sum"`, the literal
            equation (about 1e7 at the start of training on the paper's volumes, beside a Dice loss of at most c).
        where: `[b, *space]`, false takes a voxel out.
        class_weights: one factor per class.
        whole_batch: whether the mean is over the voxels of all samples together, as in PyTorch.

    Returns:
        A scalar, the mean over the batch of each sample's value.

    Raises:
        ValueError: shapes or words that do not fit.
    """
    s = overlap_statistics(logits, labels, where=where)
    return mean_cross_entropy(s.whole_batch() if whole_batch else s, reduction, class_weights)


def baseline(
    logits: jax.Array,
    labels: jax.Array,
    *,
    cross_entropy_weight: float = 1.0,
    cross_entropy_reduction: CrossEntropyReduction = "mean",
    eps: float = 1e-7,
    where: jax.Array | None = None,
) -> jax.Array:
    """The paper's baseline, Dice summed over classes plus weighted cross-entropy (Eq. 9).

    Args:
        logits: `[b, *space, c]`.
        labels: `[b, *space]` integers, or `[b, *space, c]` one-hot or soft.
        cross_entropy_weight: the paper's lambda, whose value it does not give.
        cross_entropy_reduction: see `cross_entropy`.
        eps: smoothing, in voxels.
        where: `[b, *space]`, false takes a voxel out of every sum.

    Returns:
        A scalar, the mean over the batch of each sample's loss.

    Raises:
        ValueError: shapes or words that do not fit.
    """
    check_positive("eps", eps)
    s = overlap_statistics(logits, labels, where=where)
    overlap = reduce_loss(dice_loss(s, eps=eps), s, absent="count")
    return overlap + cross_entropy_weight * mean_cross_entropy(s, cross_entropy_reduction)


def region_specific(
    logits: jax.Array, labels: jax.Array, *, squared: bool = True, **options: Unpack[Options]
) -> jax.Array:
    """Region-specific loss: the Dice loss of every region, summed over regions and classes (Eq. 4).

    Args:
        logits: `[b, *space, c]`.
        labels: `[b, *space]` integers, or `[b, *space, c]` one-hot or soft.
        squared: see `dice`.
        **options: see `Options`.

    Returns:
        A scalar, the mean over the batch of each sample's loss.

    Raises:
        ValueError: shapes, words or a division that do not fit.
    """
    return _reduced(partial(dice_loss, squared=squared), logits, labels, **_divided(options))


def adaptive_region_specific(
    logits: jax.Array,
    labels: jax.Array,
    *,
    a: float = 0.3,
    b: float = 0.4,
    exponent: float = 1.0,
    adaptive_gradient: AdaptiveGradient = "through",
    **options: Unpack[Options],
) -> jax.Array:
    """Adaptive region-specific loss: every region's Tversky loss with penalties that follow its errors (Eqs. 6-8).

    Args:
        logits: `[b, *space, c]`.
        labels: `[b, *space]` integers, or `[b, *space, c]` one-hot or soft.
        a: the smallest penalty, the paper's A.
        b: the range of the penalty, the paper's B.
        exponent: of the error fraction in Eqs. 7-8, see `adaptive_weights`.
        adaptive_gradient: whether the penalties are differentiated (`"through"`) or not (`"stop"`), see
            `adaptive_tversky_loss`.
        **options: see `Options`.

    Returns:
        A scalar, the mean over the batch of each sample's loss.

    Raises:
        ValueError: shapes, words or a division that do not fit.
    """
    loss = partial(adaptive_tversky_loss, a=a, b=b, exponent=exponent, adaptive_gradient=adaptive_gradient)
    return _reduced(loss, logits, labels, **_divided(options))


def mean_cross_entropy(
    statistics: OverlapStatistics, reduction: CrossEntropyReduction, class_weights: ClassWeights | None = None
) -> jax.Array:
    """Cross-entropy of the whole volume as a scalar, see `cross_entropy`.

    Args:
        statistics: of the whole volume or of regions, `[b, *grid, c]`.
        reduction: see `cross_entropy`.
        class_weights: see `cross_entropy`.

    Returns:
        A scalar, the mean over the batch.

    Raises:
        ValueError: another word for `reduction`, or another number of class weights.
    """
    check_word("reduction", reduction, CrossEntropyReduction)
    total = statistics.total()
    if reduction == "sum":
        return jnp.mean(jnp.sum(class_factors(class_weights, total.log_loss) * total.log_loss, axis=-1))
    return jnp.mean(cross_entropy_loss(total, class_weights=class_weights))


def grid_or_paper(
    grid: int | Sequence[int] | None, region_size: int | Sequence[int] | None, region_map: RegionMap | None
) -> int | Sequence[int] | None:
    """Returns the grid, the paper's 16 where no division is asked for."""
    return 16 if grid is None and region_size is None and region_map is None else grid


def _divided(options: Options) -> Options:
    asked = (options.get("grid"), options.get("region_size"), options.get("region_map"))
    return {**options, "grid": grid_or_paper(*asked)}


def _reduced(
    loss: Callable[..., jax.Array], logits: jax.Array, labels: jax.Array, **options: Unpack[Options]
) -> jax.Array:
    """One pass, a loss of its statistics, one number."""
    unknown = sorted(options.keys() - Options.__annotations__.keys())
    if unknown:
        raise TypeError(
            f"no loss has an option {', '.join(unknown)}; those of all are {', '.join(Options.__annotations__)}"
        )
    return _reduced_by(loss, logits, labels, **options)


def _reduced_by(
    loss: Callable[..., jax.Array],
    logits: jax.Array,
    labels: jax.Array,
    *,
    grid: int | Sequence[int] | None = None,
    region_size: int | Sequence[int] | None = None,
    region_map: RegionMap | None = None,
    levels: int = 1,
    where: jax.Array | None = None,
    include_background: bool = True,
    whole_batch: bool = False,
    absent: Absent | None = None,
    reduction: Reduction = "sum",
    class_weights: ClassWeights | None = None,
    eps: float = 1e-7,
    from_probabilities: bool = False,
) -> jax.Array:
    check_positive("eps", eps)
    s = overlap_statistics(
        logits,
        labels,
        grid=grid,
        region_size=region_size,
        region_map=region_map,
        where=where,
        from_probabilities=from_probabilities,
    )
    s = s if include_background else s.foreground()
    s = s.whole_batch() if whole_batch else s
    if absent is None:
        absent = "count" if grid is None and region_size is None and region_map is None else "skip"
    return pyramid_loss(
        partial(loss, eps=eps), s, levels=levels, absent=absent, reduction=reduction, class_weights=class_weights
    )
