import contextlib
import re
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contourpy import contour_generator

from ars_jax.data.contours import even_odd, fill_contours
from ars_jax.data.geometry import Geometry
from ars_jax.data.rtstruct import contour_names, read_structures, referenced_series, series_of
from ars_jax.data.volumes import Volume, read_volume
from ars_jax.errors import UserError
from tests.data.dicom_files import FRAME, SERIES, box_contours, positions, write_dose, write_series, write_structures
from tests.data.synthetic import LABELS, ORIENTATIONS, ct, grid
from tests.oracles.polygons import filled
from tests.realdata import real_data

GRID = Geometry((6, 20, 24), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))


def ring(z: float, radius: float, centre: tuple[float, float] = (9.3, 11.6), corners: int = 90) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.stack([np.full(corners, z), centre[0] + radius * np.sin(angle), centre[1] + radius * np.cos(angle)], 1)


def rectangle(z: float, low: tuple[float, float], high: tuple[float, float]) -> np.ndarray:
    (y0, x0), (y1, x1) = low, high
    return np.array([(z, y0, x0), (z, y0, x1), (z, y1, x1), (z, y1, x0)])


def slices(mask: np.ndarray) -> list[int]:
    return np.flatnonzero(mask.any(axis=(1, 2))).tolist()


def structures(path: Path, *names: str, **more: Any) -> Path:
    return write_structures(path / "rs.dcm", [(name, [ring(2, 5)]) for name in names], **more)


@pytest.mark.parametrize("seed", range(8))
def test_filling_agrees_with_a_ray_from_every_centre(seed: int):
    rng = np.random.default_rng(seed)
    polygons = [rng.uniform(-3, 18, (int(rng.integers(3, 12)), 2)) for _ in range(int(rng.integers(1, 4)))]
    np.testing.assert_array_equal(even_odd(polygons, (13, 16)), filled(polygons, (13, 16)))


@pytest.mark.parametrize("radius", [2.2, 4.7, 8.1])
def test_a_disc_has_its_area(radius: float):
    area = fill_contours([ring(2, radius)], GRID)[2].sum()
    assert area == pytest.approx(np.pi * radius**2, rel=0.09 if radius < 3 else 0.03)


