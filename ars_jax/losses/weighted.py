"""Weighted sums of losses from one pass over the volume, and classes that a case does not have drawn."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypedDict, Unpack

import jax
import jax.numpy as jnp

from ars_jax.losses.compose import CrossEntropyReduction, grid_or_paper, mean_cross_entropy
from ars_jax.losses.overlap import (
    AdaptiveGradient,
    adaptive_tversky_loss,
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
    pyramid_loss,
    reduce_loss,
)
from ars_jax.losses.regions import RegionMap
from ars_jax.losses.statistics import OverlapStatistics, check_shapes, overlap_statistics

REGIONAL = ("region_specific", "adaptive_region_specific")


class Parameters(TypedDict, total=False):
    """What the losses of `weighted_sum` are made with.

    Attributes:
        a: the smallest penalty of `adaptive_region_specific`, 0.3 unless given.
        b: the range of its penalty, 0.4 unless given.
        exponent: of its error fraction, 1 unless given.
        adaptive_gradient: `"through"` unless given.
        fp_weight: of `tversky` and `focal_tversky`, 0.3 unless given.
        fn_weight: of `tversky` and `focal_tversky`, 0.7 unless given.
        gamma: of `focal_tversky`, 4/3 unless given.
        sensitivity_weight: of `sensitivity_specificity`, 0.05 unless given.
        cross_entropy_reduction: `"mean"` unless given, see `cross_entropy`.
        absent: for the regional losses, see `Options`; the others count every class.
        reduction: for the regional losses; the others sum over classes.
        levels: for the regional losses.
        include_background: for all but the cross-entropy, see `Options`.
        class_weights: for all but the cross-entropy.
        whole_batch: see `Options`.
        eps: see `Options`.
    """

    a: float
    b: float
    exponent: float
    adaptive_gradient: AdaptiveGradient
    fp_weight: float
    fn_weight: float
    gamma: float
    sensitivity_weight: float
    cross_entropy_reduction: CrossEntropyReduction
    absent: Absent
    reduction: Reduction
    levels: int
    include_background: bool
    class_weights: ClassWeights | None
    whole_batch: bool
    eps: float


def weighted_sum(
    weights: Mapping[str, float],
    *,
    grid: int | Sequence[int] | None = None,
    region_size: int | Sequence[int] | None = None,
    from_probabilities: bool = False,
    **parameters: Unpack[Parameters],
) -> Callable[..., tuple[jax.Array, dict[str, jax.Array]]]:
    """Makes a loss that is a weighted sum of the losses of this package, all from one pass over the volume.

    Args:
        weights: a weight for each wanted loss: `dice`, `tversky`, `focal_tversky`, `generalized_dice`,
            `sensitivity_specificity` and `cross_entropy` of the whole volume, `region_specific` and
            `adaptive_region_specific` of its regions.
        grid: regions per axis of the regional losses, 16 when no division is given.
        region_size: largest region side in voxels, instead of `grid`.
        from_probabilities: the first argument of the loss holds probabilities instead of logits.
        **parameters: see `Parameters`.

    Returns:
        A function of `(logits, labels, where=None, region_map=None)` that returns the total and a dictionary of the
        unweighted parts. Voxels that a map has in no region count for the losses of the whole volume.

    Raises:
        ValueError: a name that is no loss, no name at all, a word or number that does not fit, or (when called) arrays
            that do not.
        TypeError: a parameter of another name.
    """
    terms = _terms(**parameters)
    unknown = [name for name in weights if name not in terms]
    if unknown or not weights:
        raise ValueError(f"weights (={dict(weights)}) must name one or more of {', '.join(terms)}")
    regional = any(name in REGIONAL for name in weights)

    def loss(
        logits: jax.Array, labels: jax.Array, where: jax.Array | None = None, region_map: RegionMap | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        division = {
            "grid": grid_or_paper(grid, region_size, region_map) if regional else None,
            "region_size": region_size if regional else None,
            "region_map": region_map if regional else None,
        }
        whole, inside = _whole_and_inside(
            logits, labels, where=where, from_probabilities=from_probabilities, **division
        )
        parts = {name: terms[name](inside if name in REGIONAL else whole) for name in weights}
        return jnp.stack([weights[name] * part for name, part in parts.items()]).sum(), parts

    return loss


def _whole_and_inside(
    logits: jax.Array,
    labels: jax.Array,
    *,
    where: jax.Array | None,
    region_map: RegionMap | None,
    **options: Any,
) -> tuple[OverlapStatistics, OverlapStatistics]:
    """Returns regional statistics that sum up to the whole volume's, and those of the regions that were asked for."""
    if region_map is None:
        s = overlap_statistics(logits, labels, where=where, **options)
        return s, s
    check_shapes(logits, labels, where, region_map)
    s = overlap_statistics(logits, labels, where=where, region_map=region_map.with_rest(), **options)
    return s, jax.tree.map(lambda x: x[:, :-1], s)


