import dataclasses
import os
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ars_jax.data import cache
from ars_jax.data.cache import cache_key, fingerprint, image_digest, load_sample, sample_shape
from ars_jax.data.cases import Case
from ars_jax.data.plan import Plan
from ars_jax.data.prepare import complete_plan, prepare_case, prepare_dataset
from ars_jax.data.volumes import Volume, write_volume
from ars_jax.errors import UserError
from ars_jax.locks import locked
from tests.data.dicom_files import write_series, write_structures
from tests.data.synthetic import LABELS, PLAN, ct, grid, written


def prepared(cases: list[Case], folder: Path, plan: Plan = PLAN, **more: Any) -> list[Path]:
    return [item.path for item in prepare_dataset(cases, LABELS, plan, folder / "cache", **more)]


def test_the_cache_is_reused_while_nothing_changed(tmp_path):
    cases = [written(tmp_path, "a"), written(tmp_path, "b")]
    seen = []
    paths = prepared(cases, tmp_path, progress=lambda *args: seen.append(args))
    assert seen == [(1, 2, "a"), (2, 2, "b")]
    stamps = [path.stat().st_mtime_ns for path in paths]
    assert prepared(cases, tmp_path) == paths
    assert [path.stat().st_mtime_ns for path in paths] == stamps
    for case, path in zip(cases, paths, strict=True):
        fresh, kept = prepare_case(case, LABELS, PLAN), load_sample(path)
        np.testing.assert_array_equal(fresh.image, kept.image)
        np.testing.assert_array_equal(fresh.label, kept.label)
        np.testing.assert_array_equal(fresh.labelled, kept.labelled)
        assert fresh.name == kept.name == case.name
        assert sample_shape(path) == fresh.image.shape


@pytest.mark.parametrize(("ending", "data"), [("mhd", "raw"), ("nhdr", "raw.gz")])
def test_the_data_file_beside_a_header_changes_the_key(tmp_path, ending, data):
    header, voxels = tmp_path / f"ct [1].{ending}", tmp_path / f"ct [1].{data}"
    header.write_text("header")
    voxels.write_bytes(b"before")
    case = Case("a", header)
    before = cache_key(case, LABELS, PLAN)
    (tmp_path / "other.raw").write_bytes(b"of another volume")
    assert cache_key(case, LABELS, PLAN) == before
    voxels.write_bytes(b"after")
    assert cache_key(case, LABELS, PLAN) != before


def test_a_structure_set_and_the_names_looked_for_in_it_change_the_key(tmp_path):
    image, structures = tmp_path / "ct.nii", tmp_path / "rs.dcm"
    image.write_bytes(b"ct")
    structures.write_bytes(b"before")
    names = {"Ball_L": ("Ball_L",), "Ball_R": ("Ball_R",)}
    keys = [cache_key(Case("a", image, structures=structures, contours=names), LABELS, PLAN)]
    renamed = names | {"Ball_L": ("Ball_L", "left ball")}
    keys.append(cache_key(Case("a", image, structures=structures, contours=renamed), LABELS, PLAN))
    structures.write_bytes(b"after")
    keys.append(cache_key(Case("a", image, structures=structures, contours=names), LABELS, PLAN))
    assert len({cache_key(Case("a", image), LABELS, PLAN), *keys}) == 4


def test_a_copied_data_set_keeps_its_keys(tmp_path):
    first, second = written(tmp_path / "here"), written(tmp_path / "there")
    assert first.image != second.image
    assert cache_key(first, LABELS, PLAN) == cache_key(second, LABELS, PLAN)


def test_the_digest_of_an_image_knows_neither_names_nor_labels(tmp_path):
    case = written(tmp_path / "here")
    renamed = Case("other", (tmp_path / "copy.nrrd"))
    renamed.image.write_bytes(case.image.read_bytes())
    assert image_digest(renamed) == image_digest(case) == fingerprint(case, LABELS, PLAN).image
    renamed.image.write_bytes(case.image.read_bytes() + b" ")
    assert image_digest(renamed) != image_digest(case)


def test_the_digest_of_a_series_is_that_of_its_slices(tmp_path):
    """Under other names, and without the structure set that may lie beside them."""
    image, _ = ct(grid())
    series, renamed = write_series(tmp_path / "a", image), write_series(tmp_path / "b", image)
    for number, file in enumerate(sorted(renamed.iterdir())):
        file.rename(renamed / f"{-number}.ima")
    write_structures(series / "RS.dcm", {})
    assert image_digest(Case("a", series)) == image_digest(Case("b", renamed))


def test_every_source_is_read_once(tmp_path, monkeypatch):
    case, read = written(tmp_path), []
    monkeypatch.setattr(cache, "_digest", lambda file: read.append(file) or "0")
    prepare_dataset([case], LABELS, PLAN, tmp_path / "cache")
    assert sorted(read) == sorted(path for path in (case.image, case.label) if path)


