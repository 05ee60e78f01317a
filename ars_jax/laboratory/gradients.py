"""`ars-jax gradients`: where each objective puts its gradient on one prediction, as volumes, numbers and figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich import box
from rich.table import Table
from scipy import ndimage

from ars_jax import losses
from ars_jax.config import LossConfig
from ars_jax.data.volumes import canonical, write_volume
from ars_jax.errors import UserError
from ars_jax.files import write_arrays, write_json
from ars_jax.gradients.closed_form import effective_weights
from ars_jax.gradients.maps import (
    Objective,
    RegionMaps,
    critical_share,
    gradient_maps,
    gradient_norm,
    phase_diagram,
    region_maps,
    voxels_of_regions,
)
from ars_jax.laboratory.cases import Case
from ars_jax.laboratory.gradcheck import fitting_grid
from ars_jax.laboratory.scenes import Scene
from ars_jax.losses.overlap import AdaptiveGradient
from ars_jax.report.gradients import RegionPanel, gradient_figure, regions_figure
from ars_jax.report.overlays import PLANES, Picture
from ars_jax.report.phase import Weights, phase_figure
from ars_jax.report.style import save_figure

MARGIN = 3.0
"""Distance from a boundary, in mm, or voxels where only arrays were given, within which gradient is counted."""
LEAST_ERROR = 0.5
"""Voxels of error below which a region is drawn without colour."""
MODES: tuple[AdaptiveGradient, ...] = ("through", "stop")
TITLES = {
    "baseline": "Dice + cross-entropy",
    "region_specific": "region-specific",
    "adaptive_region_specific": "adaptive region-specific",
}


@dataclass(frozen=True)
class Pull:
    """The gradient of one objective.

    Attributes:
        value: of the objective.
        norm: length of each voxel's gradient by its logits, `[*space]`.
    """

    value: float
    norm: np.ndarray


def study(scene: Scene, config: LossConfig, out: Path, organ: str | None = None) -> dict[str, Any]:
    """Computes gradients and regional maps of a prediction and writes them with their figures.

    Args:
        scene: the prediction.
        config: grid, penalties, reduction and weights of the objectives.
        out: gets `gradient_<objective>.nii.gz` on the image's grid, `regions.npz`, `summary.json` and the figures
            `gradients`, `regions` and `phase` as PNG and PDF.
        organ: the one whose regions are drawn; None takes that with the highest mean loss over its regions.

    Returns:
        What summary.json holds.

    Raises:
        UserError: a grid that does not fit the volume, an organ that is not there, or a place that cannot be written.
    """
    case = scene.case
    if out.exists() and not out.is_dir():
        raise UserError(out, found="a file", wanted="a folder", fix="choose another --out")
    if not case.organs:
        raise UserError(
            case.source, found="one class", wanted="background and organs", fix="give logits of all classes"
        )
    if organ is not None and organ not in case.organs:
        raise UserError("organ", found=organ, wanted=f"one of {', '.join(case.organs)}", fix="check the spelling")
    where = None if case.where is None else jnp.asarray(case.where)
    arrays = jnp.asarray(case.logits), jnp.asarray(case.labels)
    try:
        maps = take_apart(config, *arrays, where)
    except ValueError as error:
        wanted = f"a division that fits {' x '.join(map(str, case.labels.shape[1:]))} voxels"
        raise UserError("grid", found=error, wanted=wanted, fix="give another --grid") from error
    pulls = measure(objectives(config), *arrays, where)
    chosen = case.organs.index(organ) + 1 if organ else _worst(maps)
    places = _places(scene)
    summary = {
        **_about(scene, config),
        "volume": {"share": {name: float(mask.mean()) for name, mask in places.items()}},
        "objectives": {name: _shares(places, pull) for name, pull in pulls.items()},
        "regions": _regions(scene, config, maps),
    }
    for name, pull in pulls.items():
        write_volume(out / f"gradient_{name}.nii.gz", scene.on_image(pull.norm, "linear"))
    write_arrays(out / "regions.npz", {**maps.arrays(), "classes": ("background", *case.organs)})
    save_figure(out / "gradients", _gradient_figure(scene, pulls, summary["objectives"]))
    save_figure(out / "regions", _regions_figure(scene, config, maps, chosen))
    save_figure(out / "phase", _phase_figure(config, maps))
    write_json(out / "summary.json", summary)
    return summary


def with_options(
    config: LossConfig,
    case: Case,
    *,
    grid: int | Sequence[int] | None = None,
    a: float | None = None,
    b: float | None = None,
    adaptive_gradient: AdaptiveGradient | None = None,
    whole_grid: bool = False,
) -> LossConfig:
    """Changes a run's loss where options were given.

    Args:
        config: the run's, or the defaults.
        case: whose volume is divided.
        grid: regions per axis.
        a: the smallest penalty.
        b: its range.
        adaptive_gradient: the mode.
        whole_grid: without a grid, take the paper's 16 as far as the volume's sides allow, not the configuration's.

    Returns:
        The changed configuration.

    Raises:
        UserError: penalties out of their range, or a grid that does not fit the case.
    """
    if grid is not None or whole_grid:
        config = replace(config, grid=fitting_grid(case, grid), region_size=None)
    given = {"a": a, "b": b, "adaptive_gradient": adaptive_gradient}
    config = replace(config, **{name: value for name, value in given.items() if value is not None})
    if not min(config.a, config.b) >= 0 < config.a + config.b < np.inf:
        wanted = "finite numbers of at least 0, not both 0"
        raise UserError("a, b", found=(config.a, config.b), wanted=wanted, fix="the paper's are --a 0.3 --b 0.4")
    return config


def render(summary: Mapping[str, Any]) -> Table:
    """Makes the table for the screen from what `study` returns."""
    regions = summary["regions"]
    grid = " x ".join(map(str, regions["grid"]))
    title = f"{summary['source']}: {grid} regions, penalties {summary['adaptive_gradient']}"
    table = Table(title=title, title_style="", box=box.SIMPLE_HEAD)
    table.add_column("objective", no_wrap=True)
    for column in ("value", "gradient", "at a boundary", "on errors"):
        table.add_column(column, justify="right")
    rows = {**summary["objectives"], "part of the volume": summary["volume"]}
    for name, row in rows.items():
        share = [f"{row['share'][place]:.1%}" for place in ("near_boundary", "wrong")]
        numbers = [f"{row[key]:.4g}" if key in row else "" for key in ("value", "total_gradient")]
        table.add_row(name, *numbers, *share)
    present, rewarded = (
        sum(row[key] for row in regions["organs"].values()) for key in ("present", "rewarding_false_positives")
    )
    table.caption = (
        f"gradient: sum over voxels; at a boundary: within {MARGIN:g} {summary['unit']} of its voxels; "
        f"{rewarded} of {present} pairs of region and organ reward false positives"
    )
    return table


def objectives(config: LossConfig) -> dict[str, Objective]:
    """Makes the paper's baseline and both regional terms alone, with a configuration's options."""
    terms = {
        "baseline": {"dice": 1.0, "cross_entropy": config.cross_entropy_weight},
        "region_specific": {"region_specific": 1.0},
        "adaptive_region_specific": {"adaptive_region_specific": 1.0},
    }
    how = {
        "grid": config.grid,
        "region_size": config.region_size,
        "a": config.a,
        "b": config.b,
        "adaptive_gradient": config.adaptive_gradient,
        "absent": config.absent,
        "reduction": config.reduction,
        "cross_entropy_reduction": config.cross_entropy_reduction,
        "eps": config.eps,
    }
    return {name: partial(_total, losses.weighted_sum(weights, **how)) for name, weights in terms.items()}


def take_apart(config: LossConfig, logits: jax.Array, labels: jax.Array, where: jax.Array | None = None) -> RegionMaps:
    """Computes the regional maps with a configuration's options, see `region_maps`."""
    return region_maps(
        logits,
        labels,
        grid=config.grid,
        region_size=config.region_size,
        a=config.a,
        b=config.b,
        adaptive_gradient=config.adaptive_gradient,
        eps=config.eps,
        where=where,
    )


