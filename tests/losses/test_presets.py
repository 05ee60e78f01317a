"""Presets against PyTorch: against stored outputs always, against live PyTorch and MONAI where they are installed.

`python tests/losses/test_presets.py` writes the stored outputs anew, from live PyTorch and MONAI.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ars_jax import losses
from ars_jax.gradients import pytorch
from ars_jax.losses import presets
from ars_jax.losses._checks import ArgumentError
from ars_jax.losses._regions import pooling_bounds

pytestmark = pytest.mark.usefixtures("quick")
STORED = Path(__file__).with_name("presets.npz")
SPACES = {"3-D": (6, 5, 4), "2-D": (9, 7)}
"""Of two samples each; a grid of 2 divides some sides, and of 3 others, so that bins overlap along the rest."""
CLASSES = 4
CONVENTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "monai_dice": ("monai_dice", {}),
    "monai_dice squared": ("monai_dice", {"squared_pred": True}),
    "monai_dice of the batch's organs": ("monai_dice", {"include_background": False, "batch": True}),
    "monai_dice of two smoothings": ("monai_dice", {"smooth_nr": 0.0, "smooth_dr": 1.0}),
    "monai_dice_ce": ("monai_dice_ce", {}),
    "monai_dice_ce weighted": ("monai_dice_ce", {"squared_pred": True, "include_background": False, "lambda_ce": 0.3}),
    "monai_tversky": ("monai_tversky", {}),
    "monai_tversky weighted": ("monai_tversky", {"alpha": 0.3, "beta": 0.7, "batch": True}),
    "monai_generalized_dice": ("monai_generalized_dice", {}),
    "monai_generalized_dice of the organs": ("monai_generalized_dice", {"include_background": False}),
    "monai_generalized_dice of the batch": ("monai_generalized_dice", {"batch": True}),
    "nnunet_dice_ce": ("nnunet_dice_ce", {}),
    "nnunet_dice_ce of the batch": ("nnunet_dice_ce", {"batch_dice": True}),
    "nnunet_dice_ce of the class's defaults": ("nnunet_dice_ce", {"smooth": 1.0, "do_bg": True}),
    "nnunet_dice_ce without smoothing": ("nnunet_dice_ce", {"smooth": 0.0}),
    "pytorch_ars": ("pytorch_ars", {"num_region_per_axis": 2}),
    "pytorch_ars of samples": ("pytorch_ars", {"num_region_per_axis": 3, "batch_dice": False, "do_bg": False}),
    "pytorch_ars summed": (
        "pytorch_ars",
        {"num_region_per_axis": 2, "region_reduction": "sum", "A": 0.1, "B": 0.8},
    ),
}
every_convention = pytest.mark.parametrize("convention", CONVENTIONS)
every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())


def case(space: tuple[int, ...], *, confident: bool = False, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits [2, *space, c] and labels: the last class has a single voxel in one sample, the one before it none."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES - 2, (2, *space), np.int32)
    labels[:, : space[0] // 2] = 0
    labels[(1, *(0,) * len(space))] = CLASSES - 1
    logits = rng.normal(scale=2.0, size=(*labels.shape, CLASSES))
    return logits + 6.0 * confident * (labels[..., None] == np.arange(CLASSES)), labels


def dimensions_of(logits: np.ndarray) -> dict[str, int]:
    """Options that describe the images to a loss."""
    return {"spatial_dims": logits.ndim - 2}


def value_and_gradient(name: str, logits: np.ndarray, labels: np.ndarray, **options: Any) -> tuple[float, np.ndarray]:
    """By JAX, in the precision of the logits."""
    options = dimensions_of(logits) | options
    with jax.enable_x64(logits.dtype == np.float64):
        arrays = {key: option for key, option in options.items() if key == "where"}
        rest = {key: option for key, option in options.items() if key != "where"}

        def loss(z: jax.Array, y: jax.Array, arrays: dict[str, jax.Array]) -> jax.Array:
            return getattr(presets, name)(z, y, **arrays, **rest)

        value, slopes = jax.value_and_grad(loss)(logits, labels, arrays)
        assert value.dtype == slopes.dtype == logits.dtype
        return float(value), np.asarray(slopes)


def by_pytorch(name: str, logits: np.ndarray, labels: np.ndarray, **options: Any) -> tuple[float, np.ndarray]:
    """By PyTorch, in the precision of the logits."""
    return pytorch.value_and_gradient(name, logits, labels, **dimensions_of(logits), **options)


def assert_same(found: tuple[float, np.ndarray], wanted: tuple[float, np.ndarray], tolerance: float) -> None:
    """Relative to the value, and to the largest slope."""
    np.testing.assert_allclose(found[0], wanted[0], rtol=tolerance)
    np.testing.assert_allclose(found[1], wanted[1], rtol=0, atol=tolerance * np.abs(wanted[1]).max())


def live() -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed")
    pytest.importorskip("monai", reason="MONAI is not installed")


def made() -> dict[str, np.ndarray]:
    """What is stored: the outputs of PyTorch for every convention and space."""
    arrays = {}
    for dimensions, space in SPACES.items():
        for convention, (name, options) in CONVENTIONS.items():
            value, gradient = by_pytorch(name, *case(space), **options)
            arrays[f"{dimensions}: {convention}, value"] = np.asarray(value)
            arrays[f"{dimensions}: {convention}, gradient"] = gradient
    return arrays


@pytest.fixture(scope="module")
def stored() -> dict[str, np.ndarray]:
    with np.load(STORED) as file:
        return dict(file)


def test_every_preset_has_a_stored_convention() -> None:
    public = {name for name in vars(presets) if name.startswith(("monai_", "nnunet_", "pytorch_"))}
    assert {name for name, _ in CONVENTIONS.values()} == public


def test_stored_outputs_are_those_of_live_pytorch(stored: dict[str, np.ndarray]) -> None:
    live()
    wanted = made()
    assert stored.keys() == wanted.keys()
    for key, array in wanted.items():
        np.testing.assert_allclose(stored[key], array, rtol=1e-10, atol=1e-15, err_msg=key)


@every_convention
@pytest.mark.parametrize("dimensions", SPACES)
def test_presets_give_pytorchs_stored_outputs(dimensions: str, convention: str, stored: dict[str, np.ndarray]) -> None:
    name, options = CONVENTIONS[convention]
    logits, labels = case(SPACES[dimensions])
    wanted = tuple(stored[f"{dimensions}: {convention}, {part}"] for part in ("value", "gradient"))
    assert_same(value_and_gradient(name, logits, labels, **options), (float(wanted[0]), wanted[1]), 1e-9)
    if dimensions == "3-D":
        single = value_and_gradient(name, logits.astype(np.float32), labels, **options)
        assert_same(single, (float(wanted[0]), wanted[1]), 1e-5)


@every_convention
@every_space
def test_confident_predictions_give_live_pytorchs_outputs(space: tuple[int, ...], convention: str) -> None:
    live()
    name, options = CONVENTIONS[convention]
    arrays = case(space, confident=True, seed=1)
    assert_same(value_and_gradient(name, *arrays, **options), by_pytorch(name, *arrays, **options), 1e-9)


@pytest.mark.parametrize(
    "convention",
    ["monai_dice", "monai_dice squared", "monai_dice_ce", "monai_tversky", "nnunet_dice_ce", "pytorch_ars"],
)
def test_soft_labels_give_live_pytorchs_outputs(convention: str) -> None:
    live()
    name, options = CONVENTIONS[convention]
    logits, labels = case(SPACES["3-D"])
    soft = np.random.default_rng(2).dirichlet(np.full(CLASSES, 0.5), labels.shape)
    found = value_and_gradient(name, logits, soft, **options)
    assert_same(found, by_pytorch(name, logits, soft, **options), 1e-9)


@pytest.mark.parametrize("name", ["monai_dice", "monai_tversky", "nnunet_dice_ce", "pytorch_ars"])
def test_where_is_the_ignored_label_of_live_pytorch(name: str) -> None:
    live()
    logits, labels = case(SPACES["3-D"])
    where = np.random.default_rng(3).random(labels.shape) < 0.75
    labels = np.where(where, labels, 255)
    options: dict[str, Any] = {"where": where, **({"num_region_per_axis": 2} if name == "pytorch_ars" else {})}
    found = value_and_gradient(name, logits, labels, **options)
    assert_same(found, by_pytorch(name, logits, labels, **options), 1e-9)
    assert not found[1][~where].any()


def test_large_organs_and_absent_ones_keep_monais_weights() -> None:
    """Large organs' weights 1 / G^2 drown in the smoothing: a miss of everything scores far below 1."""
    live()
    labels = np.zeros((1, 512, 512), np.int32)
    labels[:, 256:] = 1
    logits = 9.0 * (np.arange(3) == 1 - labels[..., None])
    found = value_and_gradient("monai_generalized_dice", logits, labels)
    assert_same(found, by_pytorch("monai_generalized_dice", logits, labels), 1e-9)
    with jax.enable_x64(True):
        assert float(losses.generalized_dice(jnp.asarray(logits), jnp.asarray(labels), spatial_dims=2)) > 0.99
    assert found[0] < 0.8


