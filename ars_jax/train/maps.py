"""Regional maps of a validation case while training: how errors and penalties move from epoch to epoch."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from ars_jax.data.plan import Sample
from ars_jax.files import write_arrays
from ars_jax.gradients.maps import region_maps, trained_regions
from ars_jax.losses import Objective, merge_unlabelled
from ars_jax.predict import Network, predict_logits


def write_maps(path: Path, network: Network, sample: Sample, objective: Objective) -> None:
    """Predicts a prepared case and writes the maps of its regions, whatever the objective is.

    Args:
        path: an .npz file; it holds the arrays of `gradients.maps.RegionMaps`, `[1, *grid, c]`, the names of the
            `classes` and that of the `case`.
        network: the network as it is now.
        sample: the case, whose whole volume is divided, where it is larger than the canvas into regions of the size
            that is trained; classes that nobody drew are merged into the background.
        objective: regions and penalties.

    Raises:
        UserError: the place cannot be written.
    """
    logits = merge_unlabelled(
        jnp.asarray(predict_logits(network, sample.image)[None]), jnp.asarray(sample.labelled[None])
    )
    regions = trained_regions(sample.label.shape, network.plan.canvas, objective.regions)
    parameters = {**objective.regional_parameters, "regions": regions}
    maps = region_maps(logits, sample.label[None].astype(np.int32), **parameters)
    write_arrays(path, {**maps.arrays(), "classes": ("background", *network.plan.labels), "case": sample.name})
