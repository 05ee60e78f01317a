"""Losses of logits and labels: declarations, which `evaluate_loss` computes.

Each function is its signature, its documentation and the name of its equation; the decorator does the rest.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Literal, ParamSpec

import jax

from ars_jax.losses._checks import check_word, names_arguments
from ars_jax.losses._documented import documented
from ars_jax.losses._evaluate import evaluate_loss
from ars_jax.losses._objective import AbsentClasses, AdaptiveGradient, CrossEntropyReduction, Objective
from ars_jax.losses._reduction import Reduction
from ars_jax.losses._regions import Regions
from ars_jax.losses._types import ClassWeights, Labels, Logits, Loss, Mask, Scalar

P = ParamSpec("P")


def _declared(function: Callable[P, jax.Array]) -> Callable[P, jax.Array]:
    """Computes the loss that a function without a body declares."""
    signature = inspect.signature(function)

    @wraps(function)
    def evaluated(*args: P.args, **kwargs: P.kwargs) -> jax.Array:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return evaluate_loss(function.__name__, **bound.arguments)

    return names_arguments(documented(evaluated))


@_declared
def dice(
    logits: Logits,
    labels: Labels,
    *,
    where: Mask | None = None,
    ignore_label: int | None = None,
    spatial_dims: Literal[2, 3] = 3,
    squared: bool = True,
    regions: Regions | None = None,
    levels: int = 1,
    absent_classes: AbsentClasses | None = None,
    include_background: bool = True,
    class_weights: ClassWeights | None = None,
    batch_dice: bool = False,
    reduction: Reduction = "sum",
    eps: float = 1e-7,
    from_probabilities: bool = False,
) -> Loss:
    """Dice loss, summed over classes: `sum_c 1 - (2I + eps) / (P2 + G + eps)` (Eq. 2).

    I sums the probability of a class over its own voxels, P2 the squared probability and G the reference over all.
    Departure: Eq. 3, the printed gradient, has the sign of the coefficient's gradient; this is the loss's own.

    Returns:
        A scalar, the mean over the batch, within [0, c] for hard labels; or the values `[b, *grid, c]`.

    Examples:
        >>> import numpy as np
        >>> from ars_jax import losses
        >>> labels = np.arange(64).reshape(1, 4, 4, 4) % 2
        >>> logits = 8 * np.eye(2, dtype=np.float32)[labels]  # [batch, z, y, x, classes]
        >>> print(f"{losses.dice(logits, labels):.2e}")
        2.25e-07
        >>> losses.dice(logits, labels, reduction="none").shape  # [batch, classes]
        (1, 2)

    References:
        Milletari et al., V-Net, 3DV 2016; Chen et al., TPAMI 2023, Eq. 2.
    """
    ...


@_declared
def tversky(
    logits: Logits,
    labels: Labels,
    *,
    where: Mask | None = None,
    ignore_label: int | None = None,
    spatial_dims: Literal[2, 3] = 3,
    fp_weight: float = 0.3,
    fn_weight: float = 0.7,
    regions: Regions | None = None,
    levels: int = 1,
    absent_classes: AbsentClasses | None = None,
    include_background: bool = True,
    class_weights: ClassWeights | None = None,
    batch_dice: bool = False,
    reduction: Reduction = "sum",
    eps: float = 1e-7,
    from_probabilities: bool = False,
) -> Loss:
    """Tversky loss, summed over classes: `sum_c 1 - (I + eps) / (I + fp_weight FP + fn_weight FN + eps)` (Eq. 5).

    Returns:
        A scalar, the mean over the batch; or the values `[b, *grid, c]`.

    Examples:
        >>> import numpy as np
        >>> from ars_jax import losses
        >>> labels = np.arange(64).reshape(1, 4, 4, 4) % 2
        >>> logits = np.zeros((1, 4, 4, 4, 2), np.float32)  # FP = FN = I
        >>> print(f"{losses.tversky(logits, labels, fp_weight=1, fn_weight=1):.4f}")
        1.3333

    References:
        Salehi et al., MLMI 2017; Chen et al., TPAMI 2023, Eq. 5.
    """
    ...


@_declared
def focal_tversky(
    logits: Logits,
    labels: Labels,
    *,
    where: Mask | None = None,
    ignore_label: int | None = None,
    spatial_dims: Literal[2, 3] = 3,
    fp_weight: float = 0.3,
    fn_weight: float = 0.7,
    gamma: float = 4 / 3,
    regions: Regions | None = None,
    levels: int = 1,
    absent_classes: AbsentClasses | None = None,
    include_background: bool = True,
    class_weights: ClassWeights | None = None,
    batch_dice: bool = False,
    reduction: Reduction = "sum",
    eps: float = 1e-7,
    from_probabilities: bool = False,
) -> Loss:
    """Focal Tversky loss, summed over classes: the Tversky loss of each class to the power `1 / gamma`.

    Departures: below 1e-6 the power is its chord through 0, whose slope is finite. The source calls the weight on false
    negatives alpha; the names here say what is weighted.

    Returns:
        A scalar, the mean over the batch; or the values `[b, *grid, c]`.

    Examples:
        >>> import numpy as np
        >>> from ars_jax import losses
        >>> labels = np.arange(64).reshape(1, 4, 4, 4) % 2
        >>> logits = np.zeros((1, 4, 4, 4, 2), np.float32)
        >>> print(f"{losses.focal_tversky(logits, labels, gamma=1):.4f} {losses.focal_tversky(logits, labels):.4f}")
        1.0000 1.1892

    References:
        Abraham & Khan, ISBI 2019.
    """
    ...


@_declared
def generalized_dice(
    logits: Logits,
    labels: Labels,
    *,
    where: Mask | None = None,
    ignore_label: int | None = None,
    spatial_dims: Literal[2, 3] = 3,
    regions: Regions | None = None,
    levels: int = 1,
    absent_classes: AbsentClasses | None = None,
    include_background: bool = True,
    class_weights: ClassWeights | None = None,
    batch_dice: bool = False,
    reduction: Reduction = "sum",
    eps: float = 1e-7,
    from_probabilities: bool = False,
) -> Loss:
    """Generalised Dice loss of all classes, `1 - (2 sum_c w I + eps) / (sum_c w (P + G) + eps)`, `w = 1 / G^2`.

    Classes without reference are left out unless `absent_classes="include"`, which gives them the largest of the finite
    weights. Departures: the weights are scaled so that the largest w G is 1, since plain weights are swamped by eps in
    large organs; soft references of less than a voxel weigh as one voxel.

    Returns:
        A scalar, the mean over the batch, within [0, 1] for one region; or the values `[b, *grid, 1]`.

    Examples:
        >>> import numpy as np
        >>> from ars_jax import losses
        >>> labels = np.arange(64).reshape(1, 4, 4, 4) % 2
        >>> print(f"{losses.generalized_dice(np.zeros((1, 4, 4, 4, 2), np.float32), labels):.4f}")
        0.5000

    References:
        Sudre et al., DLMIA 2017.
    """
    ...


@_declared
def sensitivity_specificity(
    logits: Logits,
    labels: Labels,
    *,
    where: Mask | None = None,
    ignore_label: int | None = None,
    spatial_dims: Literal[2, 3] = 3,
    sensitivity_weight: float = 0.05,
    regions: Regions | None = None,
    levels: int = 1,
    absent_classes: AbsentClasses | None = None,
    include_background: bool = True,
    class_weights: ClassWeights | None = None,
    batch_dice: bool = False,
    reduction: Reduction = "sum",
    eps: float = 1e-7,
    from_probabilities: bool = False,
) -> Loss:
    """Sensitivity-specificity loss, summed over classes.

    `r sum (1 - p)^2 g / (G + eps) + (1 - r) sum p^2 (1 - g) / (N - G + eps)`: the mean squared error over a class's
    voxels, weighted by r, and over all others. The paper gives no r; Brosch & Tam find 0.01 to 0.10 alike.

    Returns:
        A scalar, the mean over the batch; or the values `[b, *grid, c]`.

    Examples:
        >>> import numpy as np
        >>> from ars_jax import losses
        >>> labels = np.arange(64).reshape(1, 4, 4, 4) % 2
        >>> print(f"{losses.sensitivity_specificity(np.zeros((1, 4, 4, 4, 2), np.float32), labels):.4f}")
        0.5000

    References:
        Brosch et al., IEEE TMI 2016.
    """
    ...


@_declared
def region_specific(
    logits: Logits,
    labels: Labels,
    *,
    where: Mask | None = None,
    ignore_label: int | None = None,
    spatial_dims: Literal[2, 3] = 3,
    squared: bool = True,
    regions: Regions | None = 16,
    levels: int = 1,
    absent_classes: AbsentClasses | None = None,
    include_background: bool = True,
    class_weights: ClassWeights | None = None,
    batch_dice: bool = False,
    reduction: Reduction = "sum",
    eps: float = 1e-7,
    from_probabilities: bool = False,
) -> Loss:
    """Region-specific loss: the Dice loss of every region, summed over regions and classes (Eq. 4).

    Departure: the paper says that skipping absent classes does not change the gradient. With eps in the numerator it
    does: in a region of 1152 voxels without the class the gradient is 1e-7 per voxel at p = 1e-2 and 60 at p = 5e-6.

    Returns:
        A scalar, the mean over the batch; or the values `[b, *grid, c]`.

    Examples:
        >>> import numpy as np
        >>> from ars_jax import losses
        >>> labels = np.arange(64).reshape(1, 4, 4, 4) % 2
        >>> logits = np.zeros((1, 4, 4, 4, 2), np.float32)
        >>> print(f"{losses.region_specific(logits, labels, regions=2):.4f}")  # 8 regions, 2 classes
        5.3333

    References:
        Chen et al., TPAMI 2023, Eq. 4.
    """
    ...


@_declared
def adaptive_region_specific(
    logits: Logits,
    labels: Labels,
    *,
    where: Mask | None = None,
    ignore_label: int | None = None,
    spatial_dims: Literal[2, 3] = 3,
    min_penalty: float = 0.3,
    penalty_range: float = 0.4,
    exponent: float = 1.0,
    adaptive_gradient: AdaptiveGradient = "through",
    regions: Regions | None = 16,
    levels: int = 1,
    absent_classes: AbsentClasses | None = None,
    include_background: bool = True,
    class_weights: ClassWeights | None = None,
    batch_dice: bool = False,
    reduction: Reduction = "sum",
    eps: float = 1e-7,
    from_probabilities: bool = False,
) -> Loss:
    """Adaptive region-specific loss: every region's Tversky loss, with penalties that follow its errors (Eqs. 6-8).

    `sum_k sum_c 1 - (I + eps) / (I + alpha FP + beta FN + eps)` over regions k and classes c, where
    `alpha = A + B (FP + eps) / (FP + FN + eps)` and `beta = A + B (FN + eps) / (FP + FN + eps)`. The paper does not say
    whether the penalties are differentiated, see `adaptive_tversky_loss` for what follows from it.

    Returns:
        A scalar, the mean over the batch; or the values `[b, *grid, c]`.

    Examples:
        >>> import jax
        >>> import numpy as np
        >>> from ars_jax import losses
        >>> labels = np.arange(64).reshape(1, 4, 4, 4) % 2
        >>> logits = np.zeros((1, 4, 4, 4, 2), np.float32)
        >>> value, gradient = jax.value_and_grad(losses.adaptive_region_specific)(logits, labels, regions=2)
        >>> print(f"{value:.4f}", gradient.shape)
        8.0000 (1, 4, 4, 4, 2)
        >>> losses.adaptive_region_specific(logits, labels, regions=2, reduction="none").shape  # [b, *grid, c]
        (1, 2, 2, 2, 2)

    References:
        Chen et al., TPAMI 2023, Eqs. 6-8.
    """
    ...


@names_arguments
@documented
def cross_entropy(
    logits: Logits,
    labels: Labels,
    *,
    where: Mask | None = None,
    ignore_label: int | None = None,
    spatial_dims: Literal[2, 3] = 3,
    class_weights: ClassWeights | None = None,
    batch_dice: bool = False,
    reduction: Literal["mean", "sum", "none"] = "mean",
    from_probabilities: bool = False,
) -> Loss:
    """Cross-entropy of the whole volume, `-sum g log p` over voxels and classes (second term of Eq. 9).

    Args:
        reduction: `"mean"` over a sample's counted voxels, weighted by their classes, or over those of the batch with
            `batch_dice`, as in PyTorch; `"sum"`, the literal equation, about 1e7 at the start of training; `"none"`,
            each sample's mean.

    Returns:
        A scalar, the mean over the batch; or the samples' values `[b, 1]`.

    Examples:
        >>> import numpy as np
        >>> from ars_jax import losses
        >>> labels = np.arange(64).reshape(1, 4, 4, 4) % 2
        >>> print(f"{losses.cross_entropy(np.zeros((1, 4, 4, 4, 2), np.float32), labels):.4f}")  # log 2
        0.6931

    References:
        Chen et al., TPAMI 2023, Eq. 9.
    """
    check_word("reduction", reduction, Literal["mean", "sum", "none"])
    return evaluate_loss(
        "cross_entropy",
        logits,
        labels,
        where=where,
        ignore_label=ignore_label,
        spatial_dims=spatial_dims,
        class_weights=class_weights,
        batch_dice=batch_dice,
        reduction="none" if reduction == "none" else "sum",
        cross_entropy_reduction="sum" if reduction == "sum" else "mean",
        from_probabilities=from_probabilities,
    )


@names_arguments
@documented
def baseline(
    logits: Logits,
    labels: Labels,
    *,
    where: Mask | None = None,
    ignore_label: int | None = None,
    spatial_dims: Literal[2, 3] = 3,
    squared: bool = True,
    cross_entropy_weight: float = 1.0,
    cross_entropy_reduction: CrossEntropyReduction = "mean",
    include_background: bool = True,
    class_weights: ClassWeights | None = None,
    batch_dice: bool = False,
    eps: float = 1e-7,
    from_probabilities: bool = False,
) -> Scalar:
    """The paper's baseline: Dice summed over classes plus weighted cross-entropy of the whole volume (Eq. 9).

    Departure: the cross-entropy is a mean, since the paper's sum over voxels is about 1e7 beside a Dice loss of at most
    c, and its weight lambda is not given. `include_background` and `class_weights` concern the Dice loss.

    Returns:
        A scalar, the mean over the batch.

    Examples:
        >>> import numpy as np
        >>> from ars_jax import losses
        >>> labels = np.arange(64).reshape(1, 4, 4, 4) % 2
        >>> print(f"{losses.baseline(np.zeros((1, 4, 4, 4, 2), np.float32), labels):.4f}")
        1.3598

    References:
        Chen et al., TPAMI 2023, Eq. 9.
    """
    objective = Objective(
        {"baseline": 1},
        ignore_label=ignore_label,
        spatial_dims=spatial_dims,
        squared=squared,
        cross_entropy_weight=cross_entropy_weight,
        cross_entropy_reduction=cross_entropy_reduction,
        include_background=include_background,
        class_weights=class_weights,  # type: ignore[arg-type]
        batch_dice=batch_dice,
        eps=eps,
        from_probabilities=from_probabilities,
    )
    return objective(logits, labels, where)[0]