def test_more_bins_than_voxels_are_those_of_live_pytorch() -> None:
    live()
    arrays = case(SPACES["2-D"])
    found = value_and_gradient("pytorch_ars", *arrays)
    assert_same(found, by_pytorch("pytorch_ars", *arrays), 1e-9)


def test_pooling_bins_are_pytorchs() -> None:
    assert pooling_bounds((5, 2), (3, 4)) == (
        ((0, 2), (1, 4), (3, 5)),
        ((0, 1), (0, 1), (1, 2), (1, 2)),
    )


def test_pooled_means_are_sums_with_an_eps_of_region_voxels() -> None:
    """Where sides divide, the public module is the paper's loss of another eps, with absent pairs and a mean."""
    with jax.enable_x64(True):
        logits, labels = (jnp.asarray(array[:1]) for array in case((6, 4, 4)))
        wanted = losses.adaptive_region_specific(
            logits, labels, regions=2, absent_classes="include", reduction="mean", eps=12 * 1e-5
        )
        found = presets.pytorch_ars(logits, labels, num_region_per_axis=2)
        np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_mean_of_thousands_of_regions_keeps_its_digits() -> None:
    """A float32 sum of 2,916 values near 1 in one go is off by 1e-5."""
    logits, labels = case((8, 6, 5))
    single = jax.jit(lambda z, y: presets.pytorch_ars(z, y, num_region_per_axis=9))(logits.astype(np.float32), labels)
    with jax.enable_x64(True):
        wanted = presets.pytorch_ars(jnp.asarray(logits), jnp.asarray(labels), num_region_per_axis=9)
    np.testing.assert_allclose(single, wanted, rtol=1e-6)


