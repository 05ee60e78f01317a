"""Cases of the laboratory: what is read from a file, what is refused, and what the phantom's prediction is like."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ars_jax.data.phantom import PHANTOM_LABELS, phantom_case
from ars_jax.errors import UserError
from ars_jax.laboratory.cases import Case, from_npz, from_phantom

pytestmark = pytest.mark.usefixtures("quick")
SPACE = (4, 5, 6)
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(2, *SPACE, 3)).astype(np.float32)
LABELS = RNG.integers(0, 3, (2, *SPACE))
WHERE = RNG.random((2, *SPACE)) < 0.5


def read(folder: Path, **arrays: Any) -> Case:
    np.savez(folder / "case.npz", **arrays)
    return from_npz(folder / "case.npz")


@pytest.fixture(scope="module")
def phantom() -> Case:
    return from_phantom()


def overlap(case: Case) -> dict[str, float]:
    """DSC of each organ's most probable voxels."""
    predicted, labels = case.logits.argmax(-1), case.labels
    return {
        name: 2 * ((predicted == k) & (labels == k)).sum() / max(((predicted == k) * 1 + (labels == k)).sum(), 1)
        for k, name in enumerate(case.organs, start=1)
    }


def test_the_phantom_has_a_plausible_prediction(phantom: Case) -> None:
    """Neither perfect nor hopeless, with one organ missed and one half missed."""
    scores = overlap(phantom)
    assert scores.pop("OpticNerve_R") == 0
    assert all(0.3 < score < 0.95 for score in scores.values())
    assert scores["Parotid_L"] < scores["Parotid_R"]
    glands = [phantom.organs.index(f"Submandibular_{side}") + 1 for side in "LR"]
    sizes = [(phantom.logits.argmax(-1) == k).sum() / (phantom.labels == k).sum() for k in glands]
    assert sizes[0] > 1.5 * sizes[1]


def test_the_phantom_lies_on_its_image(phantom: Case) -> None:
    image, label = phantom_case(0, (48, 48, 48))
    assert phantom.logits.shape == (1, 48, 48, 48, 11)
    assert (phantom.logits.dtype, phantom.labels.dtype) == ("float32", "int32")
    assert np.isfinite(phantom.logits).all()
    np.testing.assert_array_equal(phantom.labels[0], label.array)
    np.testing.assert_array_equal(phantom.image, image.array)
    assert phantom.geometry == image.geometry
    assert phantom.organs == tuple(PHANTOM_LABELS)
    assert phantom.where is None


