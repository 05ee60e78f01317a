import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from ars_jax.data.geometry import Geometry, mismatches
from ars_jax.data.volumes import Volume, canonical, map_to, read_geometry, read_volume, resample, write_volume
from ars_jax.errors import UserError
from tests.realdata import real_data

PLAIN = Geometry((4, 5, 6), (2.5, 0.5, 0.75), (-30.0, 12.5, 7.25))
FORMATS = (".nii.gz", ".nii", ".nrrd", ".mha")


def noise(geometry: Geometry = PLAIN, dtype: str = "int16", seed: int = 0) -> Volume:
    values = np.random.default_rng(seed).integers(0, 100, geometry.shape)
    return Volume(values.astype(dtype), geometry)


def turned(permutation: tuple[int, ...], signs: tuple[int, ...], tilt: float = 0.0) -> Geometry:
    """A grid whose axes are permuted, flipped and then turned by `tilt` radians about z."""
    matrix = np.zeros((3, 3))
    for axis, (place, sign) in enumerate(zip(permutation, signs, strict=True)):
        matrix[place, axis] = sign
    c, s = np.cos(tilt), np.sin(tilt)
    matrix = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ matrix
    return Geometry((4, 5, 6), (2.5, 0.5, 0.75), (-30.0, 12.5, 7.25), tuple(matrix.ravel().tolist()))


def points(geometry: Geometry) -> np.ndarray:
    """The physical place of every voxel, by a plain loop."""
    direction = np.reshape(geometry.direction, (3, 3))
    out = np.zeros((*geometry.shape, 3))
    for index in np.ndindex(geometry.shape):
        out[index] = np.array(geometry.origin) + direction @ (np.array(index) * geometry.spacing)
    return out


def by_place(volume: Volume) -> dict[tuple[float, ...], float]:
    places = np.round(points(volume.geometry), 3) + 0.0
    return {tuple(places[i].tolist()): volume.array[i].item() for i in np.ndindex(volume.array.shape)}


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32", "float64"])
def test_writing_and_reading_keep_voxels_type_and_grid(tmp_path: Path, suffix: str, dtype: str):
    volume = noise(turned((0, 1, 2), (1, -1, -1), tilt=0.1), dtype)
    write_volume(tmp_path / "new folder" / f"häd{suffix}", volume)
    back = read_volume(tmp_path / "new folder" / f"häd{suffix}")
    np.testing.assert_array_equal(back.array, volume.array)
    assert back.array.dtype == volume.array.dtype
    assert mismatches(back.geometry, volume.geometry) == []
    assert mismatches(read_geometry(tmp_path / "new folder" / f"häd{suffix}"), volume.geometry) == []
    assert os.listdir(tmp_path / "new folder") == [f"häd{suffix}"]


def test_array_axes_are_z_y_x(tmp_path: Path):
    image = sitk.Image(6, 5, 4, sitk.sitkInt16)
    image.SetSpacing((0.75, 0.5, 2.5))
    image.SetOrigin((7.25, 12.5, -30.0))
    image[3, 2, 1] = 7
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    volume = read_volume(tmp_path / "a.nrrd")
    assert volume.geometry == PLAIN
    assert volume.array[1, 2, 3] == 7


def test_big_endian_files_become_native_arrays(tmp_path: Path):
    values = np.arange(24, dtype=">i2")
    head = "NRRD0004\ntype: int16\ndimension: 3\nsizes: 4 3 2\nendian: big\nencoding: raw\n\n"
    (tmp_path / "big.nrrd").write_bytes(head.encode() + values.tobytes())
    array = read_volume(tmp_path / "big.nrrd").array
    assert array.dtype == np.dtype("int16") and array.dtype.isnative
    np.testing.assert_array_equal(array.ravel(), np.arange(24))


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nan_stays_nan(tmp_path: Path, suffix: str, dtype: str):
    volume = noise(dtype=dtype)
    volume.array[1, 2, 3] = np.nan
    write_volume(tmp_path / f"n{suffix}", volume)
    np.testing.assert_array_equal(read_volume(tmp_path / f"n{suffix}").array, volume.array)


def test_bool_is_written_as_bytes(tmp_path: Path):
    write_volume(tmp_path / "m.nrrd", Volume(noise().array > 50, PLAIN))
    assert read_volume(tmp_path / "m.nrrd").array.dtype == np.uint8


