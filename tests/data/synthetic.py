"""Small synthetic CT cases on any grid, for the tests of preparation and cache."""

from pathlib import Path

import numpy as np

from ars_jax.data.cases import Case
from ars_jax.data.geometry import Geometry
from ars_jax.data.plan import Plan
from ars_jax.data.volumes import Volume, write_volume

LABELS = {"Ball_L": 3, "Ball_R": 7}
PLAN = Plan(tuple(LABELS), pairs=(("Ball_L", "Ball_R"),), intensity="window", window=(-200, 400))
SPACING = (3.0, 2.0, 1.5)
IDENTITY = np.eye(3)
# Columns are the directions of the array axes; right-handed, as readers of some formats demand.
ORIENTATIONS = {
    "canonical": IDENTITY,
    "flipped": np.diag([-1.0, -1.0, 1.0]),
    "permuted": IDENTITY[:, [1, 2, 0]],
    "permuted and flipped": IDENTITY[:, [2, 0, 1]] * [-1.0, 1.0, -1.0],
    "oblique": np.array([[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]]) @ np.diag([-1.0, 1.0, -1.0]),
}


def grid(shape=(12, 18, 24), spacing=SPACING, direction=IDENTITY) -> Geometry:
    return Geometry(shape, spacing, (-20.0, 31.5, 7.25), tuple(float(value) for value in np.ravel(direction)))


def ct(geometry: Geometry, seed: int = 0) -> tuple[Volume, Volume]:
    """A noisy box of soft tissue in air with two organs, each on its side."""
    rng = np.random.default_rng(seed)
    z, y, x = geometry.shape
    image = np.full(geometry.shape, -1000.0)
    image[2 : z - 2, 3 : y - 5, 4 : x - 4] = 40
    label = np.zeros(geometry.shape, np.uint8)
    label[3 : z // 2, 5 : y // 2, x - x // 2 : x - 5] = LABELS["Ball_L"]
    label[z // 2 : z - 4, 6 : y - 7, 6 : x - x // 2] = LABELS["Ball_R"]
    image += 100 * (label == LABELS["Ball_L"]) + 200 * (label == LABELS["Ball_R"]) + rng.normal(0, 5, image.shape)
    return Volume(image.astype(np.int16), geometry), Volume(label, geometry)


def written(
    folder: Path, name="case", geometry: Geometry | None = None, label_geometry: Geometry | None = None
) -> Case:
    geometry = geometry or grid()
    image, label = ct(geometry)
    case = Case(name, folder / f"{name}.nrrd", folder / f"{name}-label.nrrd")
    write_volume(case.image, image)
    write_volume(folder / f"{name}-label.nrrd", Volume(label.array, label_geometry or geometry))
    return case
