"""What must hold between the losses, whatever the numbers are."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ars_jax import losses
from tests.losses.cases import (
    DIVISIBLE,
    FIELDS,
    LOSSES,
    SPACE,
    WHOLE,
    every_loss,
    every_loss_and_preset,
    gradient,
    loss,
    one_pair,
    pair_value_and_slope,
    random_case,
    random_mask,
    statistics,
)

pytestmark = pytest.mark.usefixtures("quick")
ADAPTIVE = {"spatial_dims": 2, "regions": 1, "absent_classes": "skip"}
THROUGH, STOP = (
    jax.jit(jax.value_and_grad(partial(losses.adaptive_region_specific, adaptive_gradient=mode, **ADAPTIVE)))
    for mode in ("through", "stop")
)
PAIR_DICE = jax.jit(jax.value_and_grad(partial(losses.dice, spatial_dims=2, absent_classes="skip")))


def weights_in_the_gradient(probabilities: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """FP and FN weights that the stopped gradient shows at each voxel without and with the class.

    Eq. 6 gives slope = (-g D + I (g + alpha (1-g) - beta g)) / D^2 with D = I / (1 - loss).
    """
    value, slope = pair_value_and_slope(STOP, probabilities, reference)
    hit = (probabilities * reference).sum()
    size = hit / (1 - value)
    growth = (slope * size**2 + reference * size) / hit
    return growth[reference == 0], 1 - growth[reference == 1]


# --- regions and the whole -------------------------------------------------------------------------------------------


def test_one_region_is_the_global_loss() -> None:
    logits, labels = random_case(1, SPACE)
    for reduction in ("sum", "mean", "class_mean"):
        regional = loss("region_specific", regions=1, absent_classes="include", reduction=reduction)(logits, labels)
        np.testing.assert_allclose(regional, loss("dice", reduction=reduction)(logits, labels), rtol=1e-6)


def test_one_region_with_fixed_weights_is_tversky() -> None:
    logits, labels = random_case(2, SPACE)
    adaptive = loss("adaptive_region_specific", regions=1, min_penalty=0.4, penalty_range=0.0)(logits, labels)
    tversky = loss("tversky", fp_weight=0.4, fn_weight=0.4, absent_classes="skip")(logits, labels)
    np.testing.assert_allclose(adaptive, tversky, rtol=1e-6)


@pytest.mark.parametrize(
    "regions", [{"regions": 2}, {"regions": (3, 4, 1)}, {"regions": losses.RegionSize(3)}], ids=str
)
def test_regional_statistics_sum_to_the_global_ones(regions: dict[str, Any]) -> None:
    logits, labels = random_case(3, SPACE)
    where = random_mask(4, SPACE)
    regional = statistics(logits, labels, where=where, **regions).total()
    whole = statistics(logits, labels, where=where).total()
    for name in FIELDS:
        assert getattr(whole, name).shape[0] == 2
        np.testing.assert_allclose(getattr(regional, name), getattr(whole, name), rtol=1e-6, atol=1e-5, err_msg=name)
    assert whole.true_positives.shape == (2, 3)
    np.testing.assert_array_equal(np.ravel(whole.voxels), where.sum((1, 2, 3)))


def test_a_region_size_of_the_side_is_one_region() -> None:
    logits, labels = random_case(5, SPACE)
    by_size = loss("region_specific", regions=losses.RegionSize(SPACE))(logits, labels)
    np.testing.assert_allclose(by_size, loss("region_specific", regions=1)(logits, labels), rtol=1e-6)


def test_every_voxel_is_counted_once_when_sides_do_not_divide() -> None:
    logits, labels = random_case(6, (7, 11, 5))
    voxels = statistics(logits, labels, regions=(3, 4, 2)).voxels
    assert voxels.sum() == 2 * 7 * 11 * 5
    sides = [np.diff(np.arange(n + 1) * side // n) for side, n in [(7, 3), (11, 4), (5, 2)]]
    np.testing.assert_array_equal(voxels[0, ..., 0], np.einsum("z,y,x->zyx", *sides))


@every_loss
def test_batch_is_the_mean_of_its_samples(name: str, options: dict[str, Any]) -> None:
    logits, labels = random_case(7, SPACE, batch=2)
    where = random_mask(8, SPACE, batch=2)
    run = loss(name, **options)
    singles = [run(logits[i : i + 1], labels[i : i + 1], where=where[i : i + 1]) for i in range(2)]
    np.testing.assert_allclose(run(logits, labels, where=where), np.mean(singles), rtol=2e-6)


@every_loss_and_preset
def test_vmap_gives_each_sample_its_own_loss(name: str, options: dict[str, Any]) -> None:
    logits, labels = random_case(9, SPACE, batch=2)
    run = loss(name, **(options | ({"batch_dice": False} if "pytorch_ars" in name else {})))
    mapped = jax.vmap(lambda z, y: run(z[None], y[None]))(logits, labels)
    assert mapped.shape == (2,)
    np.testing.assert_allclose(mapped.mean(), run(logits, labels), rtol=2e-6)


def test_jit_is_eager() -> None:
    logits, labels = random_case(10, SPACE)
    where = random_mask(10, SPACE)
    run = jax.value_and_grad(
        losses.Objective(dict.fromkeys([*DIVISIBLE, "cross_entropy"], 1.0), regions=3, adaptive_gradient="through"),
        has_aux=True,
    )
    (_, parts), slopes = run(logits, labels, where)
    (_, jit_parts), jit_slopes = jax.jit(run)(logits, labels, where)
    assert set(parts) == set(jit_parts) == {*DIVISIBLE, "cross_entropy"}
    for name, part in parts.items():
        np.testing.assert_allclose(jit_parts[name], part, rtol=2e-6, err_msg=name)
    np.testing.assert_allclose(jit_slopes, slopes, rtol=1e-5, atol=1e-6 * np.abs(slopes).max())


@every_loss_and_preset
def test_forward_mode_is_the_gradient_along_a_direction(name: str, options: dict[str, Any]) -> None:
    logits, labels = random_case(23, SPACE)
    direction = np.random.default_rng(24).normal(size=logits.shape).astype(np.float32)
    value, slope = jax.jvp(lambda z: loss(name, **options)(z, labels), (logits,), (direction,))
    by_logits = np.asarray(gradient(name, **options)(logits, labels))
    np.testing.assert_allclose(slope, (by_logits * direction).sum(), rtol=1e-4, atol=1e-6 * np.abs(by_logits).sum())
    np.testing.assert_allclose(value, loss(name, **options)(logits, labels), rtol=2e-6)


def test_a_second_eager_call_compiles_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A pass over the volume that is compiled anew at each call costs half a second of it outside jit."""
    logits, labels = map(jnp.asarray, random_case(10, SPACE))
    runs = [jax.value_and_grad(loss(name, **options)) for name, options in LOSSES.values()]
    for run in runs:
        run(logits, labels)
    with jax.log_compiles():
        for run in runs:
            run(logits, labels)
        assert not [record for record in caplog.records if "ompil" in record.getMessage()]
        jax.jit(lambda x: x + 1)(logits)
    assert [record for record in caplog.records if "ompil" in record.getMessage()]


