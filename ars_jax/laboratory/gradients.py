"""`ars-jax gradients`: where each objective puts its gradient on one prediction, as volumes, numbers and figures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich import box
from rich.table import Table

from ars_jax.data.volumes import write_volume
from ars_jax.errors import UserError
from ars_jax.files import write_arrays, write_json
from ars_jax.gradients.closed_form import effective_weights
from ars_jax.gradients.maps import (
    RegionMaps,
    critical_share,
    gradient_maps,
    gradient_norm,
    phase_diagram,
    region_maps,
    trained_regions,
    voxels_of_regions,
)
from ars_jax.laboratory.cases import Case
from ars_jax.laboratory.gradcheck import fitting_regions
from ars_jax.laboratory.scenes import MARGIN, Scene, classes, counted, fullest_plane, picture_of, places
from ars_jax.losses import Objective, region_bounds
from ars_jax.losses._checks import ArgumentError
from ars_jax.losses._objective import AdaptiveGradient
from ars_jax.report.gradients import RegionPanel, gradient_figure, regions_figure
from ars_jax.report.phase import Weights, phase_figure
from ars_jax.report.style import save_figure

Function = Callable[..., jax.Array]

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


def study(scene: Scene, config: Objective, out: Path, organ: str | None = None) -> dict[str, Any]:
    """Computes gradients and regional maps of a prediction and writes them with their figures.

    Args:
        scene: the prediction.
        config: regions, penalties, reduction and cross-entropy weight.
        out: gets `gradient_<objective>.nii.gz` on the image's grid, `regions.npz`, `summary.json` and the figures
            `gradients`, `regions` and `phase` as PNG and PDF.
        organ: the one whose regions are drawn; None takes the `worst_organ`.

    Returns:
        What summary.json holds.

    Raises:
        UserError: regions that do not fit the volume, an organ that is not there, or a place that cannot be written.
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
    config = replace(config, spatial_dims=case.labels.ndim - 1)
    where = None if case.where is None else jnp.asarray(case.where)
    arrays = jnp.asarray(case.logits), jnp.asarray(case.labels)
    try:
        maps = take_apart(config, *arrays, where)
    except ValueError as error:
        wanted = f"a division that fits {' x '.join(map(str, case.labels.shape[1:]))} voxels"
        raise UserError("regions", found=error, wanted=wanted, fix="give other --regions") from error
    pulls = measure(objectives(config), *arrays, where)
    chosen = case.organs.index(organ) + 1 if organ else worst_organ(scene, maps)
    summary = {
        **_about(scene, config),
        "volume": {"share": _shares(scene, np.ones(scene.grid.shape))},
        "objectives": {name: _about_pull(scene, pull) for name, pull in pulls.items()},
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
    config: Objective,
    case: Case,
    *,
    regions: int | Sequence[int] | None = None,
    min_penalty: float | None = None,
    penalty_range: float | None = None,
    adaptive_gradient: AdaptiveGradient | None = None,
    paper_regions: bool = False,
) -> Objective:
    """Changes a run's loss where options were given.

    Args:
        config: the run's, or the defaults.
        case: whose volume is divided; where it is larger than the canvas of its run, the run's regions
            become as many as have the size that was trained.
        regions: number per axis.
        min_penalty: smallest penalty.
        penalty_range: its range.
        adaptive_gradient: the mode.
        paper_regions: without regions, take the paper's 16 as far as the volume's sides allow, not the configuration's.

    Returns:
        The changed configuration.

    Raises:
        UserError: penalties out of their range, or regions that do not fit the case.
    """
    given = {"min_penalty": min_penalty, "penalty_range": penalty_range, "adaptive_gradient": adaptive_gradient}
    given = {name: value for name, value in given.items() if value is not None}
    if regions is not None or paper_regions:
        given["regions"] = fitting_regions(case, regions)
    else:
        given["regions"] = trained_regions(case.labels.shape[1:], case.canvas, config.regions)
    try:
        return replace(config, **given)
    except ArgumentError as error:
        fix = "the paper's are --min_penalty 0.3 --penalty_range 0.4"
        raise UserError(error.name, found=error.found, wanted=error.wanted, fix=fix) from error


def render(summary: Mapping[str, Any]) -> Table:
    """Makes the table for the screen from what `study` returns."""
    regions = summary["regions"]
    grid = " x ".join(map(str, regions["grid"]))
    sides = " x ".join(f"{low}" if low == high else f"{low}-{high}" for low, high in regions["sides"])
    how = f"penalties {summary['adaptive_gradient']}"
    title = f"{summary['source']}: {grid} regions of {sides} voxels, {how}"
    table = Table(title=title, title_style="", box=box.SIMPLE_HEAD)
    table.add_column("objective", no_wrap=True)
    for column in ("value", "gradient", "at a boundary", "on errors"):
        table.add_column(column, justify="right")
    rows = {**summary["objectives"], "part of the volume": summary["volume"]}
    for name, row in rows.items():
        share = [f"{row['share']['places'][place]:.1%}" for place in ("near_boundary", "wrong")]
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


