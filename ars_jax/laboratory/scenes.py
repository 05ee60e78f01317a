"""What a picture of gradients shows: a prediction on the network's grid, and image and reference on the image's own."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from ars_jax.data.cases import Case as StoredCase
from ars_jax.data.cases import Dataset
from ars_jax.data.geometry import Geometry, mismatches
from ars_jax.data.labels import checked_labels
from ars_jax.data.plan import Plan
from ars_jax.data.prepare import prepare_image, read_case_label
from ars_jax.data.volumes import READABLE, Volume, canonical, read_volume, resample
from ars_jax.errors import UserError
from ars_jax.files import read_json
from ars_jax.laboratory.cases import Case, from_npz, from_phantom
from ars_jax.losses import merge_unlabelled
from ars_jax.predict import Network, predict_logits
from ars_jax.report.overlays import PLANES, Picture, display_window

CT_WINDOW = (-200.0, 400.0)
MARGIN = 3.0
"""Distance from a boundary, in mm, or voxels where only arrays were given, within which gradient is counted."""
MOST_ORGANS = 255
"""Class numbers of references and predictions are stored in one byte."""


@dataclass(frozen=True)
class Scene:
    """One prediction and what lies under it.

    Attributes:
        case: one sample, on the grid that its logits were computed on.
        grid: that grid; of 2-D arrays with a first side of 1, of arrays without geometry with a spacing of 1.
        image: on its own grid; zeros where only arrays were given.
        reference: channel numbers uint8 on the image's grid.
        window: intensities shown as black and as white.
        unit: of the grids' spacing: "mm", or "voxels" where only arrays were given.
    """

    case: Case
    grid: Geometry
    image: Volume
    reference: Volume
    window: tuple[float, float]
    unit: Literal["mm", "voxels"] = "mm"

    @property
    def prediction(self) -> np.ndarray:
        """The most probable class `[z, y, x]` uint8, on the logits' grid."""
        return self.case.logits[0].argmax(-1).astype(np.uint8).reshape(self.grid.shape)

    def on_image(self, values: np.ndarray, interpolation: Literal["linear", "nearest"], fill: float = 0.0) -> Volume:
        """Brings values `[*space]` of the logits' grid onto the image's; `fill` lies outside of the former."""
        volume = Volume(values.reshape(self.grid.shape), self.grid)
        if not mismatches(self.grid, self.image.geometry):
            return Volume(volume.array, self.image.geometry)
        return resample(volume, self.image.geometry, interpolation=interpolation, fill=fill)

    def shown(self, values: np.ndarray, interpolation: Literal["linear", "nearest"], fill: float = 0.0) -> np.ndarray:
        """The same in canonical orientation, as figures take it."""
        return canonical(self.on_image(values, interpolation, fill)).array