def measure(
    functions: Mapping[str, Objective], logits: jax.Array, labels: jax.Array, where: jax.Array | None
) -> dict[str, Pull]:
    """Computes value and gradient of every objective; of the first sample."""
    gradients = gradient_maps(functions, logits, labels, where)
    return {
        name: Pull(float(function(logits, labels, where)), gradient_norm(gradients[name])[0])
        for name, function in functions.items()
    }


def near_boundary(labels: np.ndarray, spacing: tuple[float, ...], margin: float = MARGIN) -> np.ndarray:
    """Finds the voxels that lie within a distance of a boundary between labels.

    Args:
        labels: `[z, y, x]`.
        spacing: z, y, x.
        margin: largest distance, in the unit of the spacing, between a voxel's centre and that of a voxel that has a
            neighbour of another label.

    Returns:
        bool `[z, y, x]`.
    """
    edge = np.zeros(labels.shape, bool)
    for axis in range(labels.ndim):
        line = np.moveaxis(edge, axis, 0)
        differs = np.diff(np.moveaxis(labels, axis, 0).astype(np.int32), axis=0) != 0
        line[:-1] |= differs
        line[1:] |= differs
    if not edge.any():
        return edge
    return np.asarray(ndimage.distance_transform_edt(~edge, spacing)) <= margin