@pytest.mark.parametrize("name", sorted({name for name, _ in CONVENTIONS.values()}))
def test_nothing_counted_stays_finite(name: str) -> None:
    options = {"num_region_per_axis": 2} if name == "pytorch_ars" else {}
    logits, labels = np.full((1, 4, 4, 3), np.nan, np.float32), np.ones((1, 4, 4), np.int32)
    value, gradient = value_and_gradient(name, logits, labels, where=np.zeros((1, 4, 4), bool), **options)
    assert np.isfinite(value) and not gradient.any()


def test_compiled_presets_are_the_same() -> None:
    """The compiler may not undo the root and square by which MONAI rounds."""
    logits, labels = case(SPACES["3-D"])
    with jax.enable_x64(True):
        loss = jax.value_and_grad(lambda z, y: presets.monai_dice_ce(z, y, squared_pred=True))
        eager, compiled = loss(logits, labels), jax.jit(loss)(logits, labels)
    assert_same((float(compiled[0]), np.asarray(compiled[1])), (float(eager[0]), np.asarray(eager[1])), 1e-14)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("labels.shape", {"labels": np.zeros((2, 9, 6), np.int32)}),
        ("num_region_per_axis", {"num_region_per_axis": (2, 2, 2)}),
        ("region_reduction", {"region_reduction": "max"}),
    ],
)
def test_wrong_arguments_are_named(name: str, options: dict[str, Any]) -> None:
    logits, labels = case(SPACES["2-D"])
    given = {"labels": labels, "num_region_per_axis": 2, "spatial_dims": 2, **options}
    with pytest.raises(ArgumentError) as caught:
        presets.pytorch_ars(logits, **given)
    assert caught.value.name == name


if __name__ == "__main__":
    np.savez_compressed(STORED, **made())  # pyright: ignore[reportArgumentType]
