"""What only shows beside other organs or other cases: swapped sides, labels of another case, lost places, outliers."""

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from itertools import combinations, permutations, product
from pathlib import Path

import numpy as np

from ars_jax.data.cases import Case
from ars_jax.data.faults import Fault, error, warning
from ars_jax.data.sides import left_right_pairs
from ars_jax.data.survey import ORGAN_PERCENTILES, CaseSurvey, without_place

MIN_CASES = 5
"""Fewer cases do not tell what is usual."""

MAX_DEVIATION = 3.5
"""Robust standard deviations of the logarithm of a volume, beyond which an organ is an outlier; of few cases more."""

MIN_FACTOR = 2.0
"""An outlier's volume is at least so many times larger or smaller than the median."""

_MAX_UNLIKE = 2.5  # mean robust deviation of an organ's intensities; right labels of 115 CTs and 208 MRs stay below 2.2
_MIN_TURN = 0.5  # gain by a turn, as part of the usual arrangement; 2 is a perfect mirror image
_SURE = 3.0  # a distance between organs is usual if its median is above so many robust deviations
_MAD_TO_SD = 1.4826
_CT_RANGE = (-1000.0, 1000.0)  # beyond are metal and padding
_MIN_SPREAD = 0.005  # smallest deviation that is taken for real, as part of the range of intensities

_AXES = ("head and feet", "front and back", "left and right")
_MIRRORED = f"organs as if {_AXES[2]} were mirrored"

Cases = Sequence[tuple[Case, CaseSurvey]]


def compare_cases(cases: Cases, organs: Sequence[str]) -> list[Fault]:
    """Compares organs of a case with each other and with those of the other cases.

    Args:
        cases: the cases with their measures.
        organs: the data set's organs.

    Returns:
        The faults by subject, in each in the order of the cases.
    """
    swapped = _swapped_sides(cases, organs)
    told = {(fault.case, _MIRRORED) for fault in swapped}
    unlike = _unlike(cases, organs)
    return [
        *_repeated(cases, {fault.case for fault in unlike}),
        *_placeless(cases),
        *swapped,
        *(fault for fault in _turned(cases, organs) if (fault.case, fault.found) not in told),
        *unlike,
        *_unusual_volumes(cases, organs),
    ]


def organ_volumes(surveys: Iterable[CaseSurvey], organ: str) -> dict[str, float]:
    """Lists the volumes of an organ that can be compared.

    Args:
        surveys: cases.
        organ: the organ.

    Returns:
        Case to ml. Cases where it was measured on a grid without a place are left out, unless they are at least half.
    """
    drawn = {survey.case: survey.organs[organ] for survey in surveys if organ in survey.organs}
    placed = {case: found for case, found in drawn.items() if found.placed}
    return {case: found.volume_ml for case, found in (placed if 2 * len(placed) > len(drawn) else drawn).items()}


def volume_outliers(volumes: Mapping[str, float]) -> dict[str, float]:
    """Finds unusual volumes by their distance from the median on a logarithmic scale.

    Args:
        volumes: case to volume above 0, in any unit.

    Returns:
        Case to the volume as a multiple of the median, for those beyond `MAX_DEVIATION` robust standard deviations and
        `MIN_FACTOR`; empty for fewer than `MIN_CASES` volumes.
    """
    if len(volumes) < MIN_CASES:
        return {}
    logs = np.log(list(volumes.values()))
    centre, spread = _robust(logs)
    limit = max(MAX_DEVIATION * _caution(len(volumes)) * float(spread), np.log(MIN_FACTOR))
    away = zip(volumes, logs - centre, strict=True)
    return {case: float(np.exp(distance)) for case, distance in away if abs(distance) > limit}


def side_gap(survey: CaseSurvey, left: str, right: str) -> float | None:
    """Measures how far an organ lies to the left of its partner.

    Args:
        survey: a case.
        left: the organ that should lie on the patient's left.
        right: its partner.

    Returns:
        The distance of the centroids along x in mm, below 0 if the sides are swapped; None if one was not drawn.
    """
    if not {left, right} <= survey.organs.keys():
        return None
    return survey.organs[left].centroid[2] - survey.organs[right].centroid[2]