def test_permuted_classes_permute_the_statistics() -> None:
    logits, labels = random_case(11, SPACE)
    order = np.array([2, 0, 1])
    found = statistics(logits[..., order], np.argsort(order)[labels], regions=2)
    wanted = statistics(logits, labels, regions=2)
    for name in set(FIELDS) - {"voxels"}:
        expected = getattr(wanted, name)[..., order]
        atol = 1e-6 * np.abs(expected).max()  # overlaps are differences of sums of that size
        np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-6, atol=atol, err_msg=name)


@every_loss
def test_order_of_the_classes_does_not_matter(name: str, options: dict[str, Any]) -> None:
    logits, labels = random_case(12, SPACE)
    order = np.array([2, 0, 1])
    run = loss(name, **options)
    permuted = run(logits[..., order], np.argsort(order)[labels])
    np.testing.assert_allclose(permuted, run(logits, labels), rtol=2e-6)


@every_loss
@pytest.mark.parametrize("absent", ["include", "skip"])
def test_where_is_cropping_the_volume(name: str, options: dict[str, Any], absent: str) -> None:
    if name in DIVISIBLE:
        options = {**options, "absent_classes": absent}
    logits, labels = random_case(13, SPACE)
    where = np.zeros((2, *SPACE), bool)
    where[:, :4] = True
    cropped = loss(name, **{**options, **({"regions": (1, 2, 2)} if "regions" in options else {})})
    masked = loss(name, **options)(logits, labels, where=where)
    np.testing.assert_allclose(masked, cropped(logits[:, :4], labels[:, :4]), rtol=2e-6)