def objectives(config: Objective) -> dict[str, Function]:
    """Makes the paper's baseline and both regional terms alone, with a configuration's options."""
    return {name: partial(_total, replace(config, terms={name: 1.0})) for name in TITLES}


def take_apart(config: Objective, logits: jax.Array, labels: jax.Array, where: jax.Array | None = None) -> RegionMaps:
    """Computes the regional maps with a configuration's options, see `region_maps`."""
    return region_maps(logits, labels, where=where, **config.regional_parameters)


def measure(
    functions: Mapping[str, Function], logits: jax.Array, labels: jax.Array, where: jax.Array | None
) -> dict[str, Pull]:
    """Computes value and gradient of every objective; of the first sample."""
    gradients = gradient_maps(functions, logits, labels, where)
    return {
        name: Pull(float(function(logits, labels, where)), gradient_norm(gradients[name])[0])
        for name, function in functions.items()
    }


def _total(weighted: Any, logits: jax.Array, labels: jax.Array, where: jax.Array | None = None) -> jax.Array:
    return weighted(logits, labels, where)[0]


def _about(scene: Scene, config: Objective) -> dict[str, Any]:
    return {
        "source": scene.case.source,
        "voxels": list(scene.grid.shape),
        "spacing": list(scene.grid.spacing),
        "unit": scene.unit,
        "min_penalty": config.min_penalty,
        "penalty_range": config.penalty_range,
        "adaptive_gradient": config.adaptive_gradient,
        "absent_classes": config.absent_classes,
        "reduction": config.reduction,
    }


def _about_pull(scene: Scene, pull: Pull) -> dict[str, Any]:
    total = float(pull.norm.sum(dtype=np.float64))
    return {"value": pull.value, "total_gradient": total, "share": _shares(scene, pull.norm)}


def _shares(scene: Scene, values: np.ndarray) -> dict[str, Any]:
    """Where a quantity of voxels lies, as parts of its sum over the voxels that count."""
    values = values.astype(np.float64).reshape(scene.grid.shape)
    total = float(values[counted(scene)].sum()) or 1.0
    background, *organs = (float(values[mask].sum() / total) for mask in classes(scene))
    return {
        "places": {name: float(values[mask].sum() / total) for name, mask in places(scene).items()},
        "background": background,
        "organs": dict(zip(scene.case.organs, organs, strict=True)),
    }


def _regions(scene: Scene, config: Objective, maps: RegionMaps) -> dict[str, Any]:
    """Per class: regions that have it, their mean loss, and those where false positives are rewarded."""
    rows = []
    for number in range(maps.present.shape[-1]):
        present, others, slope, loss = (
            part[0, ..., number] for part in (maps.present, maps.negatives, maps.effective_fp_weight, maps.loss)
        )
        row = {
            "present": int(present.sum()),
            "mean_loss": float(loss[present].mean()) if present.any() else None,
            "rewarding_false_positives": int(np.sum(present & (others > 0) & (slope < 0))),
        }
        rows.append(row)
    critical = (
        critical_share(min_penalty=config.min_penalty, penalty_range=config.penalty_range)
        if config.adaptive_gradient == "through"
        else None
    )
    grid = maps.present.shape[1:-1]
    sides = [[stop - start for start, stop in bounds] for bounds in region_bounds(scene.case.labels.shape[1:], grid)]
    return {
        "grid": list(grid),
        "sides": [[min(side), max(side)] for side in sides],
        "critical_share": critical,
        "background": rows[0],
        "organs": dict(zip(scene.case.organs, rows[1:], strict=True)),
    }


def worst_organ(scene: Scene, maps: RegionMaps) -> int:
    """Finds the organ to look at.

    Returns:
        The number of the organ with the highest mean loss over the regions that have it, among those whose prediction
        overlaps their reference if there are any: of an organ that was missed whole, all regions look alike.
    """
    axes = tuple(range(1, maps.loss.ndim - 1))
    regions = maps.present.sum(axes)[0, 1:]
    means = np.where(maps.present, maps.loss, 0).sum(axes)[0, 1:] / np.maximum(regions, 1)
    met = np.array([np.any(mask & (scene.prediction == number)) for number, mask in enumerate(classes(scene))])[1:]
    return 1 + int(np.argmax(np.where(regions > 0, means, -1) + 2 * met))


