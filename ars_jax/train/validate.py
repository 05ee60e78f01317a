"""Validation while training: DSC on whole prepared volumes."""

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np

from ars_jax.data.plan import Sample
from ars_jax.metrics.overlap import overlap_metrics
from ars_jax.predict import Network, predict_array
from ars_jax.processes import gather


def validate(network: Network, samples: Sequence[Sample], at: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Predicts every sample and averages each organ's DSC (Eq. 1) over the cases that have or predict it.

    Several processes share the cases: each predicts its own, and all get the means over those of all.

    Args:
        network: the network as it is now.
        samples: prepared validation cases of this process, dealt out one by one (`Inputs.validation`).
        at: is told what the validation is at.

    Returns:
        `dsc`, organ to mean DSC or None where no case counts, and `mean_dsc`, the mean over organs.
    """
    organs = network.plan.labels
    own: list[list[float | None]] = []
    for sample in samples:
        at(f"validating {sample.name}")
        own.append(_dsc_of_organs(network, sample))
    at("waiting for the validation of the other processes")
    shares = gather(own)
    # In the order of the cases, so that the sums do not depend on the number of processes.
    dealt = [case for turn in zip_longest(*shares) for case in turn if case is not None]
    means = {organ: _mean([case[number] for case in dealt]) for number, organ in enumerate(organs)}
    return {"dsc": means, "mean_dsc": _mean(list(means.values()))}


def _dsc_of_organs(network: Network, sample: Sample) -> list[float | None]:
    """The DSC of every organ; None where nobody drew it, or nobody has it."""
    predicted = predict_array(network, sample.image)
    return [
        overlap_metrics(predicted == channel, sample.label == channel).dsc if sample.labelled[channel] else None
        for channel in range(1, len(network.plan.labels) + 1)
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    counted = [value for value in values if value is not None]
    return float(np.mean(counted)) if counted else None