def _terms(
    *,
    a: float = 0.3,
    b: float = 0.4,
    exponent: float = 1.0,
    adaptive_gradient: AdaptiveGradient = "through",
    fp_weight: float = 0.3,
    fn_weight: float = 0.7,
    gamma: float = 4 / 3,
    sensitivity_weight: float = 0.05,
    cross_entropy_reduction: CrossEntropyReduction = "mean",
    levels: int = 1,
    include_background: bool = True,
    whole_batch: bool = False,
    absent: Absent = "skip",
    reduction: Reduction = "sum",
    class_weights: ClassWeights | None = None,
    eps: float = 1e-7,
) -> dict[str, Callable[[OverlapStatistics], jax.Array]]:
    """Returns each loss as a function from regional statistics to a scalar."""
    check_positive("eps", eps)
    check_positive("gamma", gamma)
    for name, word, allowed in (
        ("absent", absent, Absent),
        ("reduction", reduction, Reduction),
        ("adaptive_gradient", adaptive_gradient, AdaptiveGradient),
        ("cross_entropy_reduction", cross_entropy_reduction, CrossEntropyReduction),
    ):
        check_word(name, word, allowed)

    def counted(s: OverlapStatistics) -> OverlapStatistics:
        s = s if include_background else s.foreground()
        return s.whole_batch() if whole_batch else s

    def whole(loss: Callable[..., jax.Array], s: OverlapStatistics) -> jax.Array:
        s = counted(s.total())
        return reduce_loss(loss(s, eps=eps), s, absent="count", class_weights=class_weights)

    def joint(loss: Callable[..., jax.Array], s: OverlapStatistics) -> jax.Array:
        s = counted(s.total())
        return reduce_loss(loss(s, eps=eps, class_weights=class_weights), s, absent="count")

    def regional(loss: Callable[..., jax.Array], s: OverlapStatistics) -> jax.Array:
        how = {"levels": levels, "absent": absent, "reduction": reduction, "class_weights": class_weights}
        return pyramid_loss(partial(loss, eps=eps), counted(s), **how)

    def entropy(s: OverlapStatistics) -> jax.Array:
        return mean_cross_entropy(s.whole_batch() if whole_batch else s, cross_entropy_reduction)

    fixed = partial(tversky_loss, fp_weight=fp_weight, fn_weight=fn_weight)
    focal = partial(focal_tversky_loss, fp_weight=fp_weight, fn_weight=fn_weight, gamma=gamma)
    adaptive = partial(adaptive_tversky_loss, a=a, b=b, exponent=exponent, adaptive_gradient=adaptive_gradient)
    sensitivity = partial(sensitivity_specificity_loss, sensitivity_weight=sensitivity_weight)
    return {
        "dice": partial(whole, dice_loss),
        "cross_entropy": entropy,
        "tversky": partial(whole, fixed),
        "focal_tversky": partial(whole, focal),
        "generalized_dice": partial(joint, generalized_dice_loss),
        "sensitivity_specificity": partial(whole, sensitivity),
        "region_specific": partial(regional, dice_loss),
        "adaptive_region_specific": partial(regional, adaptive),
    }


def marginal_logits(logits: jax.Array, labelled: jax.Array) -> jax.Array:
    """Merges classes that nobody drew in a case into its background, so that no loss sees them.

    The background's probability becomes the sum of its own and the undrawn classes', whose own becomes 0: a voxel of
    an undrawn organ, marked as background in the label map, is then no error.

    Args:
        logits: `[b, *space, c]`, class 0 is background.
        labelled: `[b, c]`, false for a class that was not drawn in the case.

    Returns:
        `[b, *space, c]`, to be given to any loss; the logits themselves where all classes are drawn.
    """
    drawn = labelled.reshape(labelled.shape[0], *(1,) * (logits.ndim - 2), labelled.shape[1])
    classes = jnp.arange(logits.shape[-1]).reshape(*(1,) * (logits.ndim - 1), -1)
    merged = jnp.where(drawn & (classes > 0), -jnp.inf, logits)
    background = jax.nn.logsumexp(merged, axis=-1, keepdims=True)
    kept = jnp.where(drawn, logits, jnp.finfo(logits.dtype).min / 2)
    return jnp.where(classes == 0, background, kept)