def test_a_seed_decides_the_phantom() -> None:
    first, again, other = (from_phantom(seed, (40, 40, 42)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.logits, again.logits)
    assert np.abs(first.logits - other.logits).max() > 1
    with pytest.raises(UserError, match="shape"):
        from_phantom(shape=(39, 48, 48))
    with pytest.raises(UserError, match="seed"):
        from_phantom(-1)


STORED = {
    "two volumes": (np.s_[:], (2, 4, 5, 6)),
    "a volume in a batch": (np.s_[:1], (1, 4, 5, 6)),
    "a volume": (np.s_[0], (1, 4, 5, 6)),
    "a plane in a batch": (np.s_[:1, 0], (1, 5, 6)),
    "a plane": (np.s_[0, 0], (1, 5, 6)),
    "planes are a volume": (np.s_[:, 0], (1, 2, 5, 6)),
}


@pytest.mark.parametrize("stored", STORED)
def test_arrays_get_the_batch_that_they_lack(stored: str, tmp_path: Path) -> None:
    index, shape = STORED[stored]
    case = read(tmp_path, logits=LOGITS[index], labels=LABELS[index], where=WHERE[index])
    np.testing.assert_array_equal(case.logits, LOGITS[index].reshape(*shape, 3))
    np.testing.assert_array_equal(case.where, WHERE[index].reshape(shape))
    np.testing.assert_array_equal(case.labels, np.where(WHERE, LABELS, 0)[index].reshape(shape))
    assert case.organs == ("class 1", "class 2")
    assert case.image is case.geometry is None


@pytest.mark.parametrize("kind", ["float16", "float64", ">f4"])
@pytest.mark.parametrize("whole", ["uint8", "int64", "float32"])
def test_other_types_of_numbers_are_taken(kind: str, whole: str, tmp_path: Path) -> None:
    case = read(tmp_path, logits=LOGITS.astype(kind), labels=LABELS.astype(whole))
    assert (case.logits.dtype, case.labels.dtype, case.where) == (np.float32, np.int32, None)
    np.testing.assert_allclose(case.logits, LOGITS, rtol=2e-3)
    np.testing.assert_array_equal(case.labels, LABELS)


def test_voxels_that_do_not_count_may_hold_anything(tmp_path: Path) -> None:
    logits, labels = LOGITS.copy(), LABELS.copy()
    logits[~WHERE], labels[~WHERE] = np.nan, 255
    case = read(tmp_path, logits=logits, labels=labels, where=WHERE.astype(np.uint8))
    assert np.isfinite(case.logits).all()
    assert case.labels.max() < 3
    np.testing.assert_array_equal(case.logits[WHERE], LOGITS[WHERE])
    np.testing.assert_array_equal(case.labels[WHERE], LABELS[WHERE])


def with_voxel(array: np.ndarray, value: float) -> np.ndarray:
    array = array.copy()
    array.flat[7] = value
    return array


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "no labels": ({"logits": LOGITS}, r"labels: found only logits; wanted .*np\.savez"),
    "other names": ({"x": LOGITS, "y": LABELS}, "logits: found only x, y"),
    "classes first": ({"logits": np.moveaxis(LOGITS, -1, 1)}, r"put the classes last: np.moveaxis\(logits, 1, -1\)"),
    "classes first, no batch": (
        {"logits": np.moveaxis(LOGITS[0], -1, 0), "labels": LABELS[0]},
        r"np.moveaxis\(logits, 0, -1\)",
    ),
    "one-hot labels": ({"labels": np.eye(3)[LABELS]}, r"labels.argmax\(-1\)"),
    "labels with an axis of one": ({"labels": LABELS[..., None]}, "drop the last axis"),
    "other volume": ({"labels": LABELS[:, 1:]}, r"found logits \(2, 4, 5, 6, 3\) and labels \(2, 3, 5, 6\)"),
    "a line": ({"logits": LOGITS[0, 0, 0], "labels": LABELS[0, 0, 0]}, "found logits"),
    "nothing in it": ({"logits": LOGITS[:0], "labels": LABELS[:0]}, "found logits"),
    "NaN": ({"logits": with_voxel(LOGITS, np.nan)}, "logits: found 1 that are NaN or infinite"),
    "too large": ({"logits": with_voxel(LOGITS.astype(float), 1e300)}, "found 1 that are NaN or infinite in float32"),
    "integer logits": ({"logits": LABELS}, "logits: found int64"),
    "a class too many": ({"labels": with_voxel(LABELS, 255)}, "labels: found 0 to 255; wanted .* from 0 to 2.* where"),
    "a negative class": ({"labels": with_voxel(LABELS, -1)}, "labels: found -1 to 2"),
    "half a class": ({"labels": with_voxel(LABELS.astype(float), 0.5)}, "labels: found numbers that are not whole"),
    "NaN for a class": ({"labels": with_voxel(LABELS.astype(float), np.nan)}, "labels: found numbers that are not"),
    "words for labels": ({"labels": LABELS.astype(str)}, "labels: found <U"),
    "pickled labels": ({"labels": LABELS.astype(object)}, "found pickled objects"),
    "another mask": ({"where": WHERE[..., 1:]}, r"where: found bool \(2, 4, 5, 5\)"),
    "a mask of one sample": ({"where": WHERE[0]}, r"where: found bool \(4, 5, 6\)"),
    "a mask of weights": ({"where": WHERE * 0.5}, "where: found float64"),
    "an empty mask": ({"where": WHERE & False}, "where: found no true voxel"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_arrays_that_do_not_fit_are_refused_by_name(fault: str, tmp_path: Path) -> None:
    arrays, pattern = FAULTS[fault]
    standing = {} if fault in ("no labels", "other names") else {"logits": LOGITS, "labels": LABELS}
    with pytest.raises(UserError, match=pattern) as error:
        read(tmp_path, **{**standing, **arrays})
    assert str(tmp_path / "case.npz") in error.value.thing


def test_files_of_another_kind_are_refused_and_closed(tmp_path: Path) -> None:
    path = tmp_path / "case.npz"
    with pytest.raises(UserError, match="found no such file"):
        from_npz(path)
    with pytest.raises(UserError, match="found a folder"):
        from_npz(tmp_path)
    path.write_text("text")
    with pytest.raises(UserError, match="found another kind of file"):
        from_npz(path)
    np.save(tmp_path / "case.npy", LOGITS)
    with pytest.raises(UserError, match="found another kind of file"):
        from_npz(tmp_path / "case.npy")
    np.savez(path, logits=LOGITS, labels=LABELS)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="found another kind of file"):
        from_npz(path)
    path.write_bytes(whole[:3000] + bytes(8) + whole[3008:])
    with pytest.raises(UserError, match="found a damaged file"):
        from_npz(path)
