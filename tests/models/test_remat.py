"""What the backward pass keeps is a policy: it changes no parameter, no output and no gradient."""

import functools
from typing import Any, get_args

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ars_jax.models import VNet
from ars_jax.models.convolution import Form
from ars_jax.models.vnet import Remat

POLICIES: tuple[Remat, ...] = get_args(Remat)
SHAPE = (1, 64, 16, 16)
HOWS = ((), ("float32", "auto", 5))
"""The plain form, and the one that is chosen where a program is compiled, with the kernels of the paper."""
DEPTHS = (64, 32, 16, 8, 4)
"""Of the volumes of the stages; no side of a kernel is among them."""


pytestmark = pytest.mark.usefixtures("quick")


def network(remat: Remat, dtype: str = "float32", form: Form = "native", kernel_size: int = 1) -> VNet:
    """Of the variant with the fewest convolutions."""
    return VNet(3, "monai", 2, kernel_size, 0.5, form=form, dtype=jnp.dtype(dtype), remat=remat)


def shapes_of(model: VNet) -> Any:
    x = jax.ShapeDtypeStruct((*SHAPE, 1), jnp.float32)
    return jax.eval_shape(lambda key, x: model.init(key, x, train=False), jax.random.key(0), x)


def random_variables(model: VNet) -> Any:
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.uniform(-0.5, 1, leaf.shape).astype(leaf.dtype), shapes_of(model))


def loss(model: VNet, variables: Any, x: jax.Array, weights: Any = 1.0) -> tuple[jax.Array, Any]:
    rngs = {"dropout": jax.random.key(1)}
    logits, updated = model.apply(variables, x, train=True, mutable=["batch_stats"], rngs=rngs)
    return (weights * logits).sum(), updated


@functools.cache
def kept(remat: Remat, *how: Any) -> list[jax.ShapeDtypeStruct]:
    """The volumes that the forward pass leaves to the backward pass; nothing is computed."""
    model = network(remat, *how)

    def pull(variables: Any, x: jax.Array) -> Any:
        return jax.vjp(lambda params: loss(model, {**variables, "params": params}, x)[0], variables["params"])[1]

    residuals = jax.eval_shape(pull, shapes_of(model), jax.ShapeDtypeStruct((*SHAPE, 1), jnp.float32))
    return [leaf for leaf in jax.tree.leaves(residuals) if leaf.ndim == 5 and leaf.shape[1] in DEPTHS]


def size(leaves: list[jax.ShapeDtypeStruct]) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def test_the_policy_changes_no_parameter() -> None:
    none, *others = (shapes_of(network(remat)) for remat in POLICIES)
    assert all(other == none for other in others)


def test_computing_all_stages_again_changes_no_gradient() -> None:
    """With the same channels dropped again, and the running statistics moved once only.

    The other policy computes a part of the same again.
    """
    variables, rng = random_variables(network("none")), np.random.default_rng(1)
    x, weights = (rng.normal(size=(*SHAPE, channels)).astype(np.float32) for channels in (1, 3))

    def run(remat: Remat) -> Any:
        step = jax.value_and_grad(functools.partial(loss, network(remat)), has_aux=True)
        (value, updated), gradients = jax.jit(step)(variables, x, weights / weights.size)
        return (value, updated), gradients["params"]

    (outputs, gradients), (expected, wanted) = run("stages"), run("none")
    chex.assert_trees_all_close(outputs, expected, rtol=1e-4, atol=1e-4)
    # Where normalisations follow each other, gradients cancel: the last digit of the input changes the deepest ones by
    # 2e-4 of themselves, and that of the first kernel, 4e-9, wholly.
    for (path, found), right in zip(jax.tree.leaves_with_path(gradients), jax.tree.leaves(wanted), strict=True):
        tolerance = 1e-3 * np.abs(right).max() + 1e-8
        np.testing.assert_allclose(found, right, rtol=0, atol=tolerance, err_msg=jax.tree_util.keystr(path))


@pytest.mark.parametrize("how", HOWS)
def test_each_policy_keeps_less_than_the_one_before(how: tuple[Any, ...]) -> None:
    everything, convolutions, stages = (size(kept(remat, *how)) for remat in POLICIES)
    assert 2 * convolutions < everything
    assert 1.5 * stages < convolutions


@pytest.mark.parametrize("how", HOWS)
def test_by_stages_only_what_enters_a_stage_is_kept(how: tuple[Any, ...]) -> None:
    """The volume, and what enters the four stages down, the four up with their skip connections, and the head."""
    widths = [2, 4, 8, 16, 32]
    expected = {(0, 1), *enumerate(widths[:4]), (4, 32), *enumerate(2 * width for width in widths[:4])}
    found = {(DEPTHS.index(leaf.shape[1]), leaf.shape[-1]) for leaf in kept("stages", *how)}
    assert found == expected


@pytest.mark.parametrize("remat", POLICIES[1:])
def test_in_bfloat16_what_is_kept_is_bfloat16(remat: Remat) -> None:
    assert {leaf.dtype for leaf in kept(remat, "bfloat16") if leaf.shape[-1] > 1} == {jnp.dtype("bfloat16")}