def test_volume_refuses_an_array_of_another_shape():
    with pytest.raises(ValueError, match="shape"):
        Volume(np.zeros((4, 5, 7)), PLAIN)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("kept", [0.5, 0.97])
def test_a_cut_file_is_an_error(tmp_path: Path, suffix: str, kept: float):
    path = tmp_path / f"cut{suffix}"
    write_volume(path, noise(Geometry((20, 21, 22), (1, 1, 1), (0, 0, 0))))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(UserError, match=r"cut.*incomplete or damaged") as caught:
        read_volume(path)
    assert caught.value.thing == str(path)


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".nrrd"])
def test_a_damaged_byte_in_a_compressed_file_is_an_error(tmp_path: Path, suffix: str):
    path = tmp_path / f"bad{suffix}"
    write_volume(path, noise(Geometry((20, 21, 22), (1, 1, 1), (0, 0, 0))))
    data = bytearray(path.read_bytes())
    data[len(data) * 3 // 4] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(UserError, match="bad"):
        read_volume(path)


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        ("empty.nii.gz", b"", "empty file"),
        ("text.nrrd", b"hello\n", "couldn't parse"),
        ("text.nii", b"hello\n" * 200, "not recognized as a NIFTI file"),
        ("text.mha", b"hello\n", "not a whole MetaImage"),
        ("zip.nii.gz", gzip.compress(b"hello", mtime=0), "not recognized"),
        ("scan.jpg", b"abc", "ending '.jpg'"),
    ],
)
def test_what_is_no_volume_is_one_clear_error(tmp_path: Path, name: str, content: bytes, cause: str):
    (tmp_path / name).write_bytes(content)
    for read in (read_volume, read_geometry):
        with pytest.raises(UserError, match=cause) as caught:
            read(tmp_path / name)
        assert caught.value.thing == str(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_link_to_itself_are_errors(tmp_path: Path):
    (tmp_path / "loop.nii").symlink_to(tmp_path / "loop.nii")
    with pytest.raises(UserError, match="no such file"):
        read_volume(tmp_path / "none.nii")
    with pytest.raises(UserError, match=r"loop.nii: found too many levels"):
        read_volume(tmp_path / "loop.nii")


@pytest.mark.parametrize(("shape", "words"), [((5, 6), "2-D"), ((3, 4, 5, 6), "4-D data of 6 x 5 x 4 x 3")])
def test_other_ranks_are_errors(tmp_path: Path, shape: tuple[int, ...], words: str):
    path = str(tmp_path / "rank.nii.gz")
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros(shape, np.int16), isVector=False), path)
    for read in (read_volume, read_geometry):
        with pytest.raises(UserError, match=words):
            read(path)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_a_fourth_axis_of_one_is_dropped(tmp_path: Path, suffix: str):
    path = str(tmp_path / f"four{suffix}")
    image = sitk.GetImageFromArray(np.arange(120, dtype=np.int16).reshape(1, 4, 5, 6), isVector=False)
    image.SetSpacing((0.75, 0.5, 2.5, 1.0))
    sitk.WriteImage(image, path)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, np.arange(120).reshape(4, 5, 6))
    assert volume.geometry.spacing == (2.5, 0.5, 0.75) == read_geometry(path).spacing


def test_colour_images_are_errors(tmp_path: Path):
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5, 6, 3), np.uint8), isVector=True), str(tmp_path / "c.nrrd"))
    with pytest.raises(UserError, match="3 values per voxel"):
        read_volume(tmp_path / "c.nrrd")


def test_complex_images_are_errors(tmp_path: Path):
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5, 6), np.complex64)), str(tmp_path / "c.nii"))
    with pytest.raises(UserError, match="2 values per voxel"):
        read_volume(tmp_path / "c.nii")


def test_a_sheared_affine_is_named(tmp_path: Path):
    write_volume(tmp_path / "s.nii", noise())
    data = bytearray((tmp_path / "s.nii").read_bytes())
    data[252:256] = struct.pack("<hh", 0, 1)
    data[280:328] = struct.pack("<12f", 1, 0.3, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0)
    (tmp_path / "s.nii").write_bytes(data)
    with pytest.raises(UserError, match="sheared affine"):
        read_volume(tmp_path / "s.nii")


