"""Validation while training: DSC on whole prepared volumes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ars_jax.data.plan import Sample
from ars_jax.metrics.overlap import overlap_metrics
from ars_jax.predict import Network, predict_array


def validate(network: Network, samples: Sequence[Sample]) -> dict[str, Any]:
    """Predicts every sample and averages each organ's DSC (Eq. 1) over the cases that have or predict it.

    Args:
        network: the network as it is now.
        samples: prepared validation cases.

    Returns:
        `dsc`, organ to mean DSC or None where no case counts, and `mean_dsc`, the mean over organs.
    """
    organs = network.plan.labels
    scores: dict[str, list[float]] = {organ: [] for organ in organs}
    for sample in samples:
        predicted = predict_array(network, sample.image)
        for channel, organ in enumerate(organs, start=1):
            dsc = overlap_metrics(predicted == channel, sample.label == channel).dsc
            if sample.labelled[channel] and dsc is not None:
                scores[organ].append(dsc)
    means = {organ: float(np.mean(values)) if values else None for organ, values in scores.items()}
    counted = [mean for mean in means.values() if mean is not None]
    return {"dsc": means, "mean_dsc": float(np.mean(counted)) if counted else None}
