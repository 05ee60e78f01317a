"""The one list of the losses' parameters: an objective as plain data, without JAX until it is called."""

import dataclasses
import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ars_jax.losses._checks import (
    ArgumentError,
    ObjectiveWarning,
    check_integer,
    check_number,
    check_positive,
    check_weights,
    check_word,
    names_arguments,
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

    def __post_init__(self) -> None:
        if not isinstance(self.voxels, int):  # lists and arrays are not hashable
            object.__setattr__(self, "voxels", tuple(self.voxels))


class Terms(dict[str, float]):
    """Weights of an objective's terms, which cannot be changed and so can be hashed."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return Terms, (dict(self),)

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TypeError("the terms of an objective cannot be changed: make another with dataclasses.replace")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse  # type: ignore[assignment]


@dataclasses.dataclass(frozen=True)
class Objective:
    """A weighted sum of losses from one pass over the volume, and every parameter that a loss has.

    An objective is plain data that can be called: `(logits, labels, where=None, regions=None)` gives the total, a
    scalar, and a dictionary of its unweighted parts. Terms of the whole volume sum over all classes; `regions`,
    `levels`, `absent_classes` and `reduction` belong to the regional terms (`absent_classes` to generalised Dice as
    well), and `include_background` and `class_weights` to all but the cross-entropy. Voxels outside of every region of
    a `RegionMap` count for the terms of the whole volume.

    The defaults are a recipe for training and differ from those of the functions, which follow the paper, in
    `reduction` (`"sum"` there) and `adaptive_gradient` (`"through"` there).

    Args:
        terms: weight of each loss: `dice`, `cross_entropy`, `tversky`, `focal_tversky`, `generalized_dice`,
            `sensitivity_specificity`, `region_specific`, `adaptive_region_specific`, or `baseline`, which stands for
            Dice plus `cross_entropy_weight` times the cross-entropy (Eq. 9).
        ignore_label: integer label whose voxels are left out of every sum, beside those of `where`.
        spatial_dims: 3 for volumes `[b, z, y, x, c]`, 2 for images `[b, y, x, c]`.
        squared: whether probabilities are squared in the denominator of Dice (the paper).
        min_penalty: smallest adaptive penalty, the paper's A.
        penalty_range: range of the adaptive penalty, the paper's B: penalties are within [A, A + B].
        exponent: exponent of the error fraction in the adaptive penalties, an extension; the paper's is 1.
        adaptive_gradient: `"through"` differentiates the adaptive penalties, the formula as written; `"stop"` holds
            them constant.
        fp_weight: penalty on false positives of the Tversky losses, the alpha of Eq. 5.
        fn_weight: penalty on false negatives of the Tversky losses, the beta of Eq. 5.
        gamma: the power of focal Tversky is 1 / gamma; above 1, well segmented classes keep more gradient.
        sensitivity_weight: r of the sensitivity-specificity loss, the weight of the error over a class's own voxels.
        cross_entropy_weight: weight of the cross-entropy in the baseline, the paper's lambda, whose value it does not
            give.
        cross_entropy_reduction: `"mean"` over a sample's voxels, or `"sum"`, the literal Eq. 9 (about 1e7 at the start
            of training).
        cross_entropy_class_weights: one factor per class of the cross-entropy, background included.
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
            the mean over a class's counted regions summed over classes, which is the scale of the Dice loss. A function
            with `"none"` returns the values per sample, region and class, 0 for skipped pairs.
        eps: smoothing, in voxels (the paper: 1e-7).
        from_probabilities: whether the first array holds probabilities; their logarithm is clipped at the smallest
            normal number.
        depth_shards: number of devices that the depth is divided over, on a mesh of Auto axes, which the arrays do not
            show; it decides how the volume is gone through, not the result.

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

    terms: Mapping[str, float] = Terms({BASELINE: 1.0, "adaptive_region_specific": 1.0})
    _: dataclasses.KW_ONLY
    ignore_label: int | None = None
    spatial_dims: Literal[2, 3] = 3
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
    cross_entropy_class_weights: tuple[float, ...] | None = None
    regions: int | tuple[int, ...] | RegionSize | None = 16
    levels: int = 1
    absent_classes: AbsentClasses | None = None
    include_background: bool = True
    class_weights: tuple[float, ...] | None = None
    batch_dice: bool = False
    reduction: Reduction = "class_mean"
    eps: float = 1e-7
    from_probabilities: bool = False
    depth_shards: int = 1

    def __post_init__(self) -> None:
        _check_terms(self.terms)
        check_parameters({field.name: getattr(self, field.name) for field in dataclasses.fields(self)})
        check_word("reduction", self.reduction, Reduction)
        hashable: dict[str, Any] = {"terms": Terms(self.terms)}
        if isinstance(self.regions, RegionSize):
            _counts("regions", self.regions.voxels)
        elif self.regions is not None:
            hashable["regions"] = _counts("regions", self.regions)
        for name in ("class_weights", "cross_entropy_class_weights"):
            if isinstance(weights := getattr(self, name), list | np.ndarray):
                hashable[name] = tuple(float(weight) for weight in weights)
        for name, value in hashable.items():
            object.__setattr__(self, name, value)
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
        weighted = [term for term, weight in self.weights.items() if not _is_zero(weight)]
        summed = self.reduction == "sum" and any(term in weighted for term in self.regional_terms)
        return summed and "cross_entropy" in weighted and self.cross_entropy_reduction == "mean"

    @property
    def regional_parameters(self) -> dict[str, Any]:
        """What decides the regions' errors and penalties, by the names of `region_maps`' arguments."""
        measured = ("ignore_label", "spatial_dims", "regions")
        penalties = ("min_penalty", "penalty_range", "exponent", "adaptive_gradient", "eps")
        return {name: getattr(self, name) for name in (*measured, *penalties)}

    @names_arguments
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
Objective.__init__ = names_arguments(Objective.__init__)