def _repeated(cases: Cases, unlike: Collection[str]) -> list[Fault]:
    """The same label drawn on two images, and the same image twice."""
    faults = []
    for group in _groups(cases, lambda survey: survey.label_digest):
        names = [case.name for case, _ in group]
        images = {survey.image.digest for _, survey in group if survey.image}
        for case, _ in group if len(images) > 1 else ():
            found, fix = f"the same voxels in {', '.join(names)}", _owner(case.name, names, unlike)
            faults.append(error(case.name, _label_of(case), "same label", found, "a label of this image alone", fix))
    for group in _groups(cases, lambda survey: survey.image.digest if survey.image else None):
        found = f"the same voxels in {', '.join(case.name for case, _ in group)}"
        for case, _ in group[1:]:
            fix = "keep one, or see to it that they train and validate together"
            faults.append(warning(case.name, case.image, "same image", found, "each image once", fix))
    return faults


def _owner(name: str, names: Sequence[str], unlike: Collection[str]) -> str:
    """What to do about a label that several cases have, of whom some do not look like the others inside of it."""
    wrong = [one for one in names if one in unlike]
    if not wrong or len(wrong) == len(names):
        return "find out whose it is and restore the other's"
    if name in wrong:
        return "restore its own: by the intensities in the organs this one is likely wrong here"
    return f"look at {', '.join(wrong)}: by the intensities in the organs it is likely right here and wrong there"


def _groups(cases: Cases, key: Callable[[CaseSurvey], Hashable]) -> list[list[tuple[Case, CaseSurvey]]]:
    groups = defaultdict(list)
    for case, survey in cases:
        groups[key(survey)].append((case, survey))
    return [group for value, group in groups.items() if value is not None and len(group) > 1]


def _placeless(cases: Cases) -> list[Fault]:
    """Headers that hold no place, where most of the others do."""
    images = [(case, survey.image.geometry) for case, survey in cases if survey.image]
    lost = [case for case, geometry in images if without_place(geometry)]
    if 2 * len(lost) >= len(images):
        return []
    found, wanted = "spacing 1 mm and no origin", "the scanner's, as in the other cases"
    fix = "enter the true spacing, origin and direction; until then its mm and ml mean nothing"
    return [warning(case.name, case.image, "identity affine", found, wanted, fix) for case in lost]


def _swapped_sides(cases: Cases, organs: Sequence[str]) -> list[Fault]:
    wanted = "left at larger x (LPS)"
    fix = "swap the names, or mend the direction of image and label if all of the case is mirrored"
    faults = []
    for case, survey in cases:
        gaps = {pair: side_gap(survey, *pair) for pair in left_right_pairs(organs)}
        swapped = [
            f"{left} {-gap:.0f} mm to the right of {right}"
            for (left, right), gap in gaps.items()
            if gap is not None and gap < 0
        ]
        if swapped:
            faults.append(error(case.name, _label_of(case), "left and right", ", ".join(swapped), wanted, fix))
    return faults


def _turned(cases: Cases, organs: Sequence[str]) -> list[Fault]:
    """Cases whose organs lie to each other as if axes were mirrored or exchanged."""
    if len(cases) < MIN_CASES:
        return []
    offsets = np.array([_offsets(survey, organs) for _, survey in cases]).reshape(len(cases), -1, 3)
    known = np.isfinite(offsets).all(axis=2).sum(axis=0) >= MIN_CASES
    if not known.any():
        return []
    usual, spread = _robust(offsets[:, known])
    usual = np.where(np.abs(usual) > _SURE * _caution(len(cases)) * spread, usual, 0.0)
    own = np.nan_to_num(offsets[:, known])
    moments = np.einsum("npa,pb->nab", own, usual)  # [case, its axis, the usual axis]
    size = np.einsum("npb,pb->nb", (own != 0).any(axis=2, keepdims=True) * usual, usual)
    fix = "look at the case beside another; mend the direction in the headers of image and label"
    faults = []
    for (case, _), moment, extent in zip(cases, moments, size, strict=True):
        if words := _turn(moment, extent):
            faults.append(warning(case.name, case.image, "arrangement", words, "as in the other cases", fix))
    return faults


def _offsets(survey: CaseSurvey, organs: Sequence[str]) -> np.ndarray:
    """From each organ, and from the body's centre in CT, to each other in mm: [pairs, 3], NaN where one is missing."""
    missing = (np.nan,) * 3
    centroids = [survey.organs[organ].centroid if organ in survey.organs else missing for organ in organs]
    centre = survey.image.body_centre if survey.image else None
    points = np.array([*centroids, centre or missing])
    return np.array([points[i] - points[j] for i, j in combinations(range(len(points)), 2)])


