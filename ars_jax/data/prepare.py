"""From a case on disk to the arrays the network sees, and from its label map back to the image's own grid.

All grids are compared and changed in physical space. A box of voxels is measured from edge to edge: cropping keeps
whole voxels, and resampling divides the same box into another number of voxels, so that no side grows or shrinks.
"""

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from ars_jax.data.cache import Fingerprint, cache_path, fingerprint, is_intact, sample_shape, save_sample
from ars_jax.data.cases import Case
from ars_jax.data.crop import crop_box
from ars_jax.data.geometry import Geometry, cropped, divided, mismatches
from ars_jax.data.layouts import read_label
from ars_jax.data.plan import MOST_VOXELS, Plan, Sample
from ars_jax.data.survey import as_float32
from ars_jax.data.volumes import Volume, canonical, read_volume, resample
from ars_jax.errors import UserError
from ars_jax.files import drop_temporaries
from ars_jax.locks import locked

ZSCORE_LIMIT = 5.0
_SMOOTH_ABOVE = 1.5


class Prepared(NamedTuple):
    """A prepared case on disk, for `cache.load_sample`, and what it was prepared from."""

    path: Path
    source: Fingerprint


def prepare_image(volume: Volume, plan: Plan, name: object = "image") -> tuple[np.ndarray, Geometry]:
    """Orients, crops, resamples and normalises an image.

    Resampling is linear. An axis that loses more than a third of its voxels (ratio r > 1.5) is smoothed before, by a
    Gaussian of (r - 1) / 2 voxels, so that fine structure does not alias.

    Args:
        volume: any orientation.
        plan: what to do.
        name: the file or case, for messages.

    Returns:
        The image float32 [z, y, x] in canonical orientation, and the grid that it lies on.

    Raises:
        UserError: NaN or infinity, nothing to crop to, or no contrast.
    """
    if not np.isfinite(volume.array).all():
        count = np.count_nonzero(~np.isfinite(volume.array))
        raise UserError(name, found=f"{count} voxels NaN or infinite", wanted="finite values", fix="export it again")
    whole = canonical(volume)
    box = crop_box(whole.array, whole.geometry.spacing, plan, name)
    source = cropped(whole.geometry, box)
    array = as_float32(whole.array[box])
    target = divided(source, prepared_shape(source, plan, name))
    if target.shape != source.shape:
        ratios = np.divide(source.shape, target.shape)
        sigma = np.where(ratios > _SMOOTH_ABOVE, (ratios - 1) / 2, 0)
        smooth = ndimage.gaussian_filter(array, sigma, mode="nearest") if sigma.any() else array
        array = resample(Volume(smooth, source), target, interpolation="linear", fill=float(smooth.min())).array
    return normalised(array, plan, name), target


def prepare_case(case: Case, labels: Mapping[str, int], plan: Plan) -> Sample:
    """Reads a case and prepares its image and label.

    Args:
        case: with a label map or masks.
        labels: organ names and their values on disk, in channel order.
        plan: what to do.

    Returns:
        The sample; image and label on the same grid.

    Raises:
        UserError: an unreadable file, no label, a label on another grid than its image, or what `prepare_image` raises.
    """
    if not case.labelled:
        raise UserError(f"case {case.name}", found="no label", wanted="a label map or masks", fix="add it, or the case")
    volume = read_volume(case.image)
    label = read_case_label(case, labels, volume.geometry)
    image, grid = prepare_image(volume, plan, f"case {case.name} ({case.image})")
    prepared = resample(label, grid, interpolation="nearest", fill=0)
    labelled = np.array([True, *(organ not in case.unlabelled for organ in labels)])
    return Sample(case.name, image, prepared.array.astype(np.uint8, copy=False), labelled)