@every_loss
def test_masked_voxels_have_no_gradient_and_no_influence(name: str, options: dict[str, Any]) -> None:
    logits, labels = random_case(14, SPACE)
    where = random_mask(15, SPACE)
    by_logits = gradient(name, **options)(logits, labels, where=where)
    assert not np.asarray(by_logits)[~where].any()
    assert np.asarray(by_logits)[where].any()
    disturbed = np.where(where[..., None], logits, 37.0).astype(np.float32)
    run = loss(name, **options)
    np.testing.assert_allclose(
        run(disturbed, np.where(where, labels, 0), where=where), run(logits, labels, where=where), rtol=2e-6
    )


# --- the adaptive weights --------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    probabilities=st.lists(st.floats(0.02, 0.98), min_size=10, max_size=10),
    reference=st.lists(st.booleans(), min_size=10, max_size=10).filter(lambda g: any(g) and not all(g)),
)
def test_adaptive_weights_lie_between_a_and_a_plus_b_and_sum_to_their_mean(
    probabilities: list[float], reference: list[bool]
) -> None:
    p, g = np.array(probabilities), np.array(reference, float)
    alpha, beta = weights_in_the_gradient(p, g)
    for weights in (alpha, beta):
        assert weights.min() > 0.3 - 5e-3 and weights.max() < 0.7 + 5e-3
        assert np.ptp(weights) < 1e-2
    np.testing.assert_allclose(alpha.mean() + beta.mean(), 2 * 0.3 + 0.4, atol=1e-2)


def test_equal_errors_give_equal_weights_halfway() -> None:
    """With as many false positives as false negatives both weights are A + B/2, and the loss is Tversky's 0.5 / 0.5."""
    missed = np.array([0.3, 0.1, 0.6, 0.25])
    p, g = np.concatenate([1 - missed, missed]), np.repeat([1.0, 0.0], 4)
    alpha, beta = weights_in_the_gradient(p, g)
    np.testing.assert_allclose(alpha, 0.5, atol=1e-5)
    np.testing.assert_allclose(beta, 0.5, atol=1e-5)
    tversky = loss("tversky", spatial_dims=2, fp_weight=0.5, fn_weight=0.5, absent_classes="skip")
    np.testing.assert_allclose(STOP(*one_pair(p, g))[0], tversky(*one_pair(p, g)), rtol=1e-6)


def test_a_region_that_misses_more_weighs_misses_more() -> None:
    p, g = np.array([0.1, 0.2, 0.1, 0.05]), np.array([1.0, 1.0, 1.0, 0.0])
    alpha, beta = weights_in_the_gradient(p, g)
    fp, fn = 0.05, 2.6
    np.testing.assert_allclose(alpha, 0.3 + 0.4 * fp / (fp + fn), atol=1e-4)
    np.testing.assert_allclose(beta, 0.3 + 0.4 * fn / (fp + fn), atol=1e-4)


@pytest.mark.parametrize("share", [0.90, 0.93, 0.94, 0.97])
def test_through_rewards_false_positives_where_misses_dominate_and_stop_does_not(share: float) -> None:
    """The FP weight A + B(1 - 2 s^2) turns negative at s = FN / (FP + FN) = sqrt((1 + A/B) / 2) = 0.9354."""
    fn = 8 * 0.9
    p = np.concatenate([np.full(8, 0.1), np.full(4, fn * (1 / share - 1) / 4)])
    g = np.repeat([1.0, 0.0], [8, 4])
    _, through = pair_value_and_slope(THROUGH, p, g)
    _, stop = pair_value_and_slope(STOP, p, g)
    assert (stop[8:] > 0).all()
    assert (through[8:] < 0).all() if share > 0.9354 else (through[8:] > 0).all()


def test_both_modes_have_the_same_value() -> None:
    logits, labels = random_case(16, SPACE)
    values = [
        loss("adaptive_region_specific", regions=2, adaptive_gradient=mode)(logits, labels)
        for mode in ("through", "stop")
    ]
    assert values[0] == values[1]


# --- the paper's faults ----------------------------------------------------------------------------------------------


def test_equation_3_of_the_paper_has_the_sign_of_the_coefficient() -> None:
    """As printed, 2 (g (P2 + G) - 2 p I) / (P2 + G)^2 climbs the loss; the loss's own gradient is its negative."""
    p, g = np.array([0.8, 0.3, 0.6, 0.2, 0.7]), np.array([1.0, 1.0, 0.0, 0.0, 1.0])
    size = (p**2).sum() + g.sum()
    printed = 2 * (g * size - 2 * p * (p * g).sum()) / size**2
    value, slope = pair_value_and_slope(PAIR_DICE, p, g)
    np.testing.assert_allclose(slope, -printed, rtol=1e-4)
    assert pair_value_and_slope(PAIR_DICE, p + 0.01 * printed, g)[0] < value
    assert pair_value_and_slope(PAIR_DICE, p - 0.01 * printed, g)[0] > value


