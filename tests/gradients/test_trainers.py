"""The losses as a trainer calls them: in PyTorch with MONAI's and nnU-Net's arrays, and in flax.nnx."""

import importlib.util
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ars_jax import losses
from ars_jax.gradients import pytorch
from ars_jax.losses._checks import ArgumentError
from tests.losses.cases import DIVISIBLE, LOSSES, PRESETS, SPACE, random_case, random_mask

pytestmark = pytest.mark.usefixtures("quick")
needs_torch = pytest.mark.skipif(not pytorch.available(), reason="PyTorch is not installed")
WRITTEN: dict[str, tuple[str, dict[str, Any]]] = {
    **LOSSES,
    **{name: PRESETS[name] for name in ("presets.pytorch_ars", "presets.nnunet_dice_ce")},
}
every_trained = pytest.mark.parametrize(("name", "options"), WRITTEN.values(), ids=WRITTEN.keys())
LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "integers [b, 1, ...]": lambda labels: labels[:, None].astype(np.int64),
    "floats [b, 1, ...]": lambda labels: labels[:, None].astype(np.float32),
    "integers [b, ...]": lambda labels: labels.astype(np.int64),
    "one-hot [b, c, ...]": lambda labels: np.moveaxis(labels[..., None] == np.arange(3), -1, 1).astype(np.float32),
}


def trained(name: str, logits: np.ndarray, labels: np.ndarray, **options: Any) -> tuple[Any, np.ndarray]:
    """Value and gradient of a step in PyTorch, of logits [b, c, *space]; gradient [b, *space, c]."""
    import torch

    x = torch.tensor(np.moveaxis(logits, -1, 1), requires_grad=True)
    tensors = {key: torch.tensor(value) for key, value in options.items() if isinstance(value, np.ndarray)}
    value = pytorch.loss(name.removeprefix("presets."))(x, torch.tensor(labels), **{**options, **tensors})
    value.sum().backward()
    assert x.grad is not None
    return value.detach().numpy(), np.moveaxis(x.grad.numpy(), 1, -1)


def by_jax(name: str, logits: np.ndarray, labels: np.ndarray, **options: Any) -> tuple[Any, np.ndarray]:
    """Value and gradient of the package's own."""
    function = attrgetter(name)(losses)
    value = function(logits, labels, **options)
    return np.asarray(value), np.asarray(jax.grad(lambda z: function(z, labels, **options).sum())(logits))


def assert_same(found: tuple[Any, np.ndarray], wanted: tuple[Any, np.ndarray], tolerance: float = 1e-6) -> None:
    """Relative to the largest entry: float32 rounds each to a part of that."""
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == b.dtype == np.float32 and a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(np.abs(b).max(), 1e-30))


@needs_torch
@pytest.mark.parametrize("layout", LAYOUTS)
@every_trained
def test_labels_may_be_as_monai_and_nnunet_have_them(name: str, options: dict[str, Any], layout: str) -> None:
    logits, labels = random_case(1, SPACE)
    assert_same(trained(name, logits, LAYOUTS[layout](labels), **options), by_jax(name, logits, labels, **options))


@needs_torch
@every_trained
def test_images_are_as_volumes_are(name: str, options: dict[str, Any]) -> None:
    logits, labels = random_case(2, (8, 6))
    options = {**options, "spatial_dims": 2}
    assert_same(trained(name, logits, labels[:, None], **options), by_jax(name, logits, labels, **options))


@needs_torch
@pytest.mark.parametrize("channel", [False, True], ids=["[b, ...]", "[b, 1, ...]"])
@every_trained
def test_a_mask_leaves_voxels_out_with_or_without_a_channel(name: str, options: dict[str, Any], channel: bool) -> None:
    logits, labels = random_case(3, SPACE)
    where = random_mask(4, SPACE)
    wanted = by_jax(name, logits, labels, where=where, **options)
    spoilt, labels = np.where(where[..., None], logits, np.float32(np.nan)), np.where(where, labels, 255)
    mask = where[:, None] if channel else where
    found = trained(name, spoilt, labels[:, None].astype(np.int64), where=mask, **options)
    assert_same(found, wanted)
    assert not found[1][~where].any()


@needs_torch
@pytest.mark.parametrize("kind", [np.int64, np.float32])
@pytest.mark.parametrize("masked", [False, True], ids=["alone", "with where"])
@pytest.mark.parametrize(("name", "options"), LOSSES.values(), ids=LOSSES.keys())
def test_an_ignored_label_leaves_its_voxels_out(name: str, options: dict[str, Any], masked: bool, kind: Any) -> None:
    logits, labels = random_case(5, SPACE)
    labels = np.where(random_mask(6, SPACE), labels, -1)
    options = {**options, "ignore_label": -1, **({"where": random_mask(7, SPACE)} if masked else {})}
    found = trained(name, logits, labels[:, None].astype(kind), **options)
    assert_same(found, by_jax(name, logits, labels, **options))
    assert not found[1][labels == -1].any()