@pytest.mark.parametrize("direction", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_outlines_of_boxes_give_the_boxes_back_in_any_orientation(direction: np.ndarray):
    geometry = grid(direction=direction)
    label = ct(geometry)[1].array
    for value in LABELS.values():
        np.testing.assert_array_equal(fill_contours(box_contours(label, geometry, value), geometry), label == value)


def test_an_inner_contour_and_a_slit_cut_the_same_hole():
    outer, inner = rectangle(2, (2.5, 3.5), (15.5, 18.5)), rectangle(2, (5.5, 6.5), (9.5, 12.5))
    mask = fill_contours([inner, outer], GRID)
    assert mask.sum() == 13 * 15 - 4 * 6
    assert not mask[2, 7, 9]
    slit = np.concatenate([outer, outer[:1], inner[:1], inner[::-1]])
    np.testing.assert_array_equal(fill_contours([slit], GRID), mask)


@pytest.mark.parametrize("kind", ["CLOSED_PLANAR", "CLOSEDPLANAR_XOR"])
def test_both_kinds_of_closed_contours_are_filled(tmp_path: Path, kind: str):
    path = write_structures(tmp_path / "rs", {"Lung": [ring(2, 6), ring(2, 3)]}, kind=kind)
    label = read_structures(path, {"Lung": ("Lung",)}, GRID)[2]
    assert label[9, [6, 11, 16]].tolist() == [1, 0, 1]


def test_an_island_in_a_hole_is_inside():
    mask = fill_contours([ring(2, 8), ring(2, 5), ring(2, 2)], GRID)[2]
    assert mask[9, [11, 14, 18]].tolist() == [True, False, True]


def test_a_doubled_contour_counts_once():
    once = fill_contours([ring(2, 5)], GRID)
    np.testing.assert_array_equal(fill_contours([ring(2, 5), np.roll(ring(2, 5), 7, axis=0)], GRID), once)
    np.testing.assert_array_equal(fill_contours([ring(2, 5), ring(2, 5)[::-1]], GRID), once)


@pytest.mark.parametrize("shift", [0.01, 0.1, 0.6, 1.0])
def test_a_contour_that_was_drawn_again_is_no_hole(shift: float):
    """Even if it was moved, or has other corners."""
    square = rectangle(2, (2.5, 2.5), (10.5, 10.5))
    finer = np.concatenate([square, (square + np.roll(square, -1, axis=0)) / 2])[[0, 4, 1, 5, 2, 6, 3, 7]]
    for again in (square, finer):
        mask = fill_contours([square, again + np.array([0, shift, shift])], GRID)
        assert mask[2, 3:11, 3:11].all()
        assert mask.sum() == 64 + (15 if shift > 0.5 else 0)


def test_contours_that_cross_are_joined_and_their_holes_stay():
    first, second = rectangle(2, (2.5, 2.5), (10.5, 10.5)), rectangle(2, (6.5, 6.5), (14.5, 14.5))
    for order in ([first, second], [second, first]):
        assert fill_contours(order, GRID).sum() == 64 + 64 - 16
    bridge, hole = rectangle(2, (0.5, 9.5), (5.5, 20.5)), rectangle(2, (3.5, 3.5), (4.5, 5.5))
    mask = fill_contours([second, hole, first, bridge], GRID)
    assert mask.sum() == 64 + 64 - 16 + 5 * 11 - 3 * 1 - 2
    assert not mask[2, 4, 4:6].any()


def test_thin_walls_are_kept():
    for wall in (1.0, 2.0):
        low, high = 2.5 + wall, 12.5 - wall
        outer, inner = rectangle(2, (2.5, 2.5), (12.5, 12.5)), rectangle(2, (low, low), (high, high))
        assert fill_contours([outer, inner], GRID).sum() == 100 - (10 - 2 * wall) ** 2


def test_corners_on_voxel_centres_keep_the_low_sides_whatever_the_rounding():
    for scale in (1.0, 0.97, 1.3):
        geometry = Geometry(GRID.shape, (3.0, scale, scale), (-7.1, 3.3, 1e3 / 7))
        corners = positions(geometry, rectangle(1, (4, 6), (9, 15)))
        mask = fill_contours([np.round(corners, 4)], geometry)
        expected = np.zeros(GRID.shape, bool)
        expected[1, 4:9, 6:15] = True
        np.testing.assert_array_equal(mask, expected)


def test_contours_of_thicker_slices_keep_their_volume():
    assert slices(fill_contours([ring(1, 5), ring(4, 5)], GRID)) == [0, 1, 2, 3, 4, 5]
    assert slices(fill_contours([ring(1, 5), ring(3, 5)], GRID)) == [0, 1, 2, 3]


@pytest.mark.parametrize("thickness", [1.0, 3.0, 5.0])
@pytest.mark.parametrize("every", [1, 2, 3])
def test_contours_on_every_second_or_third_slice_leave_no_stripes(thickness: float, every: int):
    geometry = Geometry((11, 20, 24), (thickness, 1.0, 1.0), GRID.origin)
    drawn = range(1, 11, every)
    mask = fill_contours([ring(z * thickness, 6) for z in drawn], geometry)
    filled = slices(mask)
    assert filled == list(range(filled[0], filled[-1] + 1))
    assert len(filled) == pytest.approx(len(drawn) * every, abs=1)  # the last slab may reach beyond the image


@pytest.mark.parametrize("shift", [-0.5, -0.3, 0.0, 0.3, 0.499])
def test_contours_between_the_slices_fill_as_many_slices(shift: float):
    assert len(slices(fill_contours([ring(z + shift, 5) for z in (1, 2, 3)], GRID))) == 3


def test_contours_closer_than_the_slices_do_not_cancel():
    mask = fill_contours([ring(z, 5 if z < 2 else 7) for z in (1.0, 1.5, 2.0, 2.5)], GRID)
    assert slices(mask) == [1, 2]
    assert mask[2].sum() > mask[1].sum() > 70


def test_what_reaches_beyond_the_picture_is_cut_off():
    mask = fill_contours([rectangle(2, (-7.5, 18.5), (3.5, 40))], GRID)[2]
    assert mask[:4, 19:].all()
    assert mask.sum() == 4 * 5
    assert not fill_contours([rectangle(2, (-7, -9), (-3, -2)), rectangle(3, (30, 2), (40, 8))], GRID).any()


def test_parts_far_apart_stay_apart():
    tall = Geometry((30, 20, 24), GRID.spacing, GRID.origin)
    assert slices(fill_contours([ring(z, 4) for z in (3, 4, 5, 20, 21)], tall)) == [3, 4, 5, 20, 21]
    with pytest.raises(UserError, match=r"^Cord: found contours 20 mm apart; wanted contours in every slice of 1 mm"):
        fill_contours([ring(z, 4) for z in (5, 25)], tall, "Cord")


def test_contours_across_the_slices_or_outside_are_errors():
    tilted = ring(2, 5)
    tilted[:, 0] += 0.2 * (tilted[:, 1] - 9)
    with pytest.raises(UserError, match=r"Organ: found a contour 2 mm out of its plane; wanted contours parallel"):
        fill_contours([tilted], GRID, "Organ")
    with pytest.raises(UserError, match=r"found a contour 7 mm from the first slice; wanted from 0 to 5 mm"):
        fill_contours([ring(5, 5), ring(7, 5)], GRID)


def test_organs_become_channels_in_their_order_and_the_later_one_wins(tmp_path: Path):
    path = write_structures(tmp_path / "rs", {"small": [ring(2, 3)], "other": [ring(1, 9)], "large": [ring(2, 6)]})
    first = read_structures(path, {"A": ("small",), "B": ("large",)}, GRID)
    assert (first.dtype, first[2, 9, 11], first[2, 9, 16], first[1].any()) == (np.uint8, 2, 2, False)
    second = read_structures(path, {"B": ("large",), "A": ("small",)}, GRID)
    assert (second[2, 9, 11], second[2, 9, 16]) == (2, 1)
    assert contour_names(path) == ["large", "other", "small"]


@pytest.mark.parametrize("name", ["Parotid_L", "PAROTID L", "parotid-l", "ParotidL", "Parotis links"])
def test_a_contour_is_found_by_any_of_its_names(tmp_path: Path, name: str):
    path = structures(tmp_path, "Body", name)
    assert read_structures(path, {"Parotid_L": ("Parotid_L", "Parotis links")}, GRID).any()


def test_the_exact_name_wins_over_a_similar_one(tmp_path: Path):
    path = write_structures(tmp_path / "rs", {"cord": [ring(1, 5)], "Cord": [ring(3, 5)]})
    assert slices(read_structures(path, {"Cord": ("Cord",)}, GRID)) == [3]


@pytest.mark.parametrize(
    ("there", "wanted", "words"),
    [
        (
            ["Cord", "Body"],
            "Mandible",
            "no contour named Mandible; wanted one of: Body, Cord; fix: name it in contours",
        ),
        ([], "Mandible", "no contour named Mandible; wanted one of: no contour at all"),
        (["cord", "CORD"], "Cord", "2 contours for Cord: cord, CORD; wanted one"),
        (["Cord", "Cord"], "Cord", "2 contours for Cord: Cord, Cord; wanted one"),
    ],
)
def test_an_organ_without_one_contour_of_its_name_is_an_error(
    tmp_path: Path, there: list[str], wanted: str, words: str
):
    with pytest.raises(UserError, match=re.escape(words)):
        read_structures(structures(tmp_path, *there), {wanted: (wanted,)}, GRID)


@pytest.mark.parametrize("contours", [[], [ring(2, 5)[:2]], [ring(2, 0.1, (9.5, 11.5))]], ids=["none", "line", "tiny"])
def test_an_organ_that_was_not_drawn_is_an_error_unless_listed(tmp_path: Path, contours: list[np.ndarray]):
    path = write_structures(tmp_path / "rs", {"Cord": contours})
    with pytest.raises(UserError, match=r"rs: Cord: found .*; fix: list Cord in unlabelled.json"):
        read_structures(path, {"Cord": ("Cord",)}, GRID)
    assert not read_structures(path, {"Cord": ("Cord",), "Lips": ("Lips",)}, GRID, unlabelled=("Cord", "Lips")).any()


def test_points_and_lines_are_no_organ(tmp_path: Path):
    with pytest.raises(UserError, match=r"Cord: found no closed contour"):
        read_structures(structures(tmp_path, "Cord", kind="POINT"), {"Cord": ("Cord",)}, GRID)


def test_contours_of_another_frame_of_reference_are_an_error(tmp_path: Path):
    folder = write_series(tmp_path / "ct", Volume(np.zeros(GRID.shape, np.int16), GRID))
    names = {"Cord": ("Cord",)}
    assert read_structures(structures(tmp_path, "Cord"), names, GRID, image=folder).any()
    with pytest.raises(UserError, match=rf"Cord: found frame of reference 1.2.3; wanted the image's {FRAME};"):
        read_structures(structures(tmp_path, "Cord", frame="1.2.3"), names, GRID, image=folder)


def test_the_series_is_known_from_the_structure_set_and_its_slices(tmp_path: Path):
    folder = write_series(tmp_path / "ct", Volume(np.zeros(GRID.shape, np.int16), GRID))
    write_dose(folder / "0.dcm")
    assert referenced_series(structures(tmp_path, "Cord")) == {SERIES}
    assert series_of(folder) == SERIES
    assert series_of(tmp_path) is None


def test_broken_and_other_files_are_errors(tmp_path: Path):
    names = {"Cord": ("Cord",)}
    path = structures(tmp_path, "Cord")
    with pytest.raises(UserError, match=r"found DICOM of kind RTDOSE; wanted an RTSTRUCT"):
        read_structures(write_dose(tmp_path / "dose.dcm"), names, GRID)
    whole = path.read_bytes()
    for length in [*range(0, len(whole) - 1, 97), len(whole) - 2]:
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"rs\.dcm.*; fix: "):
            read_structures(path, names, GRID)


