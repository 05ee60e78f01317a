"""The smallest inputs that once ended in a traceback, in silence or in a full memory."""

import gzip
import json
import math
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ars_jax import report
from ars_jax.cli import main
from ars_jax.data.cache import load_sample
from ars_jax.data.geometry import Geometry
from ars_jax.data.labels import checked_labels
from ars_jax.data.plan import Plan, read_plan
from ars_jax.data.prepare import prepare_image
from ars_jax.data.survey import survey_image
from ars_jax.data.volumes import Volume, read_geometry, read_volume, write_volume
from ars_jax.errors import UserError
from ars_jax.files import read_json
from ars_jax.laboratory.cases import from_npz
from ars_jax.train.inputs import read_split
from tests.bad.files import MHA, NRRD
from tests.data.synthetic import PLAN

GRID = Geometry((4, 4, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
RAMP = Volume(np.arange(64, dtype=np.float32).reshape(GRID.shape), GRID)


def nifti(folder: Path, **header: float) -> Path:
    """A sound file, of whose header single numbers are replaced, by their place."""
    path = folder / "a.nii"
    write_volume(path, RAMP)
    content = bytearray(path.read_bytes())
    struct.pack_into("<hh", content, 252, 0, 0)  # no affine, so that pixdim counts
    for place, number in header.items():
        struct.pack_into("<f", content, int(place.removeprefix("at")), number)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("spacing", [0.0, -1.0, math.nan, math.inf])
def test_a_header_without_a_spacing_is_refused_instead_of_taken_for_a_millimetre(
    tmp_path: Path, spacing: float
) -> None:
    with pytest.raises(UserError, match=r"a\.nii: found spacing .* in pixdim; wanted positive sides"):
        read_volume(nifti(tmp_path, at80=spacing))


@pytest.mark.parametrize("sides", ["0 8 8", "8 8 0"])
def test_a_volume_without_voxels_is_refused(tmp_path: Path, sides: str) -> None:
    path = tmp_path / "a.mha"
    header = f"ObjectType = Image\nNDims = 3\nDimSize = {sides}\nElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    path.write_bytes(header.encode() + bytes(1024))
    for read in (read_volume, read_geometry):
        with pytest.raises(UserError, match=r"a.mha: found .*0 voxels|a.mha: found 0 x"):
            read(path)


@pytest.mark.parametrize(("place", "code"), [(280, 254), (300, 254), (256, 252), (276, 252)])
@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_place_that_is_no_number_is_refused(tmp_path: Path, place: int, code: int, number: float) -> None:
    """In the form that counts; ITK may take another place instead."""
    path = tmp_path / "a.nii"
    write_volume(path, RAMP)
    content = bytearray(path.read_bytes())
    for form in (252, 254):
        struct.pack_into("<h", content, form, int(form == code))
    struct.pack_into("<f", content, place, number)
    path.write_bytes(content)
    for read in (read_volume, read_geometry):
        with pytest.raises(UserError, match=r"NaN or infinity|orthogonal|right angles|whole 3-D volume"):
            read(path)


@pytest.mark.parametrize("spacing", [1e30, 1e-30])
def test_a_spacing_beyond_any_scanner_is_refused(tmp_path: Path, spacing: float) -> None:
    with pytest.raises(UserError, match=r"found spacing .* wanted 1e-06 to 10000 mm"):
        read_geometry(nifti(tmp_path, at80=spacing))


def test_an_origin_far_from_any_patient_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.nrrd"
    write_volume(path, Volume(RAMP.array, Geometry(GRID.shape, GRID.spacing, (0.0, 1e30, 0.0))))
    with pytest.raises(UserError, match=r"found origin .* wanted within 1e\+06 mm"):
        read_volume(path)


def test_what_lies_behind_the_voxels_fills_no_memory(tmp_path: Path) -> None:
    """A few bytes of gzip unfold to a thousand times as many."""
    path = tmp_path / "a.nii.gz"
    write_volume(path, RAMP)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(100_000_000), 1))
    tracemalloc.start()
    read_volume(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_a_header_of_more_voxels_than_any_volume_has_is_refused_before_they_are_read(
    tmp_path: Path, ending: str
) -> None:
    path = tmp_path / f"a{ending}"
    sizes = "32767 32767 32767"
    text = {".nrrd": NRRD.format("short", 3, sizes, "", "raw"), ".mha": MHA.format("MET_SHORT", 3, sizes, "")}
    write_volume(tmp_path / "a.nii", RAMP)
    content = bytearray((tmp_path / "a.nii").read_bytes())
    struct.pack_into("<3h", content, 42, 32767, 32767, 32767)
    nifti = gzip.compress(content) if ending == ".nii.gz" else bytes(content)
    path.write_bytes(text[ending].encode() if ending in text else nifti)
    for read in (read_volume, read_geometry):
        with pytest.raises(UserError, match=r"found 32767 x 32767 x 32767 voxels .* wanted at most 2147483648 voxels"):
            read(path)


def test_a_ct_of_the_whole_body_is_not_too_large(tmp_path: Path) -> None:
    path = tmp_path / "a.nrrd"
    path.write_text(NRRD.format("short", 3, "512 512 2000", "", "raw"), encoding="utf-8")
    assert read_geometry(path).shape == (2000, 512, 512)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_file_that_cannot_hold_its_voxels_takes_no_memory_for_them(tmp_path: Path, zipped: bool) -> None:
    content = bytearray(nifti(tmp_path).read_bytes())
    struct.pack_into("<3h", content, 42, 1000, 1000, 1000)
    path = tmp_path / ("b.nii.gz" if zipped else "b.nii")
    path.write_bytes(gzip.compress(content) if zipped else content)
    tracemalloc.start()
    with pytest.raises(UserError, match="incomplete"):
        read_volume(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_measures_of_the_largest_numbers_are_numbers() -> None:
    """Between them float32 has no difference, and JSON no infinity."""
    ends = np.where(RAMP.array % 2, np.float32(3e38), np.float32(-3e38))
    survey = survey_image(Volume(ends, GRID))
    assert survey is not None
    assert all(map(math.isfinite, survey.intensities))


def test_a_grid_of_more_voxels_than_fit_anywhere_is_refused() -> None:
    plan = Plan(PLAN.labels, spacing=(1e-30, 1.0, 1.0))
    with pytest.raises(UserError, match=r"image: found 4e\+30 x 4 x 4 voxels .* wanted at most 1073741824 voxels"):
        prepare_image(RAMP, plan)


def test_a_margin_beyond_the_image_keeps_the_image() -> None:
    image, _ = prepare_image(RAMP, Plan(PLAN.labels, crop="nonzero", crop_margin_mm=1e308))
    assert image.shape == GRID.shape


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("canvas", {"canvas": (16, 1 << 20, 1 << 20)}),
        ("shape", {"shape": (1 << 20, 1 << 20, 1)}),
        ("window", {"intensity": "window", "window": (-1e308, 1e308)}),
    ],
)
def test_a_plan_beyond_memory_or_float32_is_refused(key: str, options: dict) -> None:
    with pytest.raises(UserError, match=f"^{key}: found"):
        Plan(PLAN.labels, **options)


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5000, '{"a": NaN'], ids=["deep", "long", "cut"])
def test_json_that_python_cannot_read_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text, encoding="utf-8")
    for read in (read_json, read_plan, read_split):
        with pytest.raises(UserError, match=r"plan\.json"):
            read(path)