def _total(weighted: Any, logits: jax.Array, labels: jax.Array, where: jax.Array | None = None) -> jax.Array:
    return weighted(logits, labels, where)[0]


def _about(scene: Scene, config: LossConfig) -> dict[str, Any]:
    return {
        "source": scene.case.source,
        "voxels": list(scene.grid.shape),
        "spacing": list(scene.grid.spacing),
        "unit": scene.unit,
        "a": config.a,
        "b": config.b,
        "adaptive_gradient": config.adaptive_gradient,
        "absent": config.absent,
        "reduction": config.reduction,
    }


def _places(scene: Scene) -> dict[str, np.ndarray]:
    """Parts of the volume as masks: near a boundary of the reference, wrongly predicted, and each class."""
    labels = scene.case.labels[0].reshape(scene.grid.shape)
    places = {"near_boundary": near_boundary(labels, scene.grid.spacing), "wrong": scene.prediction != labels}
    return places | {name: labels == number for number, name in enumerate(("background", *scene.case.organs))}


def _shares(places: Mapping[str, np.ndarray], pull: Pull) -> dict[str, Any]:
    """Where an objective's gradient lies, as parts of the sum of its voxels' lengths."""
    norm = pull.norm.astype(np.float64)
    total = float(norm.sum())
    share = {place: float(norm[mask.reshape(norm.shape)].sum() / (total or 1.0)) for place, mask in places.items()}
    return {"value": pull.value, "total_gradient": total, "share": share}


def _regions(scene: Scene, config: LossConfig, maps: RegionMaps) -> dict[str, Any]:
    """Per class: regions that have it, their mean loss, and those where false positives are rewarded."""
    result = {}
    for number, name in enumerate(("background", *scene.case.organs)):
        present = maps.present[0, ..., number]
        loss, slope = (part[0, ..., number][present] for part in (maps.loss, maps.fp_slope))
        result[name] = {
            "present": int(present.sum()),
            "mean_loss": float(loss.mean()) if loss.size else None,
            "rewarding_false_positives": int((slope < 0).sum()),
        }
    critical = critical_share(a=config.a, b=config.b) if config.adaptive_gradient == "through" else None
    background = result.pop("background")
    return {
        "grid": list(maps.present.shape[1:-1]),
        "critical_share": critical,
        "background": background,
        "organs": result,
    }


def _worst(maps: RegionMaps) -> int:
    """The organ with the highest mean loss over the regions that have it."""
    axes = tuple(range(1, maps.loss.ndim - 1))
    counted = maps.present.sum(axes)[0, 1:]
    means = np.where(maps.present, maps.loss, 0).sum(axes)[0, 1:] / np.maximum(counted, 1)
    return 1 + int(np.argmax(np.where(counted > 0, means, -1)))


def _picture(scene: Scene) -> Picture:
    return Picture(
        image=canonical(scene.image).array,
        reference=canonical(scene.reference).array,
        predictions=(scene.shown(scene.prediction, "nearest"),),
        spacing=canonical(scene.image).geometry.spacing,
        window=scene.window,
    )