def read_case_label(case: Case, labels: Mapping[str, int], geometry: Geometry) -> Volume:
    """Reads a case's label map on its image's grid; organs that the case calls unlabelled are background in it.

    Args:
        case: with a label map or masks.
        labels: organ names and their values on disk, in channel order.
        geometry: the image's grid.

    Returns:
        uint8 channel numbers.

    Raises:
        UserError: no label, an unreadable file, an unknown value, or a label on another grid.
    """
    label = read_label(case, labels, geometry)
    if differences := mismatches(label.geometry, geometry):
        raise UserError(
            f"case {case.name}",
            found="label with " + ", ".join(f"{item.kind} {item.found}" for item in differences),
            wanted="its image's " + ", ".join(f"{item.kind} {item.wanted}" for item in differences),
            fix="resample the label to the image's grid: ars-jax check --repair DIR",
        )
    undrawn = [channel for channel, organ in enumerate(labels, start=1) if organ in case.unlabelled]
    array = np.where(np.isin(label.array, undrawn), 0, label.array).astype(np.uint8) if undrawn else label.array
    # The image's grid stands in for the label's, which may differ by the rounding of its header.
    return Volume(array, geometry)


def prepare_dataset(
    cases: Sequence[Case],
    labels: Mapping[str, int],
    plan: Plan,
    cache: Path,
    progress: Callable[[int, int, str], None] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> list[Prepared]:
    """Prepares cases into a cache, in threads; a case that is there already, intact and up to date, is left alone.

    While another process prepares into the same cache, it is waited for.

    Args:
        cases: with labels.
        labels: organ names and their values on disk, in channel order.
        plan: what to do.
        cache: folder, made if need be. Several plans may share it.
        progress: called after every case, in order, with the number done, the number of all and the case's name.
        say: is told whom it waits for.

    Returns:
        One file per case, in the order of the cases.

    Raises:
        UserError: other labels than the plan's, or what `prepare_case` raises, of the first faulty case.
    """
    if tuple(labels) != plan.labels:
        raise UserError("labels", found=tuple(labels), wanted=plan.labels, fix="use the plan of this data set")

    def prepare(case: Case) -> Prepared:
        if case.fault is not None:  # which one that was prepared before, from one of its files, may not hide
            raise case.fault
        source = fingerprint(case, labels, plan)
        path = cache_path(cache, case, source.key)
        if not is_intact(path):
            save_sample(path, prepare_case(case, labels, plan))
        return Prepared(path, source)

    def wait(holder: str) -> None:
        say(f"waiting for {holder}, which prepares cases in {cache}")

    done: list[Prepared] = []
    with (
        locked(cache / ".lock", required=False, waiting=wait) as held,
        ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool,
    ):
        if held:
            drop_temporaries(cache)
        for case, prepared in zip(cases, pool.map(prepare, cases), strict=True):
            done.append(prepared)
            if progress is not None:
                progress(len(done), len(cases), case.name)
    return done


def complete_plan(plan: Plan, paths: Iterable[Path]) -> Plan:
    """Fills in what follows from the prepared training cases: the whole volumes' shape and, unless given, the canvas.

    Args:
        plan: as configured.
        paths: prepared training cases.

    Returns:
        The plan with `whole` and `canvas`; the cache made with the plan stays valid.
    """
    whole = canvas_for([sample_shape(path) for path in paths], plan.multiple)
    return replace(plan, whole=whole, canvas=plan.canvas or whole)


def restore_label(array: np.ndarray, prepared: Geometry, original: Geometry) -> Volume:
    """Brings a label map from the prepared grid back to an image's own grid, by nearest neighbour in physical space.

    Args:
        array: channel numbers [z, y, x] on the prepared grid, without padding.
        prepared: the grid that `prepare_image` returned.
        original: the image's grid, in any orientation.

    Returns:
        The label map on exactly the original grid; background where the image was cropped away.
    """
    return resample(Volume(array, prepared), original, interpolation="nearest", fill=0)


def prepared_shape(geometry: Geometry, plan: Plan, name: object = "image") -> tuple[int, ...]:
    """How many voxels the plan divides a cropped box into.

    Args:
        geometry: the cropped box's grid.
        plan: shape or spacing.
        name: the file or case, for messages.

    Returns:
        Voxels z, y, x: the plan's shape, or what comes nearest to the plan's spacing, or the grid's own.

    Raises:
        UserError: more voxels than fit anywhere.
    """
    if plan.shape is not None:
        return plan.shape
    if plan.spacing is None:
        return geometry.shape
    sides = np.maximum(1, np.rint(np.multiply(geometry.shape, np.divide(geometry.spacing, plan.spacing))))
    if sides.prod() > MOST_VOXELS:
        found = f"{' x '.join(f'{side:.4g}' for side in sides)} voxels of {plan.spacing} mm"
        fix = "choose a larger prepare.spacing, or correct the header's"
        raise UserError(name, found=found, wanted=f"at most {MOST_VOXELS} voxels", fix=fix)
    return tuple(map(int, sides))


def normalised(image: np.ndarray, plan: Plan, name: object = "image") -> np.ndarray:
    """Maps image values to the range that the network sees.

    Args:
        image: the prepared box.
        plan: intensity and window.
        name: the file or case, for messages.

    Returns:
        float32; "window": within [-1, 1]; "zscore": mean 0 and standard deviation 1 before clipping to [-5, 5].

    Raises:
        UserError: a z-score of an image without contrast.
    """
    if plan.intensity == "window" and plan.window is not None:
        low, high = plan.window
        return np.clip((image - low) * (2 / (high - low)) - 1, -1, 1).astype(np.float32)
    mean, deviation = float(image.mean(dtype=np.float64)), float(image.std(dtype=np.float64))
    if not deviation > 0:
        raise UserError(name, found=f"the value {mean:g} everywhere", wanted="contrast", fix="take the case out")
    return np.clip((image - mean) / deviation, -ZSCORE_LIMIT, ZSCORE_LIMIT).astype(np.float32)


def fill_value(image: np.ndarray) -> float:
    """What lies around a prepared image on a canvas: its smallest value.

    That is -1 for a windowed CT that shows air, and the darkest tissue or background of an MR; the same rule holds in
    training and at prediction.
    """
    return float(image.min())


def canvas_for(shapes: Iterable[Sequence[int]], multiple: int) -> tuple[int, int, int]:
    """The smallest canvas that holds every case.

    Args:
        shapes: voxels z, y, x of the prepared cases.
        multiple: what every side is a multiple of.

    Returns:
        Voxels z, y, x.
    """
    return padded_shape(np.max(list(shapes), axis=0), multiple)


def padded_shape(shape: Sequence[int], multiple: int) -> tuple[int, int, int]:
    """Rounds every side up to the next multiple."""
    z, y, x = (math.ceil(side / multiple) * multiple for side in shape)
    return z, y, x


def pad_to(array: np.ndarray, shape: Sequence[int], fill: float) -> np.ndarray:
    """Puts a volume into the middle of a larger one; of an odd difference the larger half comes behind.

    Args:
        array: [z, y, x, ...]; further axes stay as they are.
        shape: voxels z, y, x of the result.
        fill: value around the volume.

    Returns:
        [*shape, ...]

    Raises:
        ValueError: a side of the array is larger than the shape's; nothing is ever cut off.
    """
    if any(side > target for side, target in zip(array.shape[:3], shape, strict=True)):
        raise ValueError(f"cannot pad {array.shape[:3]} to the smaller {tuple(shape)}")
    padded = np.full((*shape, *array.shape[3:]), fill, dtype=array.dtype)
    padded[_middle(shape, array.shape[:3])] = array
    return padded


def unpad(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Takes back what `pad_to` added.

    Args:
        array: [z, y, x, ...] padded.
        shape: voxels z, y, x before padding.

    Returns:
        [*shape, ...], a view.
    """
    return array[_middle(array.shape[:3], shape)]


def _middle(outer: Sequence[int], inner: Sequence[int]) -> tuple[slice, ...]:
    starts = [(target - side) // 2 for target, side in zip(outer, inner, strict=True)]
    return tuple(slice(start, start + side) for start, side in zip(starts, inner, strict=True))
