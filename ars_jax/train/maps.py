"""Regional maps of a validation case while training: how errors and penalties move from epoch to epoch."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from ars_jax.config import LossConfig
from ars_jax.data.plan import Sample
from ars_jax.files import write_arrays
from ars_jax.gradients.maps import region_maps, trained_grid
from ars_jax.losses import marginal_logits
from ars_jax.losses.compose import grid_or_paper
from ars_jax.predict import Network, predict_logits


def write_maps(path: Path, network: Network, sample: Sample, config: LossConfig) -> None:
    """Predicts a prepared case and writes the maps of its regions, whatever the objective is.

    Args:
        path: an .npz file; it holds the arrays of `gradients.maps.RegionMaps`, `[1, *grid, c]`, the names of the
            `classes` and that of the `case`.
        network: the network as it is now.
        sample: the case, whose whole volume is divided, where it is larger than the canvas into regions of the size
            that is trained; classes that nobody drew are merged into the background.
        config: grid and penalties.

    Raises:
        UserError: the place cannot be written.
    """
    logits = marginal_logits(
        jnp.asarray(predict_logits(network, sample.image)[None]), jnp.asarray(sample.labelled[None])
    )
    grid, canvas = grid_or_paper(config.grid, config.region_size, None), network.plan.canvas
    if grid is not None and canvas is not None:
        grid = trained_grid(sample.label.shape, canvas, grid)
    maps = region_maps(
        logits,
        sample.label[None].astype(np.int32),
        grid=grid,
        region_size=config.region_size,
        a=config.a,
        b=config.b,
        adaptive_gradient=config.adaptive_gradient,
        eps=config.eps,
    )
    write_arrays(path, {**maps.arrays(), "classes": ("background", *network.plan.labels), "case": sample.name})