def from_case(case: Case) -> Scene:
    """Makes a scene of arrays or of the phantom; of a batch the first sample is taken.

    Args:
        case: from `laboratory.cases`.

    Returns:
        The scene.

    Raises:
        UserError: more than 255 organs.
    """
    if len(case.organs) > MOST_ORGANS:
        found, wanted = f"{len(case.organs)} organs", f"at most {MOST_ORGANS}"
        raise UserError(case.source, found=found, wanted=wanted, fix="leave some classes out")
    space = case.labels.shape[1:]
    z, y, x = (1, *space) if len(space) == 2 else space
    grid = case.geometry or Geometry((z, y, x), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    image = np.zeros(grid.shape, np.float32) if case.image is None else case.image.reshape(grid.shape)
    where = None if case.where is None else case.where[:1]
    first = replace(case, logits=case.logits[:1], labels=case.labels[:1], where=where)
    reference = Volume(first.labels[0].astype(np.uint8).reshape(grid.shape), grid)
    unit = "voxels" if case.geometry is None else "mm"
    return Scene(first, grid, Volume(image, grid), reference, CT_WINDOW, unit)


def from_run(network: Network, stored: StoredCase, labels: Mapping[str, int], source: str) -> Scene:
    """Predicts a case by a trained network.

    Args:
        network: from `predict.load_network`.
        stored: image and reference on disk.
        labels: organs of the reference and their values, in the order of the network's channels.
        source: where the case comes from, in a few words.

    Returns:
        The scene; the logits lie on the network's grid, organs that nobody drew are merged into the background.

    Raises:
        UserError: a file that cannot be read, prepared or does not fit the other, or other organs than the network's.
    """
    plan = network.plan
    if tuple(labels) != plan.labels:
        fix = "give a case with the organs of the run"
        raise UserError("labels", found=tuple(labels), wanted=plan.labels, fix=fix)
    image = read_volume(stored.image)
    reference = read_case_label(stored, labels, image.geometry)
    array, grid = prepare_image(image, plan, stored.image)
    label = resample(reference, grid, interpolation="nearest", fill=0).array.astype(np.int32)
    drawn = np.array([[True, *(organ not in stored.unlabelled for organ in plan.labels)]])
    logits = predict_logits(network, array)[None]
    if not np.isfinite(logits).all():
        found, fix = "logits that are NaN or infinite", "take another checkpoint"
        raise UserError(source, found=found, wanted="finite logits", fix=fix)
    if not drawn.all():
        logits = np.asarray(merge_unlabelled(jnp.asarray(logits), jnp.asarray(drawn)))
    case = Case(logits, label[None], plan.labels, image=array, geometry=grid, source=source, canvas=plan.canvas)
    return Scene(case, grid, image, reference, display_window(image.array, plan))


def places(scene: Scene) -> dict[str, np.ndarray]:
    """Finds parts of the volume: near a boundary of the reference, and wrongly predicted.

    Returns:
        Masks `[z, y, x]` by name; voxels that the case leaves out are in none.
    """
    where = counted(scene)
    labels = scene.case.labels[0].reshape(scene.grid.shape)
    near = near_boundary(labels, scene.grid.spacing, where=where)
    return {"near_boundary": near & where, "wrong": (scene.prediction != labels) & where}


def classes(scene: Scene) -> list[np.ndarray]:
    """Returns each class's part of the volume as a mask `[z, y, x]`, without voxels that the case leaves out."""
    where, labels = counted(scene), scene.case.labels[0].reshape(scene.grid.shape)
    return [(labels == number) & where for number in range(1 + len(scene.case.organs))]


def counted(scene: Scene) -> np.ndarray:
    """Returns the voxels `[z, y, x]` that take part in sums."""
    where = scene.case.where
    return np.ones(scene.grid.shape, bool) if where is None else where[0].reshape(scene.grid.shape)


def near_boundary(
    labels: np.ndarray, spacing: tuple[float, ...], margin: float = MARGIN, where: np.ndarray | None = None
) -> np.ndarray:
    """Finds the voxels that lie within a distance of a boundary between labels.

    Args:
        labels: `[z, y, x]`.
        spacing: z, y, x.
        margin: largest distance, in the unit of the spacing, between a voxel's centre and that of a voxel that has a
            neighbour of another label.
        where: `[z, y, x]`; voxels where it is false have no label, and so no boundary.

    Returns:
        bool `[z, y, x]`.
    """
    edge = np.zeros(labels.shape, bool)
    where = np.ones(labels.shape, bool) if where is None else where
    for axis in range(labels.ndim):
        line, known, values = (np.moveaxis(part, axis, 0) for part in (edge, where, labels))
        differs = (values[1:] != values[:-1]) & known[1:] & known[:-1]
        line[:-1] |= differs
        line[1:] |= differs
    if not edge.any():
        return edge
    return np.asarray(ndimage.distance_transform_edt(~edge, spacing)) <= margin


def picture_of(scene: Scene) -> Picture:
    """Makes what figures draw: image, reference and prediction in canonical orientation."""
    return Picture(
        image=canonical(scene.image).array,
        reference=canonical(scene.reference).array,
        predictions=(scene.shown(scene.prediction, "nearest"),),
        spacing=canonical(scene.image).geometry.spacing,
        window=scene.window,
    )


def fullest_plane(picture: Picture, organ: int) -> str:
    """Finds the plane in which a slice shows most of an organ's reference, in mm²."""
    mask = picture.reference == organ
    area = np.prod(picture.spacing) / np.array(picture.spacing)
    counts = [mask.sum(others).max() for others in ((1, 2), (0, 2), (0, 1))]
    return PLANES[int(np.argmax(counts * area))] if picture.image.shape[0] > 1 else PLANES[0]


def scene_of_arrays(arrays: Path | None, seed: int, **named: object) -> Scene:
    """Makes the scene of `ars-jax gradients` without a run: of a file, or of a phantom.

    Args:
        arrays: an .npz file, see `cases.from_npz`; None takes a phantom.
        seed: decides the phantom.
        **named: what may be named of a run's cases, all None here.

    Returns:
        The scene.

    Raises:
        UserError: something is named that only a run has, or the file does not fit.
    """
    for name, value in named.items():
        if value is not None:
            raise _unclear(f"--{name} without --run")
    return from_case(from_phantom(seed) if arrays is None else from_npz(arrays))


def predicted_scene(
    network: Network,
    validation: Callable[[], tuple[Dataset, Sequence[StoredCase], int]],
    *,
    case: str | None = None,
    image: Path | None = None,
    labels: Path | None = None,
    arrays: Path | None = None,
    values: Mapping[str, int] | None = None,
) -> Scene:
    """Makes the scene of `ars-jax gradients` with a run: of a validation case, or of an image and its reference.

    Args:
        network: the run's.
        validation: finds the run's data set and validation cases.
        case: the name of one of them; the first unless given.
        image: instead, a volume file or DICOM folder, with
        labels: a label map, or a folder of one mask per organ.
        arrays: None; a file of arrays needs no run.
        values: see `stored_case`.

    Returns:
        The scene.

    Raises:
        UserError: arguments that do not name one case, or files that do not fit.
    """
    if arrays is not None:
        raise _unclear("both --run and --arrays")
    if (image is None) != (labels is None):
        raise _unclear("one of --image and --labels")
    if image is not None and labels is not None:
        if case is not None:
            raise _unclear("--case together with --image")
        stored, table = stored_case(image, labels, network.plan, values)
        return from_run(network, stored, table, str(image))
    dataset, cases, _ = validation()
    known = {stored.name: stored for stored in cases}
    name = next(iter(known)) if case is None else case
    if name not in known:
        fix = "name one of these, or give --image and --labels"
        raise UserError("case", found=name, wanted=f"a validation case: {', '.join(known)}", fix=fix)
    return from_run(network, known[name], dataset.labels, f"{name} of {dataset.root}")


def _unclear(found: str) -> UserError:
    wanted = "--run RUN, alone, with --case or with --image and --labels; or --arrays FILE; or none, for a phantom"
    return UserError("ars-jax gradients", found=found, wanted=wanted, fix="see ars-jax gradients --help")


def stored_case(image: Path, labels: Path, plan: Plan, values: Mapping[str, int] | None) -> tuple[StoredCase, dict]:
    """Joins an image and its reference, wherever they lie.

    Args:
        image: a volume file, or a folder with one DICOM series.
        labels: a label map, or a folder of one mask per organ, named by organ.
        plan: names the organs.
        values: of the organs in the label map, unless a labels.json lies beside it; None counts from 1.

    Returns:
        The case, and the values of the plan's organs in its channel order.

    Raises:
        UserError: a folder without a mask of any organ, or a table that lacks an organ.
    """
    table = dict(values or {organ: number for number, organ in enumerate(plan.labels, start=1)})
    if labels.is_dir():
        names = {organ: [labels / f"{organ}{ending}" for ending in READABLE] for organ in plan.labels}
        masks = {organ: path for organ, paths in names.items() for path in paths if path.is_file()}
        if not masks:
            found, fix = "no mask of the run's organs", "name the masks by organ, or give a label map"
            raise UserError(labels, found=found, wanted=f"files such as {plan.labels[0]}.nii.gz", fix=fix)
        return StoredCase(image.name, image, masks=masks), {organ: table[organ] for organ in plan.labels}
    beside = labels.parent / "labels.json"
    if beside.is_file():
        table = checked_labels(beside, read_json(beside))
    if missing := [organ for organ in plan.labels if organ not in table]:
        raise UserError(beside, found=f"no {', '.join(missing)}", wanted="the run's organs", fix="add their values")
    chosen = {organ: table[organ] for organ in plan.labels}
    others = tuple(value for organ, value in table.items() if organ not in chosen)
    return StoredCase(image.name, image, label=labels, others=others), chosen
