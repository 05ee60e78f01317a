"""A procedural head-and-neck CT: data for the demonstration and for tests, made from a seed and nothing else.

It is a schematic anatomy in millimetres (axes z to Superior, y to Posterior, x to the patient's Left), drawn by
signed distances. Every case has its own pose, proportions, organ positions, organ sizes, tissue values and noise.
The organs are those of the public head-and-neck sets, from a mandible of hundreds of voxels to optic nerves of a few
dozen, and several borders differ by no more than 10 to 30 HU.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from ars_jax.data.geometry import Geometry
from ars_jax.data.volumes import Volume, write_volume
from ars_jax.errors import UserError
from ars_jax.files import write_json

PHANTOM_LABELS: dict[str, int] = {
    "Brainstem": 1,
    "SpinalCord": 2,
    "Mandible": 3,
    "Parotid_L": 4,
    "Parotid_R": 5,
    "Submandibular_L": 6,
    "Submandibular_R": 7,
    "OpticNerve_L": 8,
    "OpticNerve_R": 9,
    "Larynx": 10,
}
"""Organ name to label value; 0 is background."""

PHANTOM_PAIRS: tuple[tuple[str, str], ...] = (
    ("Parotid_L", "Parotid_R"),
    ("Submandibular_L", "Submandibular_R"),
    ("OpticNerve_L", "OpticNerve_R"),
)
"""Organs that mirror each other, (left, right)."""

_SIDES = ((44, 48), (46, 48), (42, 48))
_LARGEST_SPACING = 4.5
_HU = {
    "air": -1000.0,
    "fat": -95.0,
    "muscle": 52.0,
    "bone": 750.0,
    "disc": 90.0,
    "brain": 38.0,
    "fluid": 8.0,
    "eye": 18.0,
    "vessel": 140.0,
    "tongue": 62.0,
    "Brainstem": 25.0,
    "SpinalCord": 34.0,
    "Mandible": 1050.0,
    "Parotid": 24.0,
    "Submandibular": 76.0,
    "OpticNerve": 36.0,
    "Larynx": 84.0,
}
_BONES = ("bone", "Mandible")

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class _Canvas:
    """What is being drawn: reference coordinates, image, labels, and how soft an edge is."""

    points: np.ndarray  # [3, z, y, x] mm in the reference anatomy, axes z, y, x
    image: np.ndarray  # HU, float32
    label: np.ndarray
    edge: float  # mm over which a border passes from one tissue to the other: the voxel's own size
    hu: dict[str, float]

    def fill(self, distance: np.ndarray, tissue: str, organ: str | None = None) -> None:
        """Draws a tissue where the signed distance is negative, with a partial-volume edge."""
        cover = np.clip(0.5 - distance / self.edge, 0.0, 1.0)
        self.image[...] += cover * (self.hu[tissue] - self.image)
        if organ is not None:
            self.label[distance < 0] = PHANTOM_LABELS[organ]


def phantom_case(
    seed: int | Sequence[int],
    shape: tuple[int, int, int] | None = None,
    spacing: tuple[float, float, float] = (4.0, 4.0, 4.0),
) -> tuple[Volume, Volume]:
    """Makes one head-and-neck phantom: the image and its label map.

    The anatomy has a fixed size in millimetres (about 190 mm a side) and sits at the middle of the grid. Index x grows
    to the patient's left, y to posterior and z to superior, as in every canonical volume.

    Args:
        seed: a number or several; the same seed gives the same bits, another seed another patient.
        shape: voxels z, y, x; None draws sides of at most 48 that differ a little from case to case.
        spacing: mm z, y, x; below 4.5 mm, where the smallest organs would fall between the voxels.

    Returns:
        The image (int16, HU) and the label map (uint8, `PHANTOM_LABELS`) on one grid.

    Raises:
        ValueError: if the grid is too coarse or too small to hold every organ.
    """
    rng = np.random.default_rng(seed)
    depth, height, width = (int(rng.integers(low, high + 1)) for low, high in _SIDES)
    shape = (depth, height, width) if shape is None else shape
    if max(spacing) > _LARGEST_SPACING or min(n * s for n, s in zip(shape, spacing, strict=True)) < 160.0:
        raise ValueError(
            f"shape {shape} at {spacing} mm: the phantom needs at least 160 mm a side and voxels of at most 4.5 mm"
        )
    canvas = _Canvas(
        points=_reference_points(rng, shape, spacing),
        image=np.full(shape, _HU["air"], np.float32),
        label=np.zeros(shape, np.uint8),
        edge=float(np.mean(spacing)),
        hu={k: v * rng.uniform(0.85, 1.15) if k in _BONES else v + rng.normal(0.0, 2.0) for k, v in _HU.items()},
    )
    canvas.hu["air"] = _HU["air"]
    spine = _spine_line(rng, canvas.points[0])
    _draw_body(canvas, rng)
    _draw_skull(canvas, rng)
    _draw_spine(canvas, rng, spine)
    _draw_face(canvas, rng)
    _draw_glands(canvas, rng)
    _draw_throat(canvas, rng)
    _draw_orbits(canvas, rng)
    _draw_brainstem_and_cord(canvas, rng, spine)
    z, y, x = (float(-(n - 1) * s / 2 + rng.integers(-40, 41)) for n, s in zip(shape, spacing, strict=True))
    geometry = Geometry(shape, spacing, (z, y, x))
    return Volume(_scan(canvas, rng), geometry), Volume(canvas.label, geometry)


def write_phantoms(root: Path | str, count: int, seed: int = 0) -> Path:
    """Writes phantoms as a data set in the MSD layout (dataset.json, imagesTr, labelsTr).

    Case k depends on (seed, k) only, so a larger set begins with the smaller one. `dataset.json` is written last:
    where it stands, the cases are complete.

    Args:
        root: folder to write; made where it does not exist.
        count: number of cases, at least 1.
        seed: seed of the set.

    Returns:
        The folder.

    Raises:
        UserError: no case, a negative seed, or a place that cannot be written.
    """
    if count < 1 or seed < 0:
        found, wanted = f"{count} cases, seed {seed}", "at least 1 case and a seed of at least 0"
        raise UserError("phantoms", found=found, wanted=wanted, fix="--cases 60 --seed 0")
    root = Path(root)
    training = []
    for index in range(count):
        name = f"phantom_{index:03d}.nii.gz"
        image, label = phantom_case((seed, index))
        write_volume(root / "imagesTr" / name, image)
        write_volume(root / "labelsTr" / name, label)
        training.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    description = {
        "name": "phantom",
        "description": f"procedural head-and-neck CT, seed {seed}",
        "tensorImageSize": "3D",
        "modality": {"0": "CT"},
        "labels": {"0": "background"} | {str(value): organ for organ, value in PHANTOM_LABELS.items()},
        "numTraining": count,
        "numTest": 0,
        "training": training,
        "test": [],
    }
    write_json(root / "dataset.json", description)
    return root


def _reference_points(rng: np.random.Generator, shape: tuple[int, ...], spacing: tuple[float, ...]) -> np.ndarray:
    """Where each voxel lies in the reference anatomy: one affine pose and a smooth deformation, in mm."""
    axes = [(np.arange(n, dtype=np.float32) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)]
    shift = rng.uniform(-5.0, 5.0, 3).astype(np.float32)
    grid = np.meshgrid(*(a - s for a, s in zip(axes, shift, strict=True)), indexing="ij", sparse=True)
    tilt = np.radians(rng.uniform((-6.0, -4.0, -7.0), (6.0, 4.0, 7.0)))
    rotation = _turn(0, tilt[0]) @ _turn(1, tilt[1]) @ _turn(2, tilt[2])
    size = rng.uniform(0.94, 1.05) * rng.uniform(0.97, 1.03, 3)
    affine = (np.diag(1.0 / size) @ rotation).astype(np.float32)
    moved = [row[0] * grid[0] + row[1] * grid[1] + row[2] * grid[2] for row in affine]
    return np.stack([m + _smooth_field(rng, 2.0, 5, shape) for m in moved])


def _smooth_field(rng: np.random.Generator, amplitude: float, knots: int, shape: tuple[int, ...]) -> np.ndarray:
    """A random field that is linear between `knots` normal values a side."""
    field = rng.normal(0.0, amplitude, (knots,) * 3).astype(np.float32)
    for axis, side in enumerate(shape):
        place = np.linspace(0.0, knots - 1, side)
        low = np.minimum(place.astype(int), knots - 2)
        weight = (place - low).astype(np.float32).reshape([-1 if k == axis else 1 for k in range(3)])
        field = np.take(field, low, axis) * (1.0 - weight) + np.take(field, low + 1, axis) * weight
    return field


def _turn(axis: int, angle: float) -> np.ndarray:
    """The 3x3 rotation about one axis."""
    first, second = (k for k in range(3) if k != axis)
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = np.cos(angle)
    matrix[first, second], matrix[second, first] = -np.sin(angle), np.sin(angle)
    return matrix


def _wobble(rng: np.random.Generator, centre: Triple, radii: Triple, *, shift: float = 2.0) -> tuple[Triple, Triple]:
    """Moves and resizes an ellipsoid as patients differ (a few mm, about a tenth)."""
    z, y, x = np.asarray(centre) + rng.uniform(-shift, shift, 3)
    a, b, c = np.asarray(radii) * rng.uniform(0.93, 1.07) * rng.uniform(0.94, 1.06, 3)
    return (float(z), float(y), float(x)), (float(a), float(b), float(c))


def _ellipsoid(points: np.ndarray, centre: Triple, radii: Triple) -> np.ndarray:
    """Distance to an ellipsoid to first order, negative inside."""
    squares = [((p - c) * (1.0 / r)) ** 2 for p, c, r in zip(points, centre, radii, strict=True)]
    value = squares[0] + squares[1] + squares[2]
    slope = squares[0] / radii[0] ** 2 + squares[1] / radii[1] ** 2 + squares[2] / radii[2] ** 2
    return (value - np.sqrt(value)) / np.sqrt(np.maximum(slope, 1e-12)) - min(radii) * (value < 1e-6)


def _capsule(points: np.ndarray, start: Triple, end: Triple, radius: float) -> np.ndarray:
    """Distance to a straight rod with round ends, negative inside."""
    along = np.subtract(end, start).astype(np.float32)
    z, y, x = (p - c for p, c in zip(points, start, strict=True))
    unit = along / np.sum(along * along)
    place = np.clip(unit[0] * z + unit[1] * y + unit[2] * x, 0.0, 1.0)
    return np.sqrt((z - along[0] * place) ** 2 + (y - along[1] * place) ** 2 + (x - along[2] * place) ** 2) - radius


def _arch(points: np.ndarray, centre: Triple, radii: tuple[float, float], half: tuple[float, float]) -> np.ndarray:
    """Distance to a horseshoe open to posterior: `radii` in y and x, `half` thickness and height."""
    z, y, x = points
    ring = np.hypot((y - centre[1]) / radii[0], (x - centre[2]) / radii[1])
    wall = np.abs(ring - 1.0) * min(radii) - half[0]
    return np.maximum(np.maximum(wall, np.abs(z - centre[0]) - half[1]), y - centre[1])


def _spine_line(rng: np.random.Generator, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The y and x of the spinal canal's middle at every voxel's height."""
    lordosis, lean = rng.uniform(4.0, 10.0), rng.uniform(-0.04, 0.04)
    depth = np.minimum(z + 10.0, 0.0)
    return 27.0 - lordosis * np.sin(-depth / 28.0), lean * depth


