"""What is counted in HLO text, beside figures worked out by hand and the compiler's own count of what has no loops."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from ars_jax.hlo import COLLECTIVES, Counts, count_program

SLICED_LOOP = """
HloModule by_hand, is_scheduled=true, entry_computation_layout={(f32[8,4]{1,0})->f32[8,4]{1,0}}

%fused_scale (param_0: f32[8,4], param_1: s32[], param_2: f32[8,4]) -> f32[8,4] {
  %param_0 = f32[8,4]{1,0} parameter(0)
  %param_1 = s32[] parameter(1)
  %param_2 = f32[8,4]{1,0} parameter(2)
  %zero = s32[] constant(0)
  %row = f32[1,4]{1,0} dynamic-slice(%param_0, %param_1, %zero), dynamic_slice_sizes={1,4}
  %double = f32[1,4]{1,0} add(%row, %row)
  ROOT %written = f32[8,4]{1,0} dynamic-update-slice(%param_2, %double, %param_1, %zero)
}

%body (state: (s32[], f32[8,4], /*index=2*/f32[8,4])) -> (s32[], f32[8,4], f32[8,4]) {
  %state = (s32[], f32[8,4]{1,0}, /*index=2*/f32[8,4]{1,0}) parameter(0)
  %place = s32[] get-tuple-element(%state), index=0
  %source = f32[8,4]{1,0} get-tuple-element(%state), index=1
  %target = f32[8,4]{1,0} get-tuple-element(%state), index=2
  %one = s32[] constant(1)
  %next = s32[] add(%place, %one)
  %filled = f32[8,4]{1,0} fusion(%source, %place, %target), kind=kLoop, calls=%fused_scale
  ROOT %handed = (s32[], f32[8,4]{1,0}, f32[8,4]{1,0}) tuple(%next, %source, %filled)
}

%condition (state.1: (s32[], f32[8,4], f32[8,4])) -> pred[] {
  %state.1 = (s32[], f32[8,4]{1,0}, f32[8,4]{1,0}) parameter(0)
  %place.1 = s32[] get-tuple-element(%state.1), index=0
  %end = s32[] constant(8)
  ROOT %less = pred[] compare(%place.1, %end), direction=LT
}

ENTRY %main (given: f32[8,4]) -> f32[8,4] {
  %given = f32[8,4]{1,0} parameter(0)
  %start = s32[] constant(START)
  %copied = f32[8,4]{1,0} copy(%given)
  %whole = (s32[], f32[8,4]{1,0}, f32[8,4]{1,0}) tuple(%start, %given, %copied)
  %loop = (s32[], f32[8,4]{1,0}, f32[8,4]{1,0}) while(%whole), condition=%condition, body=%bodyKNOWN
  ROOT %result = f32[8,4]{1,0} get-tuple-element(%loop), index=2
}
"""
KNOWN = ', backend_config={"known_trip_count":{"n":"8"},"dynamic_variables":[]}'


def entry(*lines: str, before: str = "") -> Counts:
    """Counts a program of one computation."""
    return count_program("\n".join(["HloModule one", before, "ENTRY %main () -> () {", *lines, "}"]))


@pytest.mark.parametrize("known", [KNOWN, ""], ids=["named", "found"])
def test_a_loop_counts_as_often_as_it_runs(known: str) -> None:
    """Each trip adds to the counter (12 bytes), reads a row and the place, and writes a row (36): 4 + 1 operations."""
    counts = count_program(SLICED_LOOP.replace("START", "0").replace("KNOWN", known))
    assert counts.loops == (8,)
    assert counts.flops == 8 * (4 + 1)
    assert counts.launches == 1 + 8 * 2
    assert counts.bytes_accessed == 2 * 128 + 8 * (12 + 16 + 4 + 16)
    assert counts.unknown_loops == 0 and counts.cycles is None and counts.not_counted == ()


def test_a_counter_is_followed_from_where_it_starts() -> None:
    counts = count_program(SLICED_LOOP.replace("START", "5").replace("KNOWN", ""))
    assert counts.loops == (3,) and counts.launches == 1 + 3 * 2


def test_a_loop_whose_end_nobody_knows_counts_once_and_is_told() -> None:
    unknown = SLICED_LOOP.replace("s32[] constant(START)", 's32[] custom-call(), custom_call_target="dice"')
    counts = count_program(unknown.replace("KNOWN", ""))
    assert (counts.loops, counts.unknown_loops, counts.launches) == ((None,), 1, 2 + 2)
    assert counts.not_counted == ("dice",)


def test_text_without_a_program_is_refused() -> None:
    with pytest.raises(ValueError, match="ENTRY"):
        count_program("HloModule nothing")


def test_tuples_constants_and_other_names_of_a_value_cost_nothing() -> None:
    counts = entry(
        "  %p = f32[4]{0} parameter(0)",
        "  %c = f32[4]{0} constant({1, 2, 3, 4})",
        "  %b = f32[2,2]{1,0} bitcast(%p)",
        "  ROOT %t = (f32[2,2]{1,0}, f32[4]{0}) tuple(%b, %c)",
    )
    assert (counts.launches, counts.bytes_accessed, counts.flops) == (0, 0, 0)


def test_collectives_count_once_where_they_start_and_end_apart() -> None:
    counts = entry(
        "  %p = f32[4]{0} parameter(0)",
        "  %a = f32[4]{0} all-reduce(%p), to_apply=%add",
        "  %s = (f32[4]{0}, f32[16]{0}) all-gather-start(%a), dimensions={0}",
        "  %d = f32[16]{0} all-gather-done(%s)",
        "  ROOT %c = f32[16]{0} collective-permute(%d), source_target_pairs={{0,1}}",
    )
    assert counts.collectives == dict.fromkeys(COLLECTIVES, 0) | {
        "all-reduce": 1,
        "all-gather": 1,
        "collective-permute": 1,
    }
    assert counts.launches == 3
    assert counts.bytes_accessed == (16 + 16) + (16 + 64) + (64 + 64)


def test_a_sum_that_a_tpu_divides_in_one_exchange_is_a_reduce_scatter() -> None:
    fused = """