@needs_torch
@pytest.mark.parametrize("regions", [None, (2, 3, 1)], ids=str)
@pytest.mark.parametrize("name", DIVISIBLE)
def test_values_of_each_region_are_channels_first(name: str, regions: Any) -> None:
    logits, labels = random_case(8, SPACE)
    options = {"regions": regions, "reduction": "none", "absent_classes": "skip"}
    found = trained(name, logits, labels[:, None], **options)
    wanted = by_jax(name, logits, labels, **options)
    classes = 1 if name == "generalized_dice" else 3
    assert found[0].shape == (2, classes, *(regions or ()))
    assert_same((np.moveaxis(found[0], 1, -1), found[1]), wanted)


@needs_torch
@pytest.mark.parametrize("options", [{}, {"class_weights": (1.0, 2.0, 0.5)}, {"batch_dice": True}], ids=str)
def test_values_of_the_cross_entropy_are_those_of_the_samples(options: dict[str, Any]) -> None:
    logits, labels = random_case(9, SPACE)
    found = trained("cross_entropy", logits, labels[:, None], reduction="none", **options)
    assert_same(found, by_jax("cross_entropy", logits, labels, reduction="none", **options))
    assert found[0].shape == (1 if "batch_dice" in options else 2, 1)


@needs_torch
@pytest.mark.skipif(importlib.util.find_spec("monai") is None, reason="MONAI is not installed")
@pytest.mark.parametrize("name", sorted(name for name in PRESETS if "monai" in name))
def test_monais_own_losses_take_the_same_arrays(name: str) -> None:
    logits, labels = random_case(10, SPACE)
    assert_same(trained(name, logits, labels[:, None]), by_jax(name, logits, labels))


@needs_torch
def test_arrays_that_do_not_fit_are_refused_as_in_jax() -> None:
    logits, labels = random_case(11, SPACE)
    cases: list[tuple[str, np.ndarray, np.ndarray, dict[str, Any]]] = [
        ("logits.shape", logits[..., :1], labels[:, None], {}),
        ("logits.shape", logits, labels, {"spatial_dims": 2}),
        ("labels.shape", logits, labels[:, None, :4], {}),
        ("labels.dtype", logits, labels.astype(np.float32), {}),
        ("ignore_label", logits, LAYOUTS["one-hot [b, c, ...]"](labels), {"ignore_label": 2}),
    ]
    for argument, x, y, options in cases:
        with pytest.raises(ArgumentError) as caught:
            trained("dice", x, y, **options)
        assert caught.value.name == argument
    with pytest.raises(TypeError, match="'regions'"):
        trained("dice", logits, labels, grid=2)
    with pytest.raises(ValueError, match="'dise'"):
        pytorch.loss("dise")


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "reduction": ("dice", {"reduction": "median"}),
    "reduction of the cross-entropy": ("cross_entropy", {"reduction": "class_mean"}),
    "absent_classes": ("dice", {"absent_classes": "drop"}),
    "adaptive_gradient": ("adaptive_region_specific", {"regions": 2, "adaptive_gradient": "detach"}),
    "cross_entropy_reduction": ("baseline", {"cross_entropy_reduction": "median"}),
    "region_reduction": ("presets.pytorch_ars", {"region_reduction": "max"}),
    "eps": ("dice", {"eps": 0}),
    "levels": ("dice", {"levels": 0}),
    "levels of values": ("dice", {"regions": 2, "levels": 2, "reduction": "none"}),
    "class_weights.shape": ("dice", {"class_weights": (1.0,)}),
    "where.shape": ("dice", {"where": np.ones((1, *SPACE), bool)}),
    "where.dtype": ("dice", {"where": np.full((2, *SPACE), 0.5, np.float32)}),
    "regions": ("dice", {"regions": losses.RegionMap(jnp.zeros((1, *SPACE), int), 2)}),
}


@needs_torch
@pytest.mark.parametrize("case", REFUSED)
def test_options_that_the_loss_refuses_are_refused_by_the_same_name(case: str) -> None:
    name, options = REFUSED[case]
    logits, labels = random_case(11, SPACE)
    for run, y in ((by_jax, labels), (trained, labels[:, None])):
        with pytest.raises(ArgumentError) as caught:
            run(name, logits, y, **options)
        assert caught.value.name == case.split(" ")[0]