def test_writing_names_a_wrong_ending_or_place_and_leaves_nothing(tmp_path: Path):
    with pytest.raises(UserError, match=r"ending '.png'"):
        write_volume(tmp_path / "a.png", noise())
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="wanted a place that can be written"):
        write_volume(tmp_path / "file" / "a.nii", noise())
    (tmp_path / "b.nii").mkdir()
    with pytest.raises(UserError, match=r"b\.nii"):
        write_volume(tmp_path / "b.nii", noise())
    assert sorted(os.listdir(tmp_path)) == ["b.nii", "file"]


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"shape": (4, 5, 7)}, "size", "size (4, 5, 7) voxels against (4, 5, 6) voxels"),
        ({"spacing": (3.0, 0.5, 0.75)}, "spacing", "spacing (3, 0.5, 0.75) mm against (2.5, 0.5, 0.75) mm"),
        ({"origin": (-30.0, 12.6, 7.25)}, "origin", "origin (-30, 12.6, 7.25) mm against (-30, 12.5, 7.25) mm"),
        ({"direction": (-1.0, 0, 0, 0, 1, 0, 0, 0, 1)}, "direction", "direction (-1, 0, 0, 0, 1, 0, 0, 0, 1) against"),
    ],
)
def test_each_difference_of_grids_is_named_with_both_values(change: dict, kind: str, words: str):
    other = Geometry(**{**vars(PLAIN), **change})
    (found,) = mismatches(other, PLAIN)
    assert found.kind == kind
    assert words in str(found)


def test_rounding_to_float32_is_no_difference():
    exact = Geometry((4, 5, 6), (2.5, 0.9765625, 1 / 3), (-1234.56789, 987.654321, 0.1))
    spacing, origin = (np.array(values, np.float32).tolist() for values in (exact.spacing, exact.origin))
    rounded = Geometry(exact.shape, tuple(spacing), tuple(origin))
    assert exact != rounded
    assert mismatches(exact, rounded) == []


@settings(max_examples=40, deadline=None)
@given(
    permutation=st.permutations((0, 1, 2)), signs=st.tuples(*[st.sampled_from((-1, 1))] * 3), tilt=st.floats(-0.6, 0.6)
)
def test_canonical_moves_no_voxel_and_points_to_left_posterior_superior(permutation, signs, tilt):
    volume = noise(turned(tuple(permutation), signs, tilt))
    result = canonical(volume)
    assert by_place(result) == by_place(volume)
    assert np.all(np.diag(np.reshape(result.geometry.direction, (3, 3))) > 0.7)
    assert result.array.dtype == volume.array.dtype


def test_canonical_is_undone_by_sampling_on_the_first_grid():
    volume = noise(turned((2, 0, 1), (-1, 1, -1), tilt=0.3))
    back = map_to(canonical(volume), volume.geometry)
    np.testing.assert_array_equal(back.array, volume.array)
    assert back.geometry == volume.geometry


def test_linear_sampling_is_exact_for_a_ramp_in_space():
    def ramp(geometry: Geometry) -> np.ndarray:
        return (points(geometry) @ [2.0, -3.0, 5.0] + 7).astype(np.float32)

    source = Geometry((8, 9, 10), (2.0, 1.5, 1.0), (0.0, 0.0, 0.0))
    target = Geometry((5, 6, 7), (1.3, 0.7, 0.6), (8.0, 4.0, 3.0), turned((0, 1, 2), (-1, 1, 1), 0.2).direction)
    result = resample(Volume(ramp(source), source), target, interpolation="linear", fill=-1000)
    inside = result.array > -1000
    assert inside.mean() > 0.9
    np.testing.assert_allclose(result.array[inside], ramp(target)[inside], rtol=1e-5, atol=1e-3)


def test_sampling_outside_gives_the_fill_value():
    volume = noise()
    away = Geometry((2, 3, 4), (1, 1, 1), (500.0, 0, 0))
    assert np.all(resample(volume, away, interpolation="linear", fill=-1024).array == -1024)
    assert np.all(map_to(volume, away).array == 0)


