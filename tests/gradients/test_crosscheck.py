"""The cross-check itself: right losses pass every oracle, and a wrong one passes none."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ars_jax import losses
from ars_jax.gradients import pytorch
from ars_jax.gradients.crosscheck import LOSSES, ORACLES, PRESETS, Comparison, crosscheck
from tests.losses.cases import SPACE, random_case, random_mask

pytestmark = pytest.mark.usefixtures("quick")
OWN = ("closed_form", "finite_differences")
LOGITS, LABELS = random_case(0, SPACE)


def check(*names: str, **options: Any) -> list[Comparison]:
    return crosscheck(LOGITS, LABELS, **{"names": names or LOSSES + PRESETS, "regions": 2, "against": OWN, **options})


def one(name: str, **options: Any) -> Comparison:
    (row,) = check(name, **options)
    return row


def test_every_public_loss_and_preset_is_checked() -> None:
    public = dict(inspect.getmembers(losses, inspect.isfunction))
    words = {name: list(inspect.signature(function).parameters) for name, function in public.items()}
    assert set(LOSSES) == {k for k, v in words.items() if v[:2] == ["logits", "labels"]} - {"overlap_statistics"}
    presets = dict(inspect.getmembers(losses.presets, inspect.isfunction))
    own = {name for name, function in presets.items() if function.__module__ == losses.presets.__name__}
    assert set(PRESETS) == {name for name in own if not name.startswith("_")}


@pytest.mark.parametrize(("dtype", "masked"), [("float64", True), ("float32", False)], ids=["double", "single"])
def test_every_loss_agrees_with_every_oracle(dtype: Any, masked: bool) -> None:
    rows = check(dtype=dtype, against=ORACLES, where=random_mask(1, SPACE) if masked else None)
    assert [row for row in rows if row.passed is False] == []
    compared = {(row.loss, row.against) for row in rows if row.passed}
    own = (*LOSSES[:-1], "adaptive_region_specific (through)", "adaptive_region_specific (stop)")
    wanted = {(name, oracle) for name in own for oracle in OWN} | {(name, "finite_differences") for name in PRESETS}
    if pytorch.available():
        wanted |= {(name, "pytorch") for name in (*own, "pytorch_ars", "nnunet_dice_ce")}
    assert compared >= wanted
    assert {row.dtype for row in rows} == {dtype}


def test_confident_predictions_agree_in_single_precision_within_their_rounding() -> None:
    """Margins of 8 as of a trained network pass; margins of 30 leave no digit of 1 - p and are not compared."""
    certain = (LABELS[..., None] == np.arange(3)) * 8
    for noise in (0.0, 0.5):
        rows = crosscheck(certain + noise * LOGITS, LABELS, regions=2, dtype="float32", against=ORACLES)
        assert [row for row in rows if row.passed is False] == []
        assert all(row.tolerance < 1e-2 for row in rows)
    rows = crosscheck(certain * 4, LABELS, names=["dice"], dtype="float32", against=OWN)
    assert {row.passed for row in rows} == {None}
    assert all("so certain" in row.reason for row in rows)


def test_large_logits_do_not_round_the_steps_of_differences() -> None:
    """A voxel's common offset changes no probability, and at 1e7 rounds a step of 0.002 to a part of 1e-6."""
    offset = np.random.default_rng(5).normal(scale=1e7, size=(*LABELS.shape, 1))
    rows = crosscheck(LOGITS + offset, LABELS, names=["dice", "region_specific"], regions=2, against=OWN[1:])
    assert [row.passed for row in rows] == [True] * 2


OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "smallest penalty": ("adaptive_region_specific", {"min_penalty": 0.1}),
    "range of the penalty": ("adaptive_region_specific", {"penalty_range": 0.7, "exponent": 2.0, "eps": 0.5}),
    "smallest penalty of a preset": ("pytorch_ars", {"A": 0.1}),
    "absent classes": ("adaptive_region_specific", {"absent_classes": "include", "batch_dice": True}),
    "reduction": ("adaptive_region_specific", {"reduction": "class_mean", "class_weights": [1.0, 3.0, 2.0]}),
    "levels": ("adaptive_region_specific", {"levels": 2, "include_background": False}),
    "region size": ("adaptive_region_specific", {"regions": losses.RegionSize(3)}),
    "squared": ("region_specific", {"squared": False}),
    "squared of a preset": ("monai_dice", {"squared_pred": True}),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options_reach_the_package_and_every_oracle(case: str) -> None:
    """Each side has the value of the loss with the options, which is not the one without them."""
    name, options = OPTIONS[case]
    rows = check(name, against=ORACLES, options=options)
    assert [row for row in rows if row.passed is False] == []
    usual = {row.loss: row.value for row in check(name, against=("finite_differences",))}
    compared = [row for row in rows if row.passed]
    assert {row.against for row in compared} >= {"finite_differences"} | ({"closed_form"} if name in LOSSES else set())
    for row in compared:
        assert row.value == pytest.approx(row.other_value, rel=1e-9)
        assert row.other_value != pytest.approx(usual[row.loss], rel=1e-4)


def test_a_loss_that_ignores_an_option_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    right = losses.region_specific
    monkeypatch.setattr(losses, "region_specific", lambda *arrays, squared=True, **options: right(*arrays, **options))
    assert one("region_specific", against=("closed_form",), options={"squared": False}).passed is False


def test_losses_without_an_option_keep_their_defaults() -> None:
    entropy = one("cross_entropy", against=("closed_form",))
    both = check("cross_entropy", "tversky", against=("closed_form",), options={"fp_weight": 0.6})
    assert (both[0], both[1].passed) == (entropy, True)
    assert both[1].value != one("tversky", against=("closed_form",)).value


def bent(name: str, how: Callable[[jax.Array], jax.Array]) -> Callable[..., jax.Array]:
    """The loss of that name with its own value and, in reverse mode, a changed gradient."""
    right = getattr(losses, name)

    def wrong(logits: jax.Array, labels: jax.Array, **options: Any) -> jax.Array:
        bound = jax.custom_vjp(lambda z: right(z, labels, **options))
        bound.defvjp(
            lambda z: (right(z, labels, **options), z),
            lambda z, slope: (slope * how(jax.grad(right)(z, labels, **options)),),
        )
        return bound(logits)

    return wrong


FAULTS: dict[str, tuple[Callable[[jax.Array], jax.Array], float]] = {
    "the sign of Eq. 3": (lambda g: -g, 2.0),
    "a factor": (lambda g: g * 1.001, 1e-3),
    "one class": (lambda g: g.at[..., 1].multiply(1.01), 1e-2),
    "a mean over the batch": (lambda g: g / 2, 0.5),
    "no gradient at all": (lambda g: g * 0, 1.0),
    "a shifted volume": (lambda g: jnp.roll(g, 1, axis=1), 1.0),
}