def density(scene: Scene, pull: Pull) -> np.ndarray:
    """Returns the part of an objective's gradient that lies in a voxel, in % per ml, or per voxel of bare arrays."""
    volume = float(np.prod(scene.grid.spacing)) / (1000 if scene.unit == "mm" else 1)
    return pull.norm * (100 / (float(pull.norm.sum(dtype=np.float64)) or 1.0) / volume)


def _gradient_figure(scene: Scene, pulls: Mapping[str, Pull], rows: Mapping[str, Any]) -> Any:
    densities, notes = {}, {}
    for name, pull in pulls.items():
        near = rows[name]["share"]["places"]["near_boundary"]
        densities[TITLES[name]] = scene.shown(density(scene, pull).astype(np.float32), "linear")
        notes[TITLES[name]] = f"{near:.0%} at a boundary ({MARGIN:g} {scene.unit})"
    return gradient_figure(picture_of(scene), scene.case.organs, densities, notes, scene.unit)


def region_panels(config: Objective, maps: RegionMaps, organ: int) -> list[RegionPanel]:
    """Chooses what is drawn of an organ's regions.

    Args:
        config: penalties and mode; where it skips absent classes, their regions have no value.
        maps: of the first sample of which panels are made.
        organ: its class.

    Returns:
        Eight panels whose values are those of the regions, `[*grid]`, NaN where there is none: errors below half a
        voxel, and weights of false positives in regions that the organ fills.
    """
    one = {name: values[0, ..., organ] for name, values in maps.arrays().items()}
    a, b = config.min_penalty, config.penalty_range
    fp, fn, present = one["false_positives"], one["false_negatives"], one["present"]
    taken = present | (config.absent_classes == "include")
    errors = (0.0, float(max(fp.max(), fn.max())) or 1.0)
    slopes = (a - b, a + b) if config.adaptive_gradient == "through" else (a, a + b)

    def panel(title: str, values: np.ndarray, where: np.ndarray, limits: Any, signed: bool = False) -> RegionPanel:
        return RegionPanel(title, np.where(where, values, np.nan), limits, signed)

    return [
        panel("false positives FP, voxels", fp, fp > LEAST_ERROR, errors),
        panel(r"penalty $\alpha$ on FP", one["alpha"], taken, (a, a + b)),
        panel("effective weight of FP", one["effective_fp_weight"], taken & (one["negatives"] > 0), slopes, True),
        panel("loss of the region", one["loss"], taken, (0, 1)),
        panel("false negatives FN, voxels", fn, fn > LEAST_ERROR, errors),
        panel(r"penalty $\beta$ on FN", one["beta"], taken, (a, a + b)),
        panel("effective weight of FN", one["effective_fn_weight"], taken, slopes, True),
        panel("regions with the organ", present.astype(np.float32), present, None),
    ]


def _regions_figure(scene: Scene, config: Objective, maps: RegionMaps, organ: int) -> Any:
    panels = [replace(part, values=_of_regions(scene, part.values)) for part in region_panels(config, maps, organ)]
    picture, name = picture_of(scene), scene.case.organs[organ - 1]
    grid = maps.present.shape[1:-1]
    numbers = _of_regions(scene, np.arange(np.prod(grid)).reshape(grid))
    return regions_figure(picture, organ, name, panels, numbers, fullest_plane(picture, organ), scene.unit)


def _of_regions(scene: Scene, values: np.ndarray) -> np.ndarray:
    """Gives every voxel of the image its region's value; NaN outside of the network's grid."""
    voxels = voxels_of_regions(values.astype(np.float32), scene.case.labels.shape[1:])
    return scene.shown(voxels, "nearest", np.nan)


def region_errors(maps: RegionMaps) -> tuple[np.ndarray, np.ndarray]:
    """Returns FP and FN, `[n]` each, of the first sample's pairs of region and organ in which both can be made."""
    pairs = (maps.present & (maps.negatives > 0))[0, ..., 1:]
    fp, fn = (
        np.asarray(errors)[0, ..., 1:][np.asarray(pairs)] for errors in (maps.false_positives, maps.false_negatives)
    )
    return fp, fn


def _phase_figure(config: Objective, maps: RegionMaps) -> Any:
    share = np.linspace(0, 1, 201)
    penalties: dict[str, Any] = {"min_penalty": config.min_penalty, "penalty_range": config.penalty_range}
    modes = []
    for mode in MODES:
        plane = phase_diagram(**penalties, adaptive_gradient=mode)
        along = np.stack(effective_weights(1 - share, share, **penalties, adaptive_gradient=mode))
        weights = (plane.effective_fp_weight, plane.effective_fn_weight)
        modes.append(Weights(mode, plane.false_positives, *weights, share, along))
    return phase_figure(modes, region_errors(maps), critical_share(**penalties))