def test_nearest_sampling_takes_the_closest_voxel():
    volume = noise()
    target = Geometry((6, 6, 6), (1.1, 0.4, 0.55), (-31.8, 12.6, 7.4), turned((0, 1, 2), (1, 1, 1), 0.1).direction)
    result = resample(volume, target, interpolation="nearest", fill=255)
    source_places = points(PLAIN).reshape(-1, 3) / PLAIN.spacing
    expected = np.zeros(target.shape)
    for index, place in zip(np.ndindex(target.shape), points(target).reshape(-1, 3), strict=True):
        offset = (place - PLAIN.origin) / PLAIN.spacing
        outside = np.any(offset < -0.5) or np.any(offset > np.array(PLAIN.shape) - 0.5)
        nearest = np.argmin(((source_places - place / PLAIN.spacing) ** 2).sum(-1))
        expected[index] = 255 if outside else volume.array.ravel()[nearest]
    assert (expected < 255).any() and (expected == 255).any()
    np.testing.assert_array_equal(result.array, expected)


def write_series(folder: Path, uid: str, places: tuple[float, ...] = (0, 2, 4, 6), shift: float = 0) -> list[Path]:
    """Slices of 5 x 6 pixels at the given z in mm; `shift` mm of y per mm of z is a tilted gantry."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    files = []
    for number, z in enumerate(places):
        image = sitk.GetImageFromArray(np.full((1, 5, 6), number, np.int16))
        tags = {"0020|000e": uid, "0008|0018": f"{uid}.{number}", "0020|0032": f"0\\{z * shift:g}\\{z:g}"}
        tags |= {"0008|0060": "CT", "0020|000d": "1.2.9", "0020|0037": "1\\0\\0\\0\\1\\0", "0020|0013": str(number)}
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        files.append(folder / f"{uid}-{number}.dcm")
        writer.SetFileName(str(files[-1]))
        writer.Execute(image)
    return files


def test_a_dicom_series_is_read_as_one_volume():
    volume = read_volume(real_data("dicom_ct", "series"))
    assert volume.array.shape == (20, 512, 512)
    assert volume.array.min() >= -1024 and volume.array.max() > 300
    assert volume.geometry.spacing == (2.0, 0.9765625, 0.9765625)
    assert read_geometry(real_data("dicom_ct", "series")) == volume.geometry


def test_slices_are_stacked_by_place_not_by_name(tmp_path: Path):
    write_series(tmp_path / "s", "1.2.3", places=(4, 0, 6, 2))
    volume = read_volume(tmp_path / "s")
    assert volume.array[:, 0, 0].tolist() == [1, 3, 0, 2]
    assert volume.geometry == Geometry((4, 5, 6), (2, 1, 1), (0, 0, 0))


@pytest.mark.parametrize(
    ("places", "shift", "words"),
    [((0, 2, 6, 8), 0, "slices 2 to 4 mm apart"), ((0, 2, 2, 4), 0, "slices 0 to 2 mm"), ((0, 2, 4), 0.2, "tilted")],
)
def test_missing_doubled_or_tilted_slices_are_errors(tmp_path: Path, places: tuple, shift: float, words: str):
    write_series(tmp_path / "s", "1.2.3", places, shift)
    with pytest.raises(UserError, match=words) as caught:
        read_volume(tmp_path / "s")
    assert caught.value.thing == str(tmp_path / "s")


def test_an_unreadable_slice_is_named(tmp_path: Path):
    last = write_series(tmp_path / "s", "1.2.3")[-1]
    last.write_bytes(last.read_bytes()[:200])
    with pytest.raises(UserError, match="unreadable DICOM slice") as caught:
        read_geometry(tmp_path / "s")
    assert caught.value.thing == str(last)


def test_several_dicom_series_in_a_folder_are_named(tmp_path: Path):
    write_series(tmp_path / "s", "1.2.3")
    write_series(tmp_path / "s", "1.2.4", places=(0, 2))
    with pytest.raises(UserError, match="2 DICOM series") as caught:
        read_volume(tmp_path / "s")
    assert "1.2.3 (4 files)" in str(caught.value) and "1.2.4 (2 files)" in str(caught.value)


def test_a_folder_without_dicom_is_an_error(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(UserError, match="a folder without DICOM series"):
        read_volume(tmp_path)


def test_a_flipped_label_map_matches_its_series_in_space_only():
    series = read_volume(real_data("dicom_ct", "series"))
    label = read_volume(real_data("dicom_ct", "segmentation.nii.gz"))
    assert [found.kind for found in mismatches(label.geometry, series.geometry)] == ["origin", "direction"]
    moved = map_to(label, series.geometry)
    np.testing.assert_array_equal(moved.array, label.array[:, ::-1])
    assert mismatches(canonical(label).geometry, series.geometry) == []
