"""Overlap of two masks by counting voxels: DSC, recall and precision."""

from dataclasses import dataclass

import numpy as np

from ars_jax.errors import UserError


@dataclass(frozen=True)
class Overlap:
    """Overlap of a predicted and a reference mask.

    Args:
        dsc: Dice similarity coefficient in [0, 1]; None when both masks are empty.
        recall: share of the reference that was found, in [0, 1]; None when the reference is empty.
        precision: share of the prediction that is right, in [0, 1]; None when the prediction is empty.
        volume_prediction: voxels of the prediction.
        volume_reference: voxels of the reference.
    """

    dsc: float | None
    recall: float | None
    precision: float | None
    volume_prediction: int
    volume_reference: int


def overlap_metrics(prediction: np.ndarray, reference: np.ndarray) -> Overlap:
    """Counts how far two masks agree.

    With P predicted and G reference voxels: DSC is 2|P n G| / (|P| + |G|), recall |P n G| / |G| and precision
    |P n G| / |P|. An organ that is there and was not predicted (a miss) has DSC 0 and recall 0; one that was predicted
    and is not there (a false alarm) has DSC 0 and precision 0. A quotient without a denominator is None, so an organ
    that is in neither mask counts for nothing.

    Args:
        prediction: mask [z, y, x]; non-zero is inside.
        reference: mask of the same shape.

    Returns:
        The three fractions and both volumes in voxels.

    Raises:
        UserError: the masks differ in shape or are not 3-D.

    Source:
        Chen et al., adaptive region-specific losses, Eqs. 1, 10 and 11.
    """
    prediction, reference = boolean_masks(prediction, reference)
    predicted, present = int(np.count_nonzero(prediction)), int(np.count_nonzero(reference))
    common = int(np.count_nonzero(prediction & reference))
    return Overlap(
        dsc=2 * common / (predicted + present) if predicted + present else None,
        recall=common / present if present else None,
        precision=common / predicted if predicted else None,
        volume_prediction=predicted,
        volume_reference=present,
    )


def boolean_masks(prediction: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns two masks as booleans once it is sure that they can be compared.

    Args:
        prediction: mask [z, y, x]; non-zero is inside.
        reference: mask of the same shape.

    Returns:
        Both as boolean arrays.

    Raises:
        UserError: the masks differ in shape or are not 3-D.
    """
    if prediction.shape != reference.shape or prediction.ndim != 3:
        raise UserError(
            "prediction",
            found=f"shape {prediction.shape}",
            wanted=f"three axes and the reference's shape {reference.shape}",
            fix="bring both masks onto one grid",
        )
    return prediction.astype(bool, copy=False), reference.astype(bool, copy=False)