def test_a_split_of_other_things_than_hashes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "split.json"
    path.write_text(json.dumps({"train": {"a": ["b"]}, "validation": {}}), encoding="utf-8")
    with pytest.raises(UserError, match="something else"):
        read_split(path)


SOUND = {
    "name": np.array("a"),
    "shape": np.array(GRID.shape),
    "image": RAMP.array,
    "label": np.zeros(GRID.shape, np.uint8),
    "labelled": np.ones(2, bool),
}
CONTRADICTIONS = {
    "another rank": {"image": RAMP.array[0], "label": SOUND["label"][0]},
    "no voxel": {"image": RAMP.array[:0], "label": SOUND["label"][:0], "shape": np.array([0, 4, 4])},
    "other shapes": {"label": SOUND["label"][1:]},
    "another shape than it says": {"shape": np.array([4, 4, 5])},
    "labels of floats": {"label": RAMP.array},
    "labels beyond the classes": {"label": SOUND["label"] + np.uint8(2)},
    "NaN": {"image": RAMP.array * np.float32(np.nan)},
    "an object": {"name": np.array([{}], object)},
}


@pytest.mark.parametrize("change", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_a_prepared_case_that_contradicts_itself_is_damaged(tmp_path: Path, change: dict) -> None:
    """And is then prepared anew, instead of ending the training."""
    path = tmp_path / "a.npz"
    np.savez(path, **SOUND)
    assert load_sample(path).name == "a"
    np.savez(path, **{**SOUND, **change})
    with pytest.raises(UserError, match="a damaged file"):
        load_sample(path)


@pytest.mark.parametrize("content", [b"", b"text", b"\x80\x04."], ids=["nothing", "text", "a pickle"])
def test_an_archive_of_other_things_than_arrays_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name in (*SOUND, "logits", "labels"):
            archive.writestr(f"{name}.npy", content)
    for read in (load_sample, from_npz):
        with pytest.raises(UserError, match=r"a\.npz"):
            read(path)


@pytest.mark.parametrize("name", ["", " ", "a\nb", "\x1b[31m", "x" * 101])
def test_organs_have_names_that_can_be_shown(name: str) -> None:
    with pytest.raises(UserError, match="labels"):
        checked_labels("labels", {"Liver": 1, name: 2})
    with pytest.raises(UserError, match="labels"):
        Plan(("Liver", name))


def test_messages_hold_no_letters_that_steer_a_terminal_and_end_somewhere() -> None:
    error = UserError("a\x1b[31m\x07\udcff", found="x" * 5000, wanted="☢ ü", fix="y")
    assert str(error).startswith(r"a\x1b[31m\x07\udcff: found xxx")
    assert "... (5000 letters); wanted ☢ ü; fix: y" in str(error)
    assert len(str(error)) < 1200


@pytest.mark.parametrize(
    "words", [("check", "LOOP"), ("check", "DATA", "--repair", "LOOP"), ("report", "LOOP", "--out", "OUT")]
)
def test_a_link_to_itself_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    (tmp_path / "LOOP").symlink_to("LOOP")
    for part in ("images", "labels"):
        (tmp_path / "DATA" / part).mkdir(parents=True)
        nifti(tmp_path / "DATA" / part)
    assert main([str(tmp_path / word) if word.isupper() else word for word in words]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_paths_between_colons_are_no_emoji(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path / ":x:")]) == 2
    assert f"{tmp_path}/:x:: found no such folder" in capsys.readouterr().err


def test_a_full_memory_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(*_: object) -> None:
        raise MemoryError("9 TiB")

    monkeypatch.setattr(report, "write_report", full)
    assert main(["report", "run", "--out", "out"]) == 2
    assert capsys.readouterr().err.startswith("ars-jax: memory: found 9 TiB; wanted enough of it")