def _check_terms(terms: Mapping[str, float]) -> None:
    known = [BASELINE, *VOLUME_TERMS, *REGIONAL_TERMS]
    if not isinstance(terms, Mapping) or not terms:
        raise ArgumentError("terms", terms, f"weights of one or more of {', '.join(known)}")
    for term, weight in terms.items():
        if term not in known:
            meant = suggest(str(term), known)
            hint = f" (did you mean {meant}?)" if meant else ""
            raise ArgumentError("terms", term, f"one of {', '.join(known)}{hint}")
        check_number(f"terms.{term}", weight, lambda number: 0 <= number < math.inf, "at least 0 and finite")


def _is_zero(weight: Any) -> bool:
    """Whether a weight is 0; a traced one may be anything."""
    return isinstance(weight, int | float) and weight == 0


def _counts(name: str, counts: Any) -> int | tuple[int, ...]:
    """Returns numbers per axis as plain integers."""
    if hasattr(counts, "ids") or np.ndim(counts) > 1:
        raise ArgumentError(name, counts, "numbers; give a RegionMap(ids, count) when the objective is called")
    several = not isinstance(counts, str) and np.ndim(counts) == 1
    try:
        for count in counts if several else [counts]:
            check_integer(name, count, least=1)
    except ArgumentError as error:
        raise ArgumentError(name, counts if several else error.found, error.wanted) from error
    return tuple(map(int, counts)) if several else int(counts)


def check_parameters(given: Mapping[str, Any]) -> None:
    """Raises an ArgumentError for the first parameter whose word is unknown or whose number is out of its range."""
    for name, allowed in (
        ("adaptive_gradient", AdaptiveGradient),
        ("cross_entropy_reduction", CrossEntropyReduction),
        ("spatial_dims", Literal[2, 3]),
        ("absent_classes", AbsentClasses),
    ):
        if given.get(name) is not None:
            check_word(name, given[name], allowed)
    for name in ("eps", "gamma"):
        check_positive(name, given.get(name))
    for name in ("levels", "depth_shards"):
        check_integer(name, given.get(name, 1), least=1)
    if given.get("ignore_label") is not None:
        check_integer("ignore_label", given["ignore_label"])
    for name in ("class_weights", "cross_entropy_class_weights"):
        check_weights(name, given.get(name))
    for name in ("min_penalty", "penalty_range", "exponent", "fp_weight", "fn_weight", "cross_entropy_weight"):
        check_number(name, given.get(name), lambda number: 0 <= number < math.inf, "at least 0 and finite")
    check_number("sensitivity_weight", given.get("sensitivity_weight"), lambda number: 0 <= number <= 1, "0 to 1")
    for pair in (("min_penalty", "penalty_range"), ("fp_weight", "fn_weight")):
        if all(_is_zero(given.get(name)) for name in pair):
            raise ArgumentError(", ".join(pair), "0, 0", "not both 0")