def _draw_body(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Skin, fat under it, and the muscle mass of head, face, neck and shoulders."""
    z, y, x = canvas.points
    head = _ellipsoid(canvas.points, (48.0, 8.0, 0.0), (76.0, 84.0, 71.0))
    face = _ellipsoid(canvas.points, (-8.0, -32.0, 0.0), (62.0, 48.0, 60.0))
    nose = _ellipsoid(canvas.points, (10.0, -78.0, 0.0), (15.0, 11.0, 9.0))
    girth, flare = rng.uniform(48.0, 55.0), np.maximum(-72.0 - z, 0.0) * rng.uniform(1.2, 2.0)
    ring = np.hypot((y - 11.0) / girth, x / (girth + flare))
    neck = np.maximum((ring - 1.0) * girth, z - 20.0)
    body = np.minimum(np.minimum(head, face), np.minimum(nose, neck))
    canvas.fill(body, "fat")
    canvas.fill(body + rng.uniform(4.0, 7.0), "muscle")
    for side in (-1.0, 1.0):
        canvas.fill(_ellipsoid(canvas.points, (-8.0, -48.0, side * 42.0), (14.0, 11.0, 6.0)), "fat")
        canvas.fill(_capsule(canvas.points, (-96.0, 48.0, side * 24.0), (-25.0, 42.0, side * 30.0), 4.0), "fat")
        canvas.fill(_capsule(canvas.points, (-100.0, 2.0, side * 27.0), (-5.0, 10.0, side * 29.0), 4.5), "vessel")


def _draw_skull(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Vault, skull base, brain and ventricles."""
    z, y, _ = canvas.points
    vault = _ellipsoid(canvas.points, (52.0, 10.0, 0.0), (58.0, 70.0, 58.0))
    inside = np.maximum(vault, 8.0 - 0.25 * y - z)
    canvas.fill(inside - rng.uniform(6.0, 8.0), "bone")
    canvas.fill(inside, "brain")
    for side in (-1.0, 1.0):
        centre, radii = _wobble(rng, (62.0, 8.0, side * 11.0), (9.0, 28.0, 6.0))
        canvas.fill(_ellipsoid(canvas.points, centre, radii), "fluid")


def _draw_spine(canvas: _Canvas, rng: np.random.Generator, spine: tuple[np.ndarray, np.ndarray]) -> None:
    """Vertebral bodies with discs between them, arches and spinous processes; the canal is hollow."""
    z, y, x = canvas.points
    y, x = y - spine[0], x - spine[1]
    below = z + 6.0
    phase = np.mod(z + rng.uniform(0.0, 17.0), 17.0)
    gap = 3.0 - np.abs(phase - 8.5)
    column = np.hypot((y + 19.0) / 11.0, x / 15.0) * 11.0 - 11.0
    arch = np.hypot(y, x) - 15.0
    process = np.maximum(np.maximum(np.abs(x) - 3.5, y - 32.0), -y)
    canvas.fill(np.maximum(column, below), "disc")
    bone = np.minimum(column, np.minimum(arch, process))
    canvas.fill(np.maximum(np.maximum(bone, gap), below), "bone")
    canvas.fill(np.maximum(np.hypot(y, x) - 10.5, z - 6.0), "fluid")


def _draw_face(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Mandible, upper jaw, sinuses, nose and tongue."""
    points, width = canvas.points, rng.uniform(0.94, 1.06)
    opening = rng.uniform(-4.0, 2.0)
    canvas.fill(_arch(points, (-4.0, -26.0, 0.0), (38.0, 31.0 * width), (5.0, 7.0)), "bone")
    for side in (-1.0, 1.0):
        centre, radii = _wobble(rng, (13.0, -50.0, side * 25.0), (13.0, 14.0, 11.0))
        sinus = _ellipsoid(points, centre, radii)
        canvas.fill(sinus - 3.5, "bone")
        canvas.fill(sinus, "air")
    canvas.fill(_ellipsoid(points, (9.0, -52.0, 0.0), (15.0, 26.0, 7.0)), "air")
    centre, radii = _wobble(rng, (-22.0, -40.0, 0.0), (14.0, 25.0, 20.0))
    canvas.fill(_ellipsoid(points, centre, radii), "tongue")
    canvas.fill(_ellipsoid(points, (-6.0, -42.0, 0.0), (3.0, 22.0, 14.0)), "air")
    jaw = _arch(points, (-33.0 + opening, -24.0, 0.0), (46.0, 40.0 * width), (5.5, 10.0))
    for side in (-1.0, 1.0):
        low, high = (-33.0 + opening, -25.0, side * 39.0 * width), (2.0, -10.0, side * 42.0 * width)
        jaw = np.minimum(jaw, _capsule(points, low, high, 6.5))
    canvas.fill(jaw, "Mandible", "Mandible")


def _draw_glands(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Parotid glands behind the rami and submandibular glands under the jaw."""
    for side, letter in ((1.0, "L"), (-1.0, "R")):
        centre, radii = _wobble(rng, (-15.0, 10.0, side * 38.5), (22.0, 13.0, 9.5))
        canvas.fill(_ellipsoid(canvas.points, centre, radii), "Parotid", f"Parotid_{letter}")
        centre, radii = _wobble(rng, (-50.0, -14.0, side * 24.5), (10.0, 14.0, 9.0))
        canvas.fill(_ellipsoid(canvas.points, centre, radii), "Submandibular", f"Submandibular_{letter}")


def _draw_throat(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Larynx and the airway from the nose through it to the trachea."""
    centre, radii = _wobble(rng, (-62.0, -24.0, 0.0), (14.0, 15.0, 15.0))
    canvas.fill(_ellipsoid(canvas.points, centre, radii), "Larynx", "Larynx")
    calibre = rng.uniform(5.0, 7.0)
    bends = ((8.0, -30.0, 0.0), (0.0, -17.0, 0.0), (-40.0, -17.0, 0.0), centre, (-130.0, centre[1] + 6.0, 0.0))
    for start, end in itertools.pairwise(bends):
        canvas.fill(_capsule(canvas.points, start, end, calibre), "air")


def _draw_orbits(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Orbits filled with fat, eyes, and the optic nerves that run from them to the middle of the skull base."""
    for side, letter in ((1.0, "L"), (-1.0, "R")):
        centre, radii = _wobble(rng, (38.0, -54.0, side * 31.0), (17.0, 21.0, 17.0), shift=1.0)
        orbit = _ellipsoid(canvas.points, centre, radii)
        canvas.fill(orbit - 3.5, "bone")
        canvas.fill(orbit, "fat")
        z, y, x = centre
        canvas.fill(_ellipsoid(canvas.points, (z, y - 9.0, x), (12.0, 12.0, 12.0)), "eye")
        start, end = (z, y + 6.0, x - side * 2.0), (z - 2.0, -20.0 + rng.uniform(-2.0, 2.0), side * 11.0)
        nerve = _capsule(canvas.points, start, end, rng.uniform(4.6, 5.4))
        canvas.fill(nerve, "OpticNerve", f"OpticNerve_{letter}")


def _draw_brainstem_and_cord(canvas: _Canvas, rng: np.random.Generator, spine: tuple[np.ndarray, np.ndarray]) -> None:
    """Brainstem in its cistern, going over into the cord within the canal at the foramen magnum."""
    z, y, x = canvas.points
    end = -8.0 + rng.uniform(-2.0, 2.0)
    centre, radii = _wobble(rng, (17.0, 25.0, 0.0), (19.0, 13.0, 15.0), shift=1.5)
    axis = np.hypot(y - spine[0], x - spine[1])
    medulla = np.maximum(axis - 9.0, z - 17.0)
    stem = np.maximum(np.minimum(_ellipsoid(canvas.points, centre, radii), medulla), end - z)
    cord = np.maximum(axis - rng.uniform(6.2, 7.4), z - end)
    canvas.fill(stem - 5.5, "fluid")
    canvas.fill(cord, "SpinalCord", "SpinalCord")
    canvas.fill(stem, "Brainstem", "Brainstem")


def _scan(canvas: _Canvas, rng: np.random.Generator) -> np.ndarray:
    """The scanner: blur, a smooth bias inside the patient, noise and whole HU."""
    shape = canvas.image.shape
    image = ndimage.gaussian_filter(canvas.image, 1.2 / canvas.edge)
    image += np.where(image > -500.0, _smooth_field(rng, 4.0, 3, shape), 0.0)
    image += rng.uniform(7.0, 12.0) * rng.standard_normal(shape, np.float32)
    return np.clip(np.rint(image), -1024, 3071).astype(np.int16)