@pytest.mark.parametrize("oracle", OWN)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_gradient_is_beyond_every_tolerance(fault: str, oracle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In both types; and the error that is told has the size of the fault."""
    how, size = FAULTS[fault]
    monkeypatch.setattr(losses, "dice", bent("dice", how))
    for dtype in ("float64", "float32"):
        row = one("dice", against=(oracle,), dtype=dtype)
        assert row.passed is False
        assert row.value_error is not None and row.value_error < row.tolerance
        assert row.gradient_error is not None and size / 5 < row.gradient_error < size * 5
        assert row.cosine is not None and (row.cosine < 0) == (fault == "the sign of Eq. 3")


def mine(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """A loss that the package does not have."""
    s = losses.overlap_statistics(logits, labels)
    return jnp.mean((1 - losses.dice_loss(s)) ** 2) + losses.cross_entropy(logits, labels)


def mine_bent(how: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """That loss with a gradient of its own."""

    def bent_by_hand(logits: jax.Array, labels: jax.Array) -> jax.Array:
        bound = jax.custom_vjp(lambda z: mine(z, labels))
        bound.defvjp(lambda z: (mine(z, labels), z), lambda z, slope: (slope * how(jax.grad(mine)(z, labels)),))
        return bound(logits)

    return bent_by_hand


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_function_of_the_users_own_has_finite_differences_and_nothing_else(dtype: Any) -> None:
    rows = crosscheck(LOGITS, LABELS, names=mine, dtype=dtype)
    assert [(row.loss, row.against) for row in rows] == [("own mine", oracle) for oracle in ORACLES]
    assert {row.against: row.passed for row in rows} == {**dict.fromkeys(ORACLES), "finite_differences": True}
    assert all((row.reason == "") == (row.passed is True) for row in rows)
    assert {row.value for row in rows} == {rows[0].value}
    assert rows[0].value == pytest.approx(float(mine(jnp.asarray(LOGITS), jnp.asarray(LABELS))), rel=1e-5)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_gradient_of_the_users_own_fails(fault: str) -> None:
    how, size = FAULTS[fault]
    (row,) = crosscheck(LOGITS, LABELS, names=mine_bent(how), against=["finite_differences"])
    assert (row.loss, row.passed) == ("own bent_by_hand", False)
    assert row.value_error is not None and row.value_error < row.tolerance
    assert row.gradient_error is not None and size / 5 < row.gradient_error < size * 5
    (right,) = crosscheck(LOGITS, LABELS, names=mine_bent(lambda g: g), against=["finite_differences"])
    assert right.passed is True


def test_a_name_alone_is_a_list_of_one_and_functions_stand_beside_names() -> None:
    assert crosscheck(LOGITS, LABELS, names="dice", against=OWN) == check("dice")
    rows = crosscheck(LOGITS, LABELS, names=["dice", mine], against=OWN, options={"squared": False})
    assert [row.loss for row in rows] == ["dice"] * 2 + ["own mine"] * 2
    assert [row.passed for row in rows] == [True, True, None, True]
    for wrong in ("dise", ["mine"], "di"):
        with pytest.raises(ValueError, match="names"):
            crosscheck(LOGITS, LABELS, names=wrong)


def test_a_wrong_value_is_beyond_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    right = losses.dice
    monkeypatch.setattr(losses, "dice", lambda *arrays, **options: right(*arrays, **options) + 1e-6)
    row = one("dice", against=("closed_form",))
    assert row.passed is False
    assert row.gradient_error is not None and row.gradient_error < 1e-12


def test_the_modes_of_the_adaptive_loss_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that is differentiated through its penalties passes as such, and not as one with stopped penalties."""
    right = losses.adaptive_region_specific

    def through(*arrays: Any, adaptive_gradient: str, **options: Any) -> jax.Array:
        return right(*arrays, **options)

    monkeypatch.setattr(losses, "adaptive_region_specific", through)
    rows = check("adaptive_region_specific")
    assert [(row.loss.split("(")[1], row.passed) for row in rows] == [("through)", True)] * 2 + [("stop)", False)] * 2
    assert [row.loss for row in check("adaptive_region_specific", adaptive_gradient="stop")] == [rows[2].loss] * 2


def test_a_loss_without_a_finite_gradient_fails_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "dice", bent("dice", lambda g: g * jnp.nan))
    row = one("dice", against=("closed_form",))
    assert (row.passed, row.gradient_error, row.cosine) == (False, None, None)
    assert row.reason == "value or gradient of the package is not finite"


def test_a_gradient_where_the_oracle_has_none_fails_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    certain = (LABELS[..., None] == np.arange(3)) * 1e4
    monkeypatch.setattr(losses, "dice", bent("dice", lambda g: g + 1))
    (row,) = crosscheck(certain, LABELS, names=["dice"], against=["closed_form"])
    assert (row.passed, row.gradient_error) == (False, None)
    assert row.reason == "the gradient of closed_form is 0, the package's is not"


