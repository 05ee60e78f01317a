import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ars_jax.data.geometry import Geometry
from ars_jax.data.plan import read_plan, write_plan
from ars_jax.data.volumes import Volume, canonical, read_volume, write_volume
from ars_jax.errors import UserError
from ars_jax.report.cases import load_picture, overlay_blocks
from ars_jax.report.runs import Run, read_runs
from tests.report.fake_runs import ORGANS, SPACING, make_run

FLIPPED = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, -1.0)


def test_volumes_of_any_orientation_are_shown_in_one(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", cases=("a",), epochs=5)
    files = json.loads((folder / "evaluation" / "cases.json").read_text(encoding="utf-8"))[0]
    upright = load_picture("a", *_run(folder))
    for kind in ("image", "reference", "prediction"):
        array = read_volume(files[kind]).array[::-1, ::-1, ::-1]
        corner = tuple((side - 1) * step for side, step in zip(array.shape, SPACING, strict=True))
        geometry = Geometry(array.shape, SPACING, (corner[0], corner[1], corner[2]), FLIPPED)
        write_volume(files[kind], Volume(np.ascontiguousarray(array), geometry))
    assert canonical(read_volume(files["image"])).geometry.direction != read_volume(files["image"]).geometry.direction
    turned = load_picture("a", *_run(folder))
    assert np.array_equal(turned.image, upright.image)
    assert np.array_equal(turned.reference, upright.reference)
    assert turned.predictions[0] is not None and upright.predictions[0] is not None
    assert np.array_equal(turned.predictions[0], upright.predictions[0])


def _run(folder: Path) -> tuple[tuple[Run, ...], Run]:
    (run,) = runs = read_runs([folder])
    return runs, run


def test_organs_keep_their_colour_when_a_run_numbers_them_differently(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / name, cases=("a",), epochs=5) for name in ("one", "other")]
    write_plan(folders[1] / "plan.json", replace(read_plan(folders[1] / "plan.json"), labels=ORGANS[::-1]))
    runs = read_runs(folders)
    first, second = load_picture("a", runs, runs[0]).predictions
    assert first is not None and second is not None
    assert np.array_equal(second[first > 0], 4 - first[first > 0])


def test_label_beyond_the_organs_is_a_user_error(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", cases=("a",), epochs=5)
    path = folder / "evaluation" / "0-prediction.nii.gz"
    volume = read_volume(path)
    write_volume(path, Volume(volume.array + np.uint8(1), volume.geometry))
    with pytest.raises(UserError, match="values 1 to 4"):
        load_picture("a", *_run(folder))


def test_relative_paths_start_at_the_run(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", cases=("a",), epochs=5)
    listing = folder / "evaluation" / "cases.json"
    listing.write_text(listing.read_text(encoding="utf-8").replace(f"{folder}/", ""))
    assert '"evaluation/0-image' in listing.read_text(encoding="utf-8")
    assert load_picture("a", *_run(folder)).image.size


def test_broken_or_missing_list_of_files(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", cases=("a",), epochs=5)
    listing = folder / "evaluation" / "cases.json"
    listing.write_text('[{"case": "a"}]')
    with pytest.raises(UserError, match=r"cases\.json"):
        read_runs([folder])
    listing.unlink()
    (overlay,) = overlay_blocks(read_runs([folder]))
    assert not overlay.picture
    assert "ars-jax evaluate" in overlay.caption
