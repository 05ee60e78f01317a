"""No loss leaves a type or a rank to be promoted."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ars_jax import losses
from tests.losses.cases import DIVISIBLE, SPACE, every_loss_and_preset, loss, random_case, random_mask, region_map

LOGITS, LABELS = random_case(1, SPACE)
SOFT = (LABELS[..., None] == np.arange(3)).astype(np.float32)


@pytest.fixture(params=["types", "ranks"])
def strictly(request: pytest.FixtureRequest) -> Iterator[None]:
    with jax.numpy_dtype_promotion("strict") if request.param == "types" else jax.numpy_rank_promotion("raise"):
        yield


def trace(function: Any, dtype: Any) -> None:
    found = jax.eval_shape(jax.value_and_grad(function), jnp.asarray(LOGITS, dtype))
    assert (found[0].dtype, found[1].dtype) == (jnp.float32, dtype)


@every_loss_and_preset
@pytest.mark.parametrize("labels", [LABELS.astype(np.uint8), SOFT], ids=["uint8", "one-hot"])
def test_every_loss_works_without_promotion(name: str, options: dict[str, Any], labels: Any, strictly: None) -> None:
    where = jnp.asarray(random_mask(2, SPACE))
    for dtype in (jnp.float32, jnp.bfloat16):
        trace(lambda x: loss(name, **options)(x, jnp.asarray(labels), where=where), dtype)
        trace(lambda x: loss(name, **options)(x, jnp.asarray(labels)), dtype)


@pytest.mark.parametrize("mapped", [False, True], ids=["grid", "map"])
def test_a_weighted_sum_works_without_promotion(mapped: bool, strictly: None) -> None:
    regions = region_map(np.random.default_rng(3).integers(-1, 5, LABELS.shape).astype(np.int16), 5) if mapped else None
    total = losses.Objective({**dict.fromkeys(DIVISIBLE, 1.0), "cross_entropy": 1.0}, regions=None if mapped else 2)
    where = jnp.asarray(random_mask(2, SPACE))
    for dtype in (jnp.float32, jnp.bfloat16):
        trace(lambda x: total(x, jnp.asarray(LABELS), where, regions)[0], dtype)
