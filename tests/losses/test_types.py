"""The shapes in the signatures are those of the arrays that the losses take and give."""

import typing
from inspect import unwrap
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from ars_jax import losses
from ars_jax.losses._types import Labels, Logits, Loss, Mask, Scalar
from tests.losses.cases import SPACE, every_loss, loss, random_case, random_mask


def fits(value: Any, hint: Any) -> bool:
    """Python compares with a union by class alone, which knows no shapes."""
    return any(isinstance(value, each) for each in typing.get_args(hint) or (hint,))


X, Y = random_case(0, SPACE)
SOFT = random_case(0, SPACE, soft=True)[1]


@every_loss
def test_annotations_hold_for_what_goes_in_and_comes_out(name: str, options: dict[str, Any]) -> None:
    hints = typing.get_type_hints(unwrap(getattr(losses, name)))
    assert hints["logits"] == Logits and hints["labels"] == Labels
    assert hints["where"] == typing.Optional[Mask]  # noqa: UP045 - a union of unions compares equal in this form
    value = loss(name, **options)(X, Y, where=random_mask(1, SPACE))
    assert fits(value, hints["return"]) and fits(value, Scalar)
    if hints["return"] == Loss:
        assert fits(loss(name, **options, reduction="none")(X, Y), Loss)


@pytest.mark.parametrize("logits", [X, jnp.asarray(X, jnp.bfloat16), X.astype(np.float64)], ids=["f4", "bf16", "f8"])
def test_logits_are_floats_of_any_width(logits: Any) -> None:
    assert fits(logits, Logits)


def test_other_kinds_of_arrays_do_not_fit() -> None:
    assert not fits(Y, Logits)
    assert not fits(X[0, 0, 0, 0, 0], Logits)
    assert not fits(random_mask(1, SPACE).astype(np.float32), Mask)
    for labels in (Y, Y.astype(np.uint8), Y > 0, SOFT, jnp.asarray(Y)):
        assert fits(labels, Labels)
    assert not fits(Y.astype(np.complex64), Labels)