def _gradient_figure(scene: Scene, pulls: Mapping[str, Pull], shares: Mapping[str, Any]) -> Any:
    volume = float(np.prod(scene.grid.spacing)) / (1000 if scene.unit == "mm" else 1)
    densities, notes = {}, {}
    for name, pull in pulls.items():
        density = pull.norm * (100 / (float(pull.norm.sum()) or 1.0) / volume)
        densities[TITLES[name]] = scene.shown(density.astype(np.float32), "linear")
        notes[TITLES[name]] = f"{shares[name]['share']['near_boundary']:.0%} at a boundary ({MARGIN:g} {scene.unit})"
    return gradient_figure(_picture(scene), scene.case.organs, densities, notes, scene.unit)


def _regions_figure(scene: Scene, config: LossConfig, maps: RegionMaps, organ: int) -> Any:
    present = maps.present[0, ..., organ]
    a, b = config.a, config.b

    def panel(
        title: str, values: np.ndarray, limits: tuple[float, float] | None, where: np.ndarray | bool | None = None
    ) -> RegionPanel:
        """Where nothing else is said, regions that the loss skips have no value."""
        where = (present | (config.absent == "count")) if where is None else where
        return RegionPanel(title, _of_regions(scene, np.where(where, values[0, ..., organ], np.nan)), limits)

    fp, fn = maps.false_positives, maps.false_negatives
    errors = (0.0, float(max(fp[..., organ].max(), fn[..., organ].max())) or 1.0)
    slopes = (a - b, a + b) if config.adaptive_gradient == "through" else (a, a + b)
    panels = [
        panel("false positives FP, voxels", fp, errors, fp[0, ..., organ] > LEAST_ERROR),
        panel(r"penalty $\alpha$ on FP", maps.alpha, (a, a + b)),
        panel("effective weight of FP", maps.fp_slope, slopes),
        panel("loss of the region", maps.loss, (0, 1)),
        panel("false negatives FN, voxels", fn, errors, fn[0, ..., organ] > LEAST_ERROR),
        panel(r"penalty $\beta$ on FN", maps.beta, (a, a + b)),
        panel("effective weight of FN", maps.fn_slope, slopes),
        panel("regions with the organ", maps.present.astype(np.float32), None, present),
    ]
    picture, name = _picture(scene), scene.case.organs[organ - 1]
    numbers = _of_regions(scene, np.arange(present.size).reshape(present.shape))
    return regions_figure(picture, organ, name, panels, numbers, _fullest_plane(picture, organ), scene.unit)


def _of_regions(scene: Scene, values: np.ndarray) -> np.ndarray:
    """Gives every voxel of the image its region's value; NaN outside of the network's grid."""
    voxels = voxels_of_regions(values.astype(np.float32), scene.case.labels.shape[1:])
    return scene.shown(voxels, "nearest", np.nan)


def _fullest_plane(picture: Picture, organ: int) -> str:
    """The plane in which a slice shows most of an organ, in mm²."""
    mask = picture.reference == organ
    area = np.prod(picture.spacing) / np.array(picture.spacing)
    counts = [mask.sum(others).max() for others in ((1, 2), (0, 2), (0, 1))]
    return PLANES[int(np.argmax(counts * area))] if picture.image.shape[0] > 1 else PLANES[0]


def _phase_figure(config: LossConfig, maps: RegionMaps) -> Any:
    share = np.linspace(0, 1, 201)
    a, b = config.a, config.b
    modes = []
    for mode in MODES:
        plane = phase_diagram(a=a, b=b, adaptive_gradient=mode)
        along = np.stack(effective_weights(1 - share, share, a=a, b=b, adaptive_gradient=mode))
        modes.append(Weights(mode, plane.false_positives, plane.fp_slope, plane.fn_slope, share, along))
    organs = maps.present[0, ..., 1:]
    regions = tuple(part[0, ..., 1:][organs] for part in (maps.false_positives, maps.false_negatives))
    return phase_figure(modes, (regions[0], regions[1]), critical_share(a=a, b=b))