def test_a_flat_loss_agrees_with_its_closed_form_and_is_no_matter_for_differences() -> None:
    certain = (LABELS[..., None] == np.arange(3)) * 1e4
    exact, differences = crosscheck(certain, LABELS, names=["cross_entropy"], against=OWN)
    assert (exact.passed, exact.gradient_error, exact.cosine) == (True, 0, 1)
    assert differences.passed is None
    assert "too flat" in differences.reason


def test_oracles_that_are_not_there_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytorch, "available", lambda: False)
    own, preset = check("dice", "monai_dice", against=("pytorch",))
    assert own.passed is preset.passed is None
    assert own.reason == preset.reason == "PyTorch is not installed: pip install torch"
    assert own.value is not None and own.other_value is None
    assert one("monai_dice", against=("closed_form",)).reason == "presets have none"


def test_the_process_keeps_its_precision() -> None:
    for inside in (False, True):
        with jax.enable_x64(inside):
            one("dice", against=("closed_form",), dtype="float64")
            assert jnp.ones(1, dtype=float).dtype == ("float64" if inside else "float32")


def test_the_same_seed_gives_the_same_rows_and_progress_is_told() -> None:
    told: list[tuple[int, int, str]] = []
    rows = check("dice", "tversky", seed=3, tolerance=0.5, progress=lambda *words: told.append(words))
    assert rows == check("dice", "tversky", seed=3, tolerance=0.5)
    assert rows != check("dice", "tversky", seed=4, tolerance=0.5)
    assert told == [(0, 2, "dice"), (1, 2, "tversky")]
    assert {row.tolerance for row in rows} == {0.5}


def test_an_option_that_the_other_side_lacks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(*_: Any, **options: Any) -> Any:
        raise ValueError(f"no {next(iter(options))}")

    monkeypatch.setattr(pytorch, "available", lambda: True)
    monkeypatch.setattr(pytorch, "names", lambda: ("monai_dice",))
    monkeypatch.setattr(pytorch, "value_and_gradient", refusing)
    row = one("monai_dice", against=("pytorch",), where=LABELS > 0)
    assert (row.passed, row.reason) == (None, "no where")
    assert one("dice", against=("pytorch",)).reason == "no such loss in PyTorch, or MONAI is not installed"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"names": ["dise"]}, "names"),
        ({"names": []}, "names"),
        ({"against": ["tensorflow"]}, "against"),
        ({"dtype": "float16"}, "dtype"),
        ({"directions": 1}, "directions"),
        ({"regions": 9}, "regions"),
        ({"options": {"gama": 2}}, r"options \(=gama\)"),
        ({"names": ["cross_entropy"], "options": {"gamma": 2}}, r"options \(=gamma\)"),
        ({"options": {"where": None}}, r"options \(=where\)"),
    ],
)
def test_arguments_that_do_not_fit_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        crosscheck(LOGITS, LABELS, **{"against": ["closed_form"], **options})


def test_functions_of_the_users_own_are_told_apart_from_each_other_and_from_ours() -> None:
    """By identity, not by name: a compiled loss of this package is a function of the user's too."""
    objective = losses.Objective({"dice": 1.0})
    own = [lambda x, y: losses.dice(x, y), lambda x, y: 2 * losses.dice(x, y), jax.jit(losses.dice), objective]
    rows = crosscheck(LOGITS, LABELS, names=["dice", *own], against="finite_differences")
    assert len({row.loss for row in rows}) == 5
    assert [row.passed for row in rows] == [True] * 5
    one = rows[0].value
    assert [row.value for row in rows] == pytest.approx([one, one, 2 * (one or 0), one, one])


def test_a_mask_does_not_reach_functions_of_the_users_own_and_is_refused() -> None:
    with pytest.raises(ValueError, match="own mine"):
        crosscheck(LOGITS, LABELS, names=["dice", mine], where=random_mask(1, SPACE))


def test_without_regions_the_papers_number_is_cut_to_the_volume() -> None:
    rows = crosscheck(LOGITS, LABELS, names="region_specific", against="closed_form")
    wanted = crosscheck(LOGITS, LABELS, names="region_specific", against="closed_form", regions=SPACE)
    assert rows == wanted