@needs_torch
@every_trained
def test_logits_of_low_precision_are_summed_in_float32(name: str, options: dict[str, Any]) -> None:
    """As in mixed precision; the gradient is of the logits' own type, of which bfloat16 has 8 bits."""
    import torch

    logits, labels = random_case(16, SPACE)
    x = torch.tensor(np.moveaxis(logits, -1, 1)).bfloat16().requires_grad_()
    value = pytorch.loss(name.removeprefix("presets."))(x, torch.tensor(labels[:, None]), **options)
    value.backward()
    assert x.grad is not None and value.dtype == torch.float32 and x.grad.dtype == torch.bfloat16
    rounded = np.moveaxis(x.detach().float().numpy(), 1, -1)
    wanted, slopes = by_jax(name, rounded, labels, **options)
    np.testing.assert_allclose(value.item(), wanted, rtol=1e-6)
    found = np.moveaxis(x.grad.float().numpy(), 1, -1)
    np.testing.assert_allclose(found, slopes, rtol=2.0**-8, atol=1e-6 * np.abs(slopes).max())


@needs_torch
@pytest.mark.parametrize("regions", ["grid", "map"])
@pytest.mark.parametrize("name", DIVISIBLE)
def test_everything_is_on_the_device_of_the_logits(name: str, regions: str) -> None:
    """PyTorch's device without data refuses tensors of any other."""
    import torch

    x = torch.zeros(2, 3, *SPACE, device="meta")
    y, where = torch.zeros(2, 1, *SPACE, device="meta", dtype=torch.long), torch.ones(2, *SPACE, device="meta") > 0
    division = 2 if regions == "grid" else losses.RegionMap(jnp.zeros((2, *SPACE), int), 4)
    value = pytorch.loss(name)(x, y, where=where, regions=division, class_weights=(1.0, 2.0, 0.5))
    assert value.device.type == "meta" and value.shape == ()


# --- flax.nnx --------------------------------------------------------------------------------------------------------


class Model(nnx.Module):
    """One convolution, from an image of one channel to logits."""

    def __init__(self) -> None:
        self.convolution = nnx.Conv(1, 3, kernel_size=(3, 3, 3), rngs=nnx.Rngs(0))

    def __call__(self, image: jax.Array) -> jax.Array:
        return self.convolution(image)


OBJECTIVE = losses.Objective(regions=2)
TRAINED: dict[str, Callable[..., Any]] = {
    "objective": lambda logits, labels: OBJECTIVE(logits, labels)[0],
    "loss": lambda logits, labels: losses.adaptive_region_specific(logits, labels, regions=2),
}


@pytest.mark.parametrize("loss", TRAINED.values(), ids=TRAINED.keys())
def test_a_model_of_nnx_gets_the_gradient_of_plain_jax(loss: Callable[..., Any]) -> None:
    image = jnp.asarray(np.random.default_rng(12).normal(size=(2, *SPACE, 1)), jnp.float32)
    _, labels = random_case(13, SPACE)
    model = Model()
    graph, state = nnx.split(model)

    def of_model(model: Model) -> jax.Array:
        return loss(model(image), labels)

    def of_state(state: Any) -> jax.Array:
        return of_model(nnx.merge(graph, state))

    wanted, wanted_slopes = jax.value_and_grad(of_state)(state)
    for step in (nnx.value_and_grad(of_model), nnx.jit(nnx.value_and_grad(of_model))):
        value, slopes = step(model)
        np.testing.assert_allclose(value, wanted, rtol=1e-6)
        leaves, wanted_leaves = jax.tree.leaves(slopes), jax.tree.leaves(wanted_slopes)
        assert len(leaves) == len(wanted_leaves) == 2
        for a, b in zip(leaves, wanted_leaves, strict=True):
            assert np.asarray(b).any()
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * np.abs(b).max())


def test_an_objective_may_be_the_attribute_of_a_model_and_return_its_parts() -> None:
    class Trained(Model):
        def __init__(self) -> None:
            super().__init__()
            self.objective = OBJECTIVE

    image = jnp.asarray(np.random.default_rng(14).normal(size=(2, *SPACE, 1)), jnp.float32)
    _, labels = random_case(15, SPACE)
    model = Trained()
    step = nnx.jit(nnx.value_and_grad(lambda m: m.objective(m(image), labels), has_aux=True))
    (total, parts), _ = step(model)
    wanted, wanted_parts = OBJECTIVE(model(image), labels)
    np.testing.assert_allclose(total, wanted, rtol=1e-6)
    assert parts.keys() == wanted_parts.keys()