@pytest.mark.parametrize(("name", "faint"), [("region_specific", 5e-6), ("adaptive_region_specific", 1e-10)])
def test_skipping_absent_classes_removes_the_spike_of_eps(name: str, faint: float) -> None:
    """A 1152-voxel region without the class: where its sums are as small as eps, value and slope are made of eps."""
    logits = np.zeros((1, 8, 12, 12, 2), np.float32)
    logits[..., 1] = np.log(faint)
    labels = np.zeros((1, 8, 12, 12), np.int32)
    counted = gradient(name, regions=1, absent_classes="include")(logits, labels)
    skipped = gradient(name, regions=1, absent_classes="skip")(logits, labels)
    assert np.abs(counted).min() > 1e-4
    assert np.abs(skipped).max() < 1e-7
    values = [loss(name, regions=1, absent_classes=absent)(logits, labels) for absent in ("include", "skip")]
    assert values[0] > 0.2 and values[1] < 1e-4


def test_spike_of_an_absent_class_is_as_large_as_measured() -> None:
    by_p = {}
    for p in (5e-6, 1e-2):
        logits = np.zeros((1, 1152, 1, 2), np.float32)
        logits[..., 1] = np.log(p / (1 - p))
        both = gradient("dice", spatial_dims=2, absent_classes="include")(logits, np.zeros((1, 1152, 1), np.int32))
        background = gradient("dice", spatial_dims=2, absent_classes="skip")(logits, np.zeros((1, 1152, 1), np.int32))
        by_p[p] = float((both - background)[0, 0, 0, 1] / (p * (1 - p)))
    np.testing.assert_allclose(by_p[5e-6], 60, rtol=0.02)
    assert 0 <= by_p[1e-2] < 1e-5


@pytest.mark.parametrize("name", DIVISIBLE)
def test_pairs_absent_everywhere_have_exactly_no_gradient(name: str) -> None:
    logits, _ = random_case(17, SPACE)
    nothing = np.zeros_like(logits)
    options = {} if name in WHOLE else {"regions": 2}
    assert loss(name, absent_classes="skip", **options)(logits, nothing) == 0
    assert not np.asarray(gradient(name, absent_classes="skip", **options)(logits, nothing)).any()
    included = np.asarray(gradient(name, absent_classes="include", **options)(logits, nothing))
    assert included.any() == (name != "generalized_dice")  # whose sum over classes is that of all probabilities


def test_a_region_without_reference_leaves_the_others_alone() -> None:
    logits, labels = random_case(18, SPACE, soft=True)
    labels[:, 4:] = 0
    where = np.ones(labels.shape[:-1], bool)
    run = jax.value_and_grad(loss("adaptive_region_specific", regions=2, reduction="mean"))
    value, by_logits = run(logits, labels, where=where)
    assert not np.asarray(by_logits)[:, 4:].any()
    where[:, 4:] = False
    np.testing.assert_allclose(value, run(logits, labels, where=where)[0], rtol=1e-6)


# --- outside oracle --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alpha", "beta"), [(0.5, 0.5), (0.3, 0.7)])
def test_global_tversky_is_the_one_of_optax(alpha: float, beta: float) -> None:
    """Optax adds its smoothing where Eq. 5 adds eps, so equal numbers are asked of both."""
    logits, labels = random_case(19, SPACE)
    one_hot = jax.nn.one_hot(labels, 3)
    wanted = optax.losses.dice_loss(
        jnp.asarray(logits), one_hot, smooth=1e-3, alpha=alpha, beta=beta, reduction="sum"
    ).mean()
    found = loss("tversky", fp_weight=alpha, fn_weight=beta, eps=1e-3)(logits, labels)
    np.testing.assert_allclose(found, wanted, rtol=2e-6)
    theirs = jax.grad(
        lambda z: optax.losses.dice_loss(z, one_hot, smooth=1e-3, alpha=alpha, beta=beta, reduction="sum").mean()
    )(jnp.asarray(logits))
    ours = gradient("tversky", fp_weight=alpha, fn_weight=beta, eps=1e-3)(logits, labels)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-7)


def test_global_cross_entropy_is_the_one_of_optax() -> None:
    logits, labels = random_case(20, SPACE)
    wanted = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
    np.testing.assert_allclose(loss("cross_entropy")(logits, labels), wanted.mean(), rtol=2e-6)
    np.testing.assert_allclose(loss("cross_entropy", reduction="sum")(logits, labels), wanted.sum() / 2, rtol=2e-6)