%all-reduce-scatter.1 (a: f32[8]) -> f32[4] {
  %a = f32[8]{0} parameter(0)
  %sum = f32[8]{0} all-reduce(%a), to_apply=%add
  %zero = s32[] constant(0)
  ROOT %part = f32[4]{0} dynamic-slice(%sum, %zero), dynamic_slice_sizes={4}
}
"""
    counts = entry(
        "  %p = f32[8]{0} parameter(0)",
        "  ROOT %s = f32[4]{0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.1",
        before=fused,
    )
    assert counts.collectives == dict.fromkeys(COLLECTIVES, 0) | {"reduce-scatter": 1}
    assert (counts.launches, counts.bytes_accessed) == (1, 32 + 16)


def test_a_collective_in_a_loop_counts_in_every_trip() -> None:
    text = SLICED_LOOP.replace("START", "0").replace("KNOWN", KNOWN)
    text = text.replace("%next = s32[] add(%place, %one)", "%next = s32[] all-reduce(%place), to_apply=%add")
    assert count_program(text).collectives["all-reduce"] == 8


def test_of_a_conditional_the_branch_with_most_arithmetic_counts() -> None:
    branches = """
%small (a: f32[4,4]) -> f32[4,4] {
  %a = f32[4,4]{1,0} parameter(0)
  ROOT %n = f32[4,4]{1,0} negate(%a)
}

%large (b: f32[4,4]) -> f32[4,4] {
  %b = f32[4,4]{1,0} parameter(0)
  ROOT %d = f32[4,4]{1,0} dot(%b, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}
"""
    counts = entry(
        "  %i = s32[] parameter(0)",
        "  %x = f32[4,4]{1,0} parameter(1)",
        "  ROOT %r = f32[4,4]{1,0} conditional(%i, %x, %x), branch_computations={%small, %large}",
        before=branches,
    )
    assert (counts.flops, counts.launches, counts.bytes_accessed) == (2 * 4 * 4 * 4, 1, 64 + 64)


def test_a_tpu_moves_whole_tiles_and_nothing_for_what_stays_on_the_chip() -> None:
    """Of 15 x 144 the inner axis fills 256 lanes and the outer 16 rows."""
    counts = entry(
        "  %p = f32[15,144]{1,0:T(8,128)} parameter(0)",
        "  %s = (f32[15,144]{1,0:T(8,128)S(1)}, f32[15,144]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%p)",
        "  %d = f32[15,144]{1,0:T(8,128)S(1)} copy-done(%s)",
        '  ROOT %n = bf16[15,144]{0,1:T(8,128)(2,1)} convert(%d), backend_config={"estimated_cycles":"77"}',
    )
    assert counts.bytes_accessed == 16 * 256 * 4 + 144 * 128 * 2
    assert (counts.launches, counts.cycles, counts.flops) == (2, 77, 15 * 144)


@pytest.mark.parametrize(
    ("operands", "result", "target"),
    [
        ("%x, %k", "f32[2,8,5,5]{3,2,1,0}", "__cudnn$convForward"),
        ("%y, %k", "f32[2,4,9,9]{3,2,1,0}", "__cudnn$convBackwardInput"),
        ("%x, %y", "f32[8,4,3,3]{3,2,1,0}", "__cudnn$convBackwardFilter"),
    ],
)
def test_cudnn_needs_the_same_products_forward_and_backward(operands: str, result: str, target: str) -> None:
    """Along 9 with stride 2 and padding 1, the 5 results meet 2, 3, 3, 3 and 2 elements."""
    counts = entry(
        "  %x = f32[2,4,9,9]{3,2,1,0} parameter(0)",
        "  %k = f32[8,4,3,3]{3,2,1,0} parameter(1)",
        "  %y = f32[2,8,5,5]{3,2,1,0} parameter(2)",
        f"  ROOT %c = ({result}, u8[0]{{0}}) custom-call({operands}), window={{size=3x3 stride=2x2 pad=1_1x1_1}}, "
        f'dim_labels=bf01_oi01->bf01, custom_call_target="{target}"',
    )
    assert counts.flops == 2 * (2 * 4 * 8) * 13 * 13
    assert (counts.launches, counts.not_counted) == (1, ())


def test_products_of_cublas_count() -> None:
    counts = entry(
        "  %a = f32[6,5]{1,0} parameter(0)",
        "  %b = f32[5,7]{1,0} parameter(1)",
        '  ROOT %c = (f32[6,7]{1,0}, s8[64]{0}) custom-call(%a, %b), custom_call_target="__cublas$gemm", '
        'backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],'
        '"rhs_contracting_dimensions":["0"],"lhs_batch_dimensions":[]}}}',
    )
    assert (counts.flops, counts.bytes_accessed) == (2 * 6 * 7 * 5, 4 * (30 + 35 + 42) + 64)


def compiled(function: Callable[..., Any], *shapes: tuple[int, ...]) -> tuple[Counts, float]:
    """What is counted, and the arithmetic by the compiler's count, which takes every loop once."""
    program = jax.jit(function).lower(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes)).compile()
    costs = program.cost_analysis()
    assert costs is not None
    return count_program(program.as_text() or ""), costs["flops"] + costs.get("transcendentals", 0)


