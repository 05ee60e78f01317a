"""The one list of the losses' parameters: an objective as plain data, without JAX until it is called."""

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from ars_jax.losses._checks import (
    ArgumentError,
    ObjectiveWarning,
    answers_other_names,
    check_number,
    check_positive,
    check_word,
    suggest,
)

if TYPE_CHECKING:
    from ars_jax.losses._regions import Regions
    from ars_jax.losses._types import Labels, Logits, Mask, Scalar

AdaptiveGradient = Literal["through", "stop"]
AbsentClasses = Literal["skip", "include"]
Reduction = Literal["sum", "mean", "class_mean"]
CrossEntropyReduction = Literal["mean", "sum"]

VOLUME_TERMS = ("dice", "cross_entropy", "tversky", "focal_tversky", "generalized_dice", "sensitivity_specificity")
"""Losses that an objective computes on the whole volume."""
REGIONAL_TERMS = ("region_specific", "adaptive_region_specific")
"""Losses that an objective computes in every region."""
BASELINE = "baseline"
"""Stands for `dice` and, times `cross_entropy_weight`, `cross_entropy`."""


@dataclasses.dataclass(frozen=True)
class RegionSize:
    """Regions of at most so many voxels per axis.

    Args:
        voxels: largest side, one number for all axes or one per axis (z, y, x).
    """

    voxels: int | tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Objective:
    """A weighted sum of losses from one pass over the volume, and every parameter that a loss has.

    An objective is plain data that can be called: `(logits, labels, where=None, regions=None)` gives the total, a
    scalar, and a dictionary of its unweighted parts. Terms of the whole volume sum over classes and count every class;
    `levels`, `absent_classes` and `reduction` belong to the regional terms, and `include_background` and
    `class_weights` to all but the cross-entropy. Voxels outside of every region of a `RegionMap` count for the terms of
    the whole volume.

    The defaults are a recipe for training and differ from those of the functions, which follow the paper, in
    `reduction` (`"sum"` there) and `adaptive_gradient` (`"through"` there).

    Args:
        terms: weight of each loss: `dice`, `cross_entropy`, `tversky`, `focal_tversky`, `generalized_dice`,
            `sensitivity_specificity`, `region_specific`, `adaptive_region_specific`, or `baseline`, which stands for
            Dice plus `cross_entropy_weight` times the cross-entropy (Eq. 9).
        spatial_dims: 3 for volumes `[b, z, y, x, c]`, 2 for images `[b, y, x, c]`.
        ignore_label: integer label whose voxels are left out of every sum, beside those of `where`.
        regions: number of regions per axis, one number or one per axis (the paper: 16); `RegionSize(8)`, in YAML
            {voxels: 8}, the largest region side in voxels; or None, the volume as one region. Calls also take a
            `RegionMap`, regions of any shape.
        levels: number of grids of a pyramid; each further grid has half the regions per axis, and the loss is the mean
            over the grids.
        absent_classes: `"skip"` leaves out pairs of region and class without reference voxels (the paper), `"include"`
            keeps them; None skips them where the volume is divided and includes them where it is one region.
        include_background: whether class 0 has a loss; it keeps its part in the softmax.
        class_weights: one factor per counted class.
        batch_dice: whether the batch is summed up as one sample before the loss.
        reduction: over regions and classes: `"sum"` (the paper), `"mean"` over the counted pairs, or `"class_mean"`,
            the mean over a class's counted regions summed over classes, which is the scale of the Dice loss. The
            functions also take `"none"`: the values per sample, region and class, 0 for skipped pairs.
        squared: whether probabilities are squared in the denominator of Dice (the paper).
        min_penalty: smallest adaptive penalty, the paper's A.
        penalty_range: range of the adaptive penalty, the paper's B: penalties are within [A, A + B].
        exponent: of the error fraction in the adaptive penalties, an extension; the paper's is 1.
        adaptive_gradient: `"through"` differentiates the adaptive penalties, the formula as written; `"stop"` holds
            them constant.
        fp_weight: penalty on false positives of the Tversky losses, the alpha of Eq. 5.
        fn_weight: penalty on false negatives of the Tversky losses, the beta of Eq. 5.
        gamma: of focal Tversky, whose power is 1 / gamma; above 1, well segmented classes keep more gradient.
        sensitivity_weight: r of the sensitivity-specificity loss, the weight of the error over a class's own voxels.
        cross_entropy_weight: weight of the cross-entropy in the baseline, the paper's lambda, whose value it does not
            give.
        cross_entropy_reduction: `"mean"` over a sample's voxels, or `"sum"`, the literal Eq. 9 (about 1e7 at the start
            of training).
        eps: smoothing, in voxels (the paper: 1e-7).
        from_probabilities: whether the first array holds probabilities; their logarithm is clipped at the smallest
            normal number.

    Raises:
        ValueError: an unknown term or word, or a number out of its range; when called, arrays that do not fit.
        TypeError: an argument of another name.

    Warns:
        ObjectiveWarning: a sum over regions stands beside a mean cross-entropy.

    Examples:
        >>> import numpy as np
        >>> from ars_jax import losses
        >>> objective = losses.Objective({"baseline": 1, "adaptive_region_specific": 1}, regions=2)
        >>> logits = np.zeros((1, 8, 8, 8, 3), np.float32)  # [batch, z, y, x, classes]
        >>> labels = np.arange(512).reshape(1, 8, 8, 8) % 3
        >>> total, parts = objective(logits, labels)
        >>> sorted(parts)
        ['adaptive_region_specific', 'cross_entropy', 'dice']
        >>> print(f"{total:.4f}")
        4.5988
    """

    terms: Mapping[str, float] = dataclasses.field(
        default_factory=lambda: {BASELINE: 1.0, "adaptive_region_specific": 1.0}, hash=False
    )
    spatial_dims: Literal[2, 3] = 3
    ignore_label: int | None = None
    regions: int | tuple[int, ...] | RegionSize | None = 16
    levels: int = 1
    absent_classes: AbsentClasses | None = None
    include_background: bool = True
    class_weights: tuple[float, ...] | None = None
    batch_dice: bool = False
    reduction: Reduction = "class_mean"
    squared: bool = True
    min_penalty: float = 0.3
    penalty_range: float = 0.4
    exponent: float = 1.0
    adaptive_gradient: AdaptiveGradient = "stop"
    fp_weight: float = 0.3
    fn_weight: float = 0.7
    gamma: float = 4 / 3
    sensitivity_weight: float = 0.05
    cross_entropy_weight: float = 1.0
    cross_entropy_reduction: CrossEntropyReduction = "mean"
    eps: float = 1e-7
    from_probabilities: bool = False

    def __post_init__(self) -> None:
        _check_terms(self.terms)
        check_parameters({field.name: getattr(self, field.name) for field in dataclasses.fields(self)})
        check_word("reduction", self.reduction, Reduction)
        object.__setattr__(self, "terms", dict(self.terms))  # the caller may change its own
        for name in ("regions", "class_weights"):  # lists, as files have them, are not hashable
            if isinstance(value := getattr(self, name), list):
                object.__setattr__(self, name, tuple(value))
        _check_regions(self.regions)
        if self.sums_beside_mean:
            warnings.warn(
                f"{' and '.join(self.regional_terms)}: a sum over regions (reduction='sum') beside a mean "
                "cross-entropy leaves missed organs almost no gradient; use reduction='class_mean', or "
                "cross_entropy_reduction='sum' with a cross_entropy_weight",
                ObjectiveWarning,
                stacklevel=4,
            )

    @property
    def name(self) -> str:
        """The terms joined by a plus sign, such as `baseline+adaptive_region_specific`."""
        return "+".join(self.terms)

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each part, with `baseline` written out."""
        weights: dict[str, float] = {}
        for term, weight in self.terms.items():
            share = {term: weight}
            if term == BASELINE:
                share = {"dice": weight, "cross_entropy": weight * self.cross_entropy_weight}
            for part, more in share.items():
                weights[part] = weights.get(part, 0) + more
        return weights

    @property
    def regional_terms(self) -> tuple[str, ...]:
        """The terms that are computed in every region."""
        return tuple(term for term in self.terms if term in REGIONAL_TERMS)

    @property
    def sums_beside_mean(self) -> bool:
        """Whether a sum over regions stands beside a mean over voxels, both with a weight."""
        weights = self.weights
        summed = self.reduction == "sum" and any(weights[term] for term in self.regional_terms)
        return bool(summed and weights.get("cross_entropy") and self.cross_entropy_reduction == "mean")

    @property
    def penalties(self) -> dict[str, Any]:
        """The parameters of the adaptive penalties, by the names of their arguments."""
        names = ("min_penalty", "penalty_range", "exponent", "adaptive_gradient", "eps")
        return {name: getattr(self, name) for name in names}

    @answers_other_names
    def __call__(
        self,
        logits: "Logits",
        labels: "Labels",
        where: "Mask | None" = None,
        regions: "Regions | None" = None,
    ) -> "tuple[Scalar, dict[str, Scalar]]":
        """Computes the total and its unweighted parts.

        Args:
            logits: `[b, *space, c]`, any float type.
            labels: `[b, *space]` integers, or `[b, *space, c]` one-hot or soft.
            where: `[b, *space]`, false leaves a voxel out of every sum.
            regions: instead of the objective's own; a `RegionMap` can be given only here.

        Returns:
            The total and a dictionary of its parts, each the mean over the batch.

        Raises:
            ValueError: arrays or regions that do not fit.
        """
        from ars_jax.losses._evaluate import evaluate_objective

        return evaluate_objective(self, logits, labels, where, regions)


# A dataclass makes its own __init__, which would answer another library's name with Python's words.
Objective.__init__ = answers_other_names(Objective.__init__)


def _check_terms(terms: Mapping[str, float]) -> None:
    known = [BASELINE, *VOLUME_TERMS, *REGIONAL_TERMS]
    if not isinstance(terms, Mapping) or not terms:
        raise ArgumentError("terms", terms, f"weights of one or more of {', '.join(known)}")
    for term, weight in terms.items():
        if term not in known:
            meant = suggest(str(term), known)
            raise ArgumentError(
                "terms", term, f"of {', '.join(known)}" + (f" (did you mean {meant}?)" if meant else "")
            )
        check_number(f"terms.{term}", weight, lambda number: 0 <= number < math.inf, "at least 0 and finite")


def _check_regions(regions: int | Sequence[int] | RegionSize | None) -> None:
    numbers = regions.voxels if isinstance(regions, RegionSize) else regions
    for number in numbers if isinstance(numbers, Sequence) else [numbers]:
        check_number("regions", number, lambda number: number >= 1, "at least 1 per axis")


def check_parameters(given: Mapping[str, object]) -> None:
    """Raises an ArgumentError for the first parameter whose word is unknown or whose number is out of its range."""
    for name, allowed in (
        ("adaptive_gradient", AdaptiveGradient),
        ("cross_entropy_reduction", CrossEntropyReduction),
        ("spatial_dims", Literal[2, 3]),
    ):
        if name in given:
            check_word(name, given[name], allowed)
    if given.get("absent_classes") is not None:
        check_word("absent_classes", given["absent_classes"], AbsentClasses)
    for name in ("eps", "gamma"):
        check_positive(name, given.get(name))
    check_number("levels", given.get("levels"), lambda number: number >= 1, "at least 1, the grid itself")
    for name in ("min_penalty", "penalty_range", "exponent", "fp_weight", "fn_weight", "cross_entropy_weight"):
        check_number(name, given.get(name), lambda number: 0 <= number < math.inf, "at least 0 and finite")
    check_number("sensitivity_weight", given.get("sensitivity_weight"), lambda number: 0 <= number <= 1, "0 to 1")
    for pair in (("min_penalty", "penalty_range"), ("fp_weight", "fn_weight")):
        if all(isinstance(number := given.get(name), int | float) and number == 0 for name in pair):
            raise ArgumentError(", ".join(pair), "0, 0", "not both 0")
