"""The losses once more in PyTorch: the same value and gradient as this package's, for every option."""

import importlib.util
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from ars_jax import losses
from ars_jax.gradients import pytorch
from tests.losses.cases import SPACE, random_case, random_mask

pytestmark = pytest.mark.usefixtures("quick")
MAP = losses.RegionMap(np.random.default_rng(0).integers(-1, 4, (2, *SPACE)), 3)  # pyright: ignore[reportArgumentType]
"""Three regions; the voxels of ids -1 and 3 lie in none."""
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("dice", {}),
    ("dice", {"squared": False, "regions": 3, "class_weights": (1.0, 2.0, 0.5)}),
    ("tversky", {"regions": 3, "absent_classes": "include", "eps": 1e-3}),
    ("tversky", {"fp_weight": 0.6, "fn_weight": 0.4, "include_background": False, "batch_dice": True}),
    ("focal_tversky", {}),
    ("focal_tversky", {"gamma": 2.0, "regions": 3}),
    ("generalized_dice", {"class_weights": (1.0, 2.0, 0.5)}),
    ("generalized_dice", {"regions": 3, "absent_classes": "include"}),
    ("sensitivity_specificity", {}),
    ("sensitivity_specificity", {"regions": 3, "sensitivity_weight": 0.1}),
    ("cross_entropy", {}),
    ("cross_entropy", {"class_weights": (1.0, 2.0, 0.5), "batch_dice": True}),
    ("cross_entropy", {"reduction": "sum"}),
    ("baseline", {"cross_entropy_weight": 0.3}),
    ("region_specific", {"regions": 3, "reduction": "mean"}),
    ("region_specific", {"regions": losses.RegionSize(2)}),
    ("region_specific", {"regions": 2, "levels": 2, "reduction": "class_mean"}),
    ("region_specific", {"regions": MAP}),
    ("adaptive_region_specific", {"regions": 3}),
    ("adaptive_region_specific", {"regions": 3, "adaptive_gradient": "stop"}),
    (
        "adaptive_region_specific",
        {"regions": 3, "adaptive_gradient": "stop", "min_penalty": 0.1, "penalty_range": 0.8, "exponent": 2.0},
    ),
    ("adaptive_region_specific", {"regions": MAP, "reduction": "class_mean"}),
]
needs_torch = pytest.mark.skipif(not pytorch.available(), reason="PyTorch is not installed")


def by_jax(name: str, logits: np.ndarray, labels: np.ndarray, **options: Any) -> tuple[Any, Any]:
    with jax.enable_x64(True):
        return jax.value_and_grad(lambda z: getattr(losses, name)(z, jnp.asarray(labels), **options))(logits)


@needs_torch
@pytest.mark.parametrize("soft", [False, True], ids=["hard", "masked soft"])
@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=[f"{name}-{'-'.join(options)}" for name, options in OPTIONS])
def test_pytorch_gives_the_losses_of_this_package(name: str, options: dict[str, Any], soft: bool) -> None:
    logits, labels = random_case(1, SPACE, soft=soft)
    logits = logits.astype(np.float64)
    options = {**options, "where": random_mask(2, SPACE)} if soft else options
    wanted = by_jax(name, logits, labels, **options)
    value, gradient = pytorch.value_and_gradient(name, logits, labels, **options)
    np.testing.assert_allclose(value, float(wanted[0]), rtol=1e-12)
    np.testing.assert_allclose(gradient, wanted[1], rtol=0, atol=1e-11 * np.abs(gradient).max())


@needs_torch
def test_every_public_loss_is_in_pytorch() -> None:
    compared = {name for name, _ in OPTIONS}
    presets = {name for name in vars(losses.presets) if name.startswith(("monai_", "nnunet_", "pytorch_"))}
    assert compared | {name for name in presets if not name.startswith("monai_")} <= set(pytorch.names())
    if importlib.util.find_spec("monai"):
        assert set(pytorch.names()) == compared | presets


@needs_torch
def test_gradients_by_probabilities() -> None:
    logits, labels = random_case(3, SPACE)
    with jax.enable_x64(True):
        probabilities = np.asarray(jax.nn.softmax(jnp.asarray(logits, jnp.float64)))
    wanted = by_jax("region_specific", probabilities, labels, regions=3, from_probabilities=True)
    value, gradient = pytorch.value_and_gradient(
        "region_specific", probabilities, labels, regions=3, from_probabilities=True
    )
    np.testing.assert_allclose(value, float(wanted[0]), rtol=1e-12)
    np.testing.assert_allclose(gradient, wanted[1], rtol=0, atol=1e-12 * np.abs(gradient).max())


@needs_torch
def test_logits_keep_their_precision_and_layout() -> None:
    logits, labels = random_case(4, SPACE)
    _, gradient = pytorch.value_and_gradient("dice", logits, labels)
    assert gradient.dtype == np.float32
    assert gradient.shape == logits.shape


@needs_torch
def test_ignored_voxels_may_hold_any_label_and_any_logit() -> None:
    logits, labels = random_case(5, SPACE)
    where = random_mask(6, SPACE)
    wanted = pytorch.value_and_gradient("baseline", logits, labels, where=where)
    logits[~where], labels[~where] = np.nan, 255
    value, gradient = pytorch.value_and_gradient("baseline", logits, labels, where=where)
    assert value == wanted[0]
    np.testing.assert_array_equal(gradient, wanted[1])


@needs_torch
def test_what_pytorch_cannot_do_is_said() -> None:
    logits, labels = random_case(7, SPACE)
    with pytest.raises(ValueError, match=r"'dise'.*dice, tversky"):
        pytorch.value_and_gradient("dise", logits, labels)
    with pytest.raises(ValueError, match="bfloat16"):
        pytorch.value_and_gradient("dice", logits.astype(ml_dtypes.bfloat16), labels)
    with pytest.raises(TypeError, match="squares"):
        pytorch.value_and_gradient("dice", logits, labels, squares=True)
    if importlib.util.find_spec("monai"):
        with pytest.raises(ValueError, match="DiceCELoss has no ignored voxels"):
            pytorch.value_and_gradient("monai_dice_ce", logits, labels, where=labels > 0)


def test_without_pytorch_nothing_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "monai" else find_spec(name))
    assert not any(name.startswith("monai") for name in pytorch.names())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not pytorch.available()
    assert pytorch.names() == ()
    with pytest.raises(ValueError, match="PyTorch"):
        pytorch.value_and_gradient("dice", *random_case(8, SPACE))


def test_pytorch_is_not_imported_before_it_is_asked_for() -> None:
    code = "import sys, ars_jax.gradients.pytorch as p; p.names(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