def _turn(moment: np.ndarray, extent: np.ndarray) -> str:
    """Says how the axes would have to be exchanged and mirrored to fit the others; empty if they fit as they are."""
    best, gain, words = 0.0, 0.0, ""
    for order, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        changed = [axis for axis in range(3) if order[axis] != axis or signs[axis] < 0]
        now = sum(moment[axis, axis] for axis in changed)
        then = sum(signs[axis] * moment[order[axis], axis] for axis in changed)
        gain = then - now
        if gain > best and gain > _MIN_TURN * extent[changed].sum():
            best, words = gain, _turn_words(order, changed)
    return words


def _turn_words(order: Sequence[int], changed: Sequence[int]) -> str:
    if any(order[axis] != axis for axis in changed):
        return "organs as if the axes were exchanged"
    return f"organs as if {' and '.join(_AXES[axis] for axis in changed)} were mirrored"


def _unlike(cases: Cases, organs: Sequence[str]) -> list[Fault]:
    """Cases where most organs lie on intensities that they have in no other case: perhaps a label of another case."""
    values, floor = _organ_intensities(cases, organs)
    enough = np.isfinite(values[:, :, 0]).sum(axis=0) >= MIN_CASES
    if not enough.any():
        return []
    centre, spread = _robust(values)
    distance = np.abs(values - centre) / np.maximum(spread, floor)
    limit = _MAX_UNLIKE * _caution(len(cases))
    wanted, fix = "as in the other cases", "look at it: a label of another case, or a turned or shifted one?"
    faults = []
    for (case, _), rows, all_deviations in zip(cases, values, distance.mean(axis=2), strict=True):
        deviations = all_deviations[enough & np.isfinite(rows[:, 0])]
        if deviations.size and np.median(deviations) > limit:
            found = f"organs on intensities {np.median(deviations):.1f} robust deviations from the usual"
            faults.append(warning(case.name, _label_of(case), "intensities", found, wanted, fix))
    return faults


def _organ_intensities(cases: Cases, organs: Sequence[str]) -> tuple[np.ndarray, float]:
    """Comparable percentiles [case, organ, percentile], NaN where unknown, and the least deviation that counts.

    CT has a scale; other images are brought to one by their own percentiles.
    """
    computed = np.mean([survey.image.body is not None for _, survey in cases if survey.image] or [0]) > 0.5
    values = np.full((len(cases), len(organs), len(ORGAN_PERCENTILES)), np.nan)
    for row, (_, survey) in zip(values, cases, strict=True):
        for number, organ in enumerate(organs):
            found = survey.organs[organ].intensities if organ in survey.organs else None
            if found is not None and survey.image is not None:
                _, low, middle, high, _ = survey.image.intensities
                scale = max(high - low, np.finfo(np.float32).tiny)
                row[number] = np.clip(found, *_CT_RANGE) if computed else (np.array(found) - middle) / scale
    return values, _MIN_SPREAD * (_CT_RANGE[1] - _CT_RANGE[0] if computed else 1.0)


def _unusual_volumes(cases: Cases, organs: Sequence[str]) -> list[Fault]:
    named = {case.name: case for case, _ in cases}
    faults = []
    for organ in organs:
        volumes = organ_volumes((survey for _, survey in cases), organ)
        for name, factor in volume_outliers(volumes).items():
            found = f"{organ} of {volumes[name]:.3g} ml, {factor:.2g} times the median"
            label, fix = _label_of(named[name], organ), "look at it: cut off, not finished, or another organ?"
            faults.append(warning(name, label, "volume", found, "as in the other cases", fix))
    order = {name: number for number, name in enumerate(named)}
    return sorted(faults, key=lambda fault: order[fault.case])


def _caution(cases: int) -> float:
    """A factor on limits: the robust deviation of a few cases is often too small by chance."""
    return 1 + MIN_CASES / (2 * cases)


def _robust(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median and robust standard deviation over the first axis; NaN counts as missing, and is left where all is."""
    missing = np.isnan(values).all(axis=0)
    filled = np.where(missing, 0.0, values)
    centre = np.nanmedian(filled, axis=0)
    return centre, _MAD_TO_SD * np.nanmedian(np.abs(filled - centre), axis=0)


def _label_of(case: Case, organ: str | None = None) -> Path:
    if path := case.label or case.structures:
        return path
    return case.masks[organ] if organ else next(iter(case.masks.values())).parent