@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        ((3, 3, 4, 8), {}),
        ((3, 3, 4, 8), {"window_strides": (2, 2)}),
        ((3, 3, 4, 8), {"lhs_dilation": (2, 2), "padding": ((1, 1), (1, 1))}),
        ((3, 3, 4, 8), {"rhs_dilation": (2, 3)}),
        ((3, 3, 4, 8), {"padding": ((-1, 2), (0, 0))}),
        ((3, 3, 2, 8), {"feature_group_count": 2}),
        ((3, 3, 4, 8), {"batch_group_count": 2}),
    ],
    ids=["plain", "stride", "lhs_dilation", "rhs_dilation", "negative padding", "groups", "batch groups"],
)
def test_convolutions_and_their_gradients_are_those_of_the_compiler(
    kernel: tuple[int, ...], options: dict[str, Any]
) -> None:
    settings = {"window_strides": (1, 1), "padding": "SAME", **options}

    def convolve(x: jax.Array, k: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(x, k, dimension_numbers=("NHWC", "HWIO", "NHWC"), **settings)

    for function in (convolve, jax.grad(lambda x, k: jnp.sum(convolve(x, k) ** 2), argnums=(0, 1))):
        counts, by_compiler = compiled(function, (4, 9, 9, 4), kernel)
        assert counts.flops == by_compiler > 10_000


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (lambda a, b: jnp.tanh(a @ b), ((32, 16), (16, 8))),
        (lambda a, b: jnp.einsum("bij,bjk->bik", a, b), ((5, 32, 16), (5, 16, 8))),
        (lambda a: jax.nn.softmax(a).sum(), ((32, 16),)),
        (lambda a: lax.reduce_window(a, -jnp.inf, lax.max, (2, 2), (2, 2), "VALID"), ((320, 16),)),
    ],
    ids=["product", "batched product", "softmax", "maxima of windows"],
)
def test_other_arithmetic_is_that_of_the_compiler(
    function: Callable[..., Any], shapes: tuple[tuple[int, ...], ...]
) -> None:
    counts, by_compiler = compiled(function, *shapes)
    assert counts.flops == by_compiler > 0
    assert counts.loops == ()


def test_a_product_in_a_scan_counts_for_each_of_its_trips() -> None:
    """Eleven products of 16 x 16 and as many sums; counters and places in stacks add less than a hundredth."""
    counts, once = compiled(lambda c, xs: lax.scan(lambda c, x: (c @ x, c.sum()), c, xs), (16, 16), (11, 16, 16))
    arithmetic = 11 * (2 * 16**3 + 255)
    assert counts.loops == (11,)
    assert arithmetic <= counts.flops < 1.01 * arithmetic
    assert once < counts.flops / 10


def test_an_inner_loop_runs_in_every_trip_of_its_outer() -> None:
    def outer(c: jax.Array, x: jax.Array) -> tuple[jax.Array, None]:
        return lax.fori_loop(0, 5, lambda _, c: c @ c, c + x), None

    counts, _ = compiled(lambda c, xs: lax.scan(outer, c, xs)[0], (16, 16), (7, 16, 16))
    arithmetic = 7 * (5 * 2 * 16**3 + 16**2)
    assert counts.loops == (7, 5)
    assert arithmetic <= counts.flops < 1.01 * arithmetic


def test_a_loop_that_ends_by_its_data_is_unknown() -> None:
    counts, _ = compiled(lambda c: lax.while_loop(lambda c: c.sum() < 1e9, lambda c: c @ c, c), (16, 16))
    assert counts.loops == (None,)
    assert counts.flops == 2 * 16**3


def test_operations_of_unknown_arithmetic_are_named() -> None:
    """Sorting and transforms take operations that shapes do not say."""
    for function, name in ((lambda x: jnp.sort(x, axis=-1), "sort"), (lambda x: jnp.fft.fft(x), "fft")):
        text = jax.jit(function).lower(jnp.zeros((8, 64))).compile().as_text() or ""
        assert name in count_program(text).not_counted
