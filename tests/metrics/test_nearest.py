"""Whichever way finds the nearest voxel, its distance is that of the brute force."""

import numpy as np
import pytest

from ars_jax.metrics import nearest
from ars_jax.metrics.nearest import nearest_distances
from tests.oracles import distances

SPACING = (2.5, 0.7, 1.1)
NEVER, ALWAYS = 0, 10**9


def places(seed, count):
    """Scattered places on a grid of 30 x 40 x 50, away from its origin."""
    rng = np.random.default_rng(seed)
    return np.unique(rng.integers((3, 4, 5), (33, 44, 55), (count, 3)), axis=0)


@pytest.mark.parametrize(
    ("per_point", "per_far_point"),
    [(NEVER, NEVER), (NEVER, ALWAYS), (ALWAYS, ALWAYS)],
    ids=["tree alone", "tree, then transform", "transform alone"],
)
def test_every_way_agrees_with_brute_force(monkeypatch, per_point, per_far_point):
    monkeypatch.setattr(nearest, "BOX_PER_POINT", per_point)
    monkeypatch.setattr(nearest, "BOX_PER_FAR_POINT", per_far_point)
    monkeypatch.setattr(nearest, "NEAR", 3)
    monkeypatch.setattr(nearest, "_PART", 7)
    points, targets = places(0, 60), places(1, 8)
    found = nearest_distances(points, targets, SPACING)
    wanted = distances.nearest(*[(p * SPACING).tolist() for p in (points, targets)])
    assert 0 < np.count_nonzero(np.array(wanted) > 3 * 2.5) < len(points), "some are near, some far"
    assert found == pytest.approx(wanted, abs=1e-9)


def test_middle_of_a_sphere_is_measured_by_a_transform(monkeypatch):
    """There a tree visits the whole surface for every point: minutes for a liver-sized ball in a body."""
    grid = np.indices((41, 41, 41)) - 20
    radius = np.sqrt((grid**2).sum(axis=0))
    shell, ball = np.argwhere((radius > 19) & (radius <= 20)), np.argwhere(radius <= 3)
    transforms = []
    by_transform = nearest._by_transform
    monkeypatch.setattr(nearest, "_by_transform", lambda *a: transforms.append(a) or by_transform(*a))
    found = nearest_distances(ball, shell, (1.0, 1.0, 1.0))
    assert len(transforms) == 1
    tree = nearest.KDTree(shell).query(ball)[0]
    assert found == pytest.approx(tree, abs=1e-9)


def test_far_stray_voxel_costs_no_transform(monkeypatch):
    monkeypatch.setattr(nearest, "_by_transform", None)
    points = np.array([[0, 0, 0], [1, 2, 3], [100, 400, 400]])
    found = nearest_distances(points, points[:2], (2.0, 1.0, 1.0))
    assert found == pytest.approx([0, 0, np.hypot(np.hypot(198, 398), 397)])