def test_a_file_of_other_bytes_never_gives_a_traceback(tmp_path: Path):
    whole = structures(tmp_path, "Cord").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):
        broken = np.frombuffer(whole, np.uint8).copy()
        broken[rng.integers(300, len(whole), 3)] = rng.integers(0, 256, 3)
        (tmp_path / "rs.dcm").write_bytes(broken.tobytes())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for read in (partial(read_structures, names={"Cord": ("Cord",)}, geometry=GRID), referenced_series):
                with contextlib.suppress(UserError):
                    read(tmp_path / "rs.dcm")


def test_contours_of_a_real_lung_with_vessels_give_its_voxels_back(tmp_path: Path):
    organ = "Lung-Rt"
    folder = next(path for path in sorted(real_data("headneck_two_readers", "0522c0331").iterdir()) if path.is_dir())
    mask = read_volume(folder / f"{organ}.nrrd")
    drawn = mask.array > 0
    contours = []
    for z in np.flatnonzero(drawn.any(axis=(1, 2))):
        lines: Any = contour_generator(z=np.pad(drawn[z], 1).astype(float)).lines(0.5)
        for line in lines:
            x, y = line[:-1].T - 1
            contours.append(positions(mask.geometry, np.stack([np.full(len(x), z), y, x], axis=1)))
    path = write_structures(tmp_path / "rs.dcm", {organ: contours})
    np.testing.assert_array_equal(read_structures(path, {organ: (organ,)}, mask.geometry), drawn)


def test_a_missing_package_is_named_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = structures(tmp_path, "Cord")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UserError, match=r"no package pydicom; wanted .*; fix: pip install 'ars_jax\[rtstruct\]'"):
        read_structures(path, {"Cord": ("Cord",)}, GRID)
