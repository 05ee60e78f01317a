"""What the arithmetic on statistics promises, for whatever sums a region may have."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ars_jax import losses

PAIRS = (1, 4, 3)
AMOUNTS = ("hit", "false_positives", "false_negatives", "others")
SAMPLES = settings(max_examples=60, deadline=None, derandomize=True)
Sums = dict[str, np.ndarray]


@st.composite
def regional_sums(draw: st.DrawFn) -> Sums:
    """I, FP, FN and true negatives [1, regions, classes] between nothing and 10,000 voxels, and two shares."""
    seed, empty = draw(st.integers(0, 2**32 - 1)), draw(st.floats(0, 0.7))
    rng = np.random.default_rng(seed)
    sums = {name: 10 ** rng.uniform(-2, 4, PAIRS) * (rng.random(PAIRS) >= empty) for name in AMOUNTS}
    return {**sums, "squared": rng.random(PAIRS), "squared_hit": rng.random(PAIRS)}


def statistics(sums: Sums) -> losses.OverlapStatistics:
    """Sums of p^2 lie between those of a prediction that is the same at all voxels and of one that is sure."""
    hit, fp = sums["hit"], sums["false_positives"]
    reference = hit + sums["false_negatives"]
    others = fp + sums["others"]
    least_hit, least_fp = (a**2 / np.where(n > 0, n, 1) for a, n in [(hit, reference), (fp, others)])
    squared_hit = least_hit + sums["squared_hit"] * (hit - least_hit)
    squared = squared_hit + least_fp + sums["squared"] * (fp - least_fp)
    fields = {
        "false_positives": fp,
        "false_negatives": reference - hit,
        "reference": reference,
        "squared_false_positives": squared - squared_hit,
        "squared_false_negatives": reference - 2 * hit + squared_hit,
        "log_loss": reference,
        "voxels": reference + others,
    }
    return losses.OverlapStatistics(**{name: jnp.asarray(value, jnp.float32) for name, value in fields.items()})


def every_value(s: losses.OverlapStatistics) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in _every_value(s).items()}


@jax.jit
def _every_value(s: losses.OverlapStatistics) -> dict[str, jax.Array]:
    return {
        "dice": losses.dice_loss(s),
        "dice of plain sums": losses.dice_loss(s, squared=False, eps=2e-3),
        "halves": losses.tversky_loss(s, fp_weight=0.5, fn_weight=0.5, eps=1e-3),
        "tversky": losses.tversky_loss(s),
        "focal_tversky": losses.focal_tversky_loss(s),
        "focal_tversky of gamma 1": losses.focal_tversky_loss(s, gamma=1.0),
        "generalized_dice": losses.generalized_dice_loss(s),
        "generalized_dice with absent classes": losses.generalized_dice_loss(s, absent_classes="include"),
        "sensitivity_specificity": losses.sensitivity_specificity_loss(s),
        "adaptive": losses.adaptive_tversky_loss(s),
        "adaptive, squared": losses.adaptive_tversky_loss(s, exponent=2.0),
    }


@jax.jit
def weights_and_errors(s: losses.OverlapStatistics) -> tuple[jax.Array, ...]:
    return (*losses.adaptive_weights(s), s.false_positives, s.false_negatives)


@SAMPLES
@given(regional_sums())
def test_every_value_lies_between_0_and_1(sums: Sums) -> None:
    for name, value in every_value(statistics(sums)).items():
        assert value.shape == ((1, 4, 1) if "generalized" in name else PAIRS), name
        assert (value >= -1e-6).all() and (value <= 1 + 1e-6).all(), name


@SAMPLES
@given(regional_sums())
def test_equal_halves_are_dice_of_plain_sums(sums: Sums) -> None:
    found = every_value(statistics(sums))
    np.testing.assert_allclose(found["halves"], found["dice of plain sums"], rtol=1e-4, atol=1e-6)


@SAMPLES
@given(regional_sums())
def test_focal_tversky_is_never_below_tversky_and_equals_it_for_gamma_1(sums: Sums) -> None:
    found = every_value(statistics(sums))
    assert (found["focal_tversky"] >= found["tversky"] - 1e-6).all()
    np.testing.assert_allclose(found["focal_tversky of gamma 1"], found["tversky"], rtol=1e-6)


@SAMPLES
@given(regional_sums(), st.sampled_from(["false_positives", "false_negatives"]))
def test_further_errors_never_pay_with_fixed_weights(sums: Sums, kind: str) -> None:
    before = every_value(statistics(sums))
    after = every_value(statistics({**sums, kind: sums[kind] + 5}))
    for name in ("tversky", "focal_tversky", "halves", "dice of plain sums"):
        assert (after[name] >= before[name] - 1e-6).all(), name


@SAMPLES
@given(regional_sums(), st.integers(2, 50))
def test_a_region_and_its_copies_together_have_its_loss(sums: Sums, copies: int) -> None:
    """Of whole voxels, beside which eps is nothing."""
    sums = {name: np.ceil(value) if name in AMOUNTS else value for name, value in sums.items()}
    sums = {**sums, "hit": sums["hit"] + 1}
    once = every_value(statistics(sums))
    many = every_value(jax.tree.map(lambda x: np.float32(copies) * x, statistics(sums)))
    for name in set(once) - {"halves", "dice of plain sums"}:
        np.testing.assert_allclose(many[name], once[name], rtol=1e-4, atol=1e-3, err_msg=name)


@SAMPLES
@given(regional_sums())
def test_adaptive_weights_share_the_range_as_the_errors_do(sums: Sums) -> None:
    alpha, beta, fp, fn = map(np.asarray, weights_and_errors(statistics(sums)))
    for weight in (alpha, beta):
        assert (weight >= 0.3 - 1e-6).all() and (weight <= 0.7 + 1e-6).all()
    wrong = fp + fn > 1e-2
    np.testing.assert_allclose((alpha + beta)[wrong], 1.0, rtol=1e-4)
    assert (alpha >= beta)[wrong & (fp > fn)].all()
    np.testing.assert_allclose((alpha + beta)[fp + fn == 0], 1.4, rtol=1e-6)