def test_the_canvas_does_not_make_the_cache_stale(tmp_path):
    case = written(tmp_path)
    paths = prepared([case], tmp_path)
    complete = complete_plan(PLAN, paths)
    assert complete.canvas == complete.whole == (16, 32, 32)
    assert complete_plan(complete, paths) == complete
    smaller = dataclasses.replace(PLAN, canvas=(16, 16, 16))
    assert complete_plan(smaller, paths) == dataclasses.replace(smaller, whole=(16, 32, 32))
    assert prepared([case], tmp_path, dataclasses.replace(complete, patch=(16, 16, 16))) == paths


@pytest.mark.parametrize(
    "change",
    [{"crop": "body"}, {"spacing": (2.0, 2.0, 2.0)}, {"shape": (8, 8, 8)}, {"window": (-100.0, 400.0)}],
)
def test_what_changes_the_arrays_changes_the_key(tmp_path, change):
    case = written(tmp_path)
    assert cache_key(case, LABELS, dataclasses.replace(PLAN, **change)) != cache_key(case, LABELS, PLAN)


def test_labels_and_unlabelled_organs_change_the_key(tmp_path):
    case = written(tmp_path)
    key = cache_key(case, LABELS, PLAN)
    assert cache_key(case, {"Ball_L": 7, "Ball_R": 3}, PLAN) != key
    assert cache_key(dataclasses.replace(case, unlabelled=("Ball_L",)), LABELS, PLAN) != key


def test_an_edited_source_is_prepared_again_even_with_its_old_date(tmp_path):
    case = written(tmp_path)
    (old,) = prepared([case], tmp_path)
    assert case.label is not None
    stamp = case.label.stat().st_mtime_ns
    image, label = ct(grid())
    write_volume(case.label, Volume(np.where(label.array == 3, 7, 0).astype(np.uint8), image.geometry))
    os.utime(case.label, ns=(stamp, stamp))
    (new,) = prepared([case], tmp_path)
    assert new != old
    assert set(np.unique(load_sample(new).label)) == {0, 2}


@pytest.mark.parametrize("damage", [lambda raw: raw[:200], lambda raw: b"", lambda raw: flip_byte(raw)])
def test_a_damaged_cache_file_is_made_again(tmp_path, damage):
    case = written(tmp_path)
    (path,) = prepared([case], tmp_path)
    whole = load_sample(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match="a damaged file"):
        load_sample(path)
    assert prepared([case], tmp_path) == [path]
    np.testing.assert_array_equal(load_sample(path).image, whole.image)


def flip_byte(raw: bytes) -> bytes:
    """Changes a voxel in the middle, which only the checksum can tell."""
    middle = len(raw) // 2
    return raw[:middle] + bytes([raw[middle] ^ 1]) + raw[middle + 1 :]


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    case = written(tmp_path)

    def full_disk(file, **arrays):
        file.write(b"half")
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full_disk)
        with pytest.raises(UserError, match="no space left"):
            prepare_dataset([case], LABELS, PLAN, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_what_a_kill_left_half_written_is_deleted(tmp_path):
    (tmp_path / "cache").mkdir()
    left = tmp_path / "cache" / ".case-0123456789abcdef.npz.123-89abcdef.tmp"
    left.write_bytes(b"half")
    (case,) = prepare_dataset([written(tmp_path)], LABELS, PLAN, tmp_path / "cache")
    assert not left.exists()
    assert case.path.exists()


def test_a_second_preparation_waits_for_the_first(tmp_path):
    """And says for whom."""
    cache, told = tmp_path / "cache", []
    with ExitStack() as first:
        assert first.enter_context(locked(cache / ".lock"))
        prepare_dataset([written(tmp_path)], LABELS, PLAN, cache, say=lambda text: told.append((text, first.close())))
    (line, _), *others = told
    assert line == f"waiting for process {os.getpid()} on {socket.gethostname()}, which prepares cases in {cache}"
    assert not others


def test_a_cache_that_cannot_be_written_is_a_user_error(tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="wanted a place that can be written"):
        prepare_dataset([written(tmp_path)], LABELS, PLAN, tmp_path / "cache")


def test_the_first_faulty_case_is_reported(tmp_path):
    good, bad = written(tmp_path, "good"), written(tmp_path, "bad", label_geometry=grid(spacing=(1.0, 1.0, 1.0)))
    with pytest.raises(UserError, match="case bad"):
        prepare_dataset([good, bad, good], LABELS, PLAN, tmp_path / "cache")


def test_labels_other_than_the_plans_are_a_user_error(tmp_path):
    with pytest.raises(UserError, match="labels"):
        prepare_dataset([written(tmp_path)], {"Ball_L": 3}, PLAN, tmp_path / "cache")
