"""One 3-D convolution in several forms: the same sum in another order, so that parameters move freely between them.

GPUs and TPUs run the native form best. XLA's native 3-D convolution is slow on a CPU, its 2-D convolutions are not, so
that there the depth is unrolled. Most shapes run fastest when the depth is transformed as well: Winograd's minimal
filtering F(4, k) (Winograd 1980; Lavin and Gray 2016) gets four output planes from k + 3 instead of 4 k two-dimensional
convolutions, at about four times the rounding error.
"""

import functools
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

Form = Literal["auto", "native", "divided", "depth_sum", "depth_fold", "winograd", "matmul"]

MATMUL_VOXELS = 200
"""On a CPU, volumes up to this many voxels run fastest as one matrix product over gathered patches."""
FOLD_CHANNELS = 4
"""On a CPU, inputs of up to this many channels run fastest with the kernel's depth folded into them."""
WINOGRAD_VOXELS = 4000
"""On a CPU, batches of this many voxels or more run fastest with transformed planes; below, kernels outweigh voxels."""

TILE = 4
"""Output planes that are made together by the transformed form."""
_POINTS = {3: (0.0, 1.0, -1.0, 0.5, -2.0), 5: (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)}
"""For each kernel side the points at which polynomials are evaluated, besides infinity; chosen for small rounding."""


def convolve(x: jax.Array, kernel: jax.Array, form: Form = "auto") -> jax.Array:
    """Convolves with stride 1 and zero padding that keeps the shape.

    Args:
        x: `[b, z, y, x, c]`.
        kernel: `[k, k, k, c, f]` with odd k.
        form: `"native"` (XLA's 3-D convolution), `"depth_sum"` (a sum over the kernel's depth of 2-D convolutions),
            `"depth_fold"` (one 2-D convolution of the input's depth-shifted copies), `"winograd"` (2-D convolutions of
            transformed planes; k of 3 or 5), `"matmul"` (gathered patches times the kernel), `"divided"` (for volumes
            whose depth is divided over devices, see `_divided`), or `"auto"`: native where
            the program is compiled for anything but a CPU; on a CPU the fastest one for the shape, in float32, and the
            gradients by their own fastest forms. `"auto"` has gradients of every order, but no forward mode
            (`jax.jvp`); all others have both.

    Returns:
        `[b, z, y, x, f]`, in the type of `x`.

    Raises:
        ValueError: a kernel of an even side, or of one that `"winograd"` has no transforms for.
    """
    side = len(kernel)
    if side % 2 == 0:
        raise ValueError(f"kernel: found a side of {side}; wanted an odd one, so that the shape is kept")
    if form == "winograd" and side not in _POINTS:
        raise ValueError(f"kernel: found a side of {side}; wanted 3 or 5 for form='winograd'")
    return _FORMS[form](x, kernel)


def winograd_matrices(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the transforms of F(4, k): `y = outputs @ ((kernels @ k) * (planes @ x))` correlates 4 + k - 1 values.

    Args:
        side: of the kernel, k: 3 or 5.

    Returns:
        outputs `[4, k + 3]`, kernels `[k + 3, k]` and planes `[k + 3, k + 3]`, float64; exact but for rounding.
    """
    count = TILE + side - 1
    evaluations = [_evaluation(_POINTS[side], columns) for columns in (TILE, side, count)]
    outputs, kernels, planes = evaluations[0].T, evaluations[1], np.linalg.inv(evaluations[2]).T
    planes[np.abs(planes) < 1e-12] = 0.0
    # Every transformed plane stays about as large as the planes that it comes from.
    scale = np.abs(planes).sum(1, keepdims=True)
    return outputs, kernels * scale, planes / scale


def _evaluation(points: tuple[float, ...], columns: int) -> np.ndarray:
    """Evaluates a polynomial, given by its coefficients, at every point and at infinity."""
    return np.vstack([np.vander(points, columns, increasing=True), np.eye(columns)[-1]])


def _native(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1, 1), "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC"))


def _divided(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The forms that the partitioner divides along the depth by exchanging borders alone.

    Planes of several volumes side by side, as the forms for CPUs have them, would be gathered first; so would, for the
    native form's kernel gradient, volumes of no more planes than the kernel.
    """
    return _native(x, kernel) if x.shape[1] > len(kernel) else _matmul(x, kernel)


def _depth_sum(x: jax.Array, kernel: jax.Array) -> jax.Array:
    planes = [_convolve_planes(y, k) for y, k in zip(_depth_shifts(x, len(kernel)), kernel, strict=True)]
    return functools.reduce(jnp.add, planes).reshape(*x.shape[:-1], -1)


def _depth_fold(x: jax.Array, kernel: jax.Array) -> jax.Array:
    folded = jnp.concatenate(_depth_shifts(x, len(kernel)), -1)
    taps = jnp.moveaxis(kernel, 0, 2).reshape(*kernel.shape[1:3], -1, kernel.shape[-1])
    return _convolve_planes(folded, taps).reshape(*x.shape[:-1], -1)


def _winograd(x: jax.Array, kernel: jax.Array) -> jax.Array:
    outputs, kernels, planes = winograd_matrices(len(kernel))
    tiles = _tiles(x, len(kernel) // 2)
    taps = jnp.tensordot(kernels.astype(x.dtype), kernel, 1, precision="highest")
    products = [_convolve_planes(_combine(row, tiles), k) for row, k in zip(planes, taps, strict=True)]
    made = [_combine(row, products).reshape(x.shape[0], -1, *x.shape[2:-1], kernel.shape[-1]) for row in outputs]
    return jnp.stack(made, 2).reshape(x.shape[0], -1, *x.shape[2:-1], kernel.shape[-1])[:, : x.shape[1]]


def _matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _patches(x, len(kernel)) @ kernel.reshape(-1, kernel.shape[-1])


@jax.custom_vjp
def _fastest(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.platform_dependent(x, kernel, cpu=_fastest_on_cpu, default=_native)


def _fastest_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _fastest(x, kernel), (x, kernel)


def _fastest_backward(arguments: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    def native(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
        by_x, by_kernel = jax.vjp(_native, x, kernel)[1](gradient)
        return by_x, by_kernel

    return jax.lax.platform_dependent(*arguments, gradient, cpu=_gradients_on_cpu, default=native)


_fastest.defvjp(_fastest_forward, _fastest_backward)

_FORMS = {
    "auto": _fastest,
    "native": _native,
    "divided": _divided,
    "depth_sum": _depth_sum,
    "depth_fold": _depth_fold,
    "winograd": _winograd,
    "matmul": _matmul,
}


def _fastest_on_cpu(x: jax.Array, kernel: jax.Array) -> jax.Array:
    form = _winograd if _transforms_planes(x, kernel) else _plain_form(x, kernel)
    return form(*_in_float32(x, kernel)).astype(x.dtype)


def _gradients_on_cpu(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the gradients by input and kernel."""
    # XLA would otherwise keep what the forward pass makes of x, which is larger, or compute x anew for every use.
    x, gradient = jax.lax.optimization_barrier((x, gradient))
    wide_x, wide_kernel, wide_gradient = _in_float32(x, kernel, gradient)
    if _transforms_planes(x, kernel):
        by_x = _winograd(wide_gradient, wide_kernel[::-1, ::-1, ::-1].swapaxes(3, 4))
        by_kernel = _winograd_gradient(wide_x, wide_gradient, len(kernel))
    else:
        by_x, by_kernel = jax.vjp(_plain_form(x, kernel), wide_x, wide_kernel)[1](wide_gradient)
    return by_x.astype(x.dtype), by_kernel.astype(kernel.dtype)


def _transforms_planes(x: jax.Array, kernel: jax.Array) -> bool:
    *volume, channels = x.shape
    many = math.prod(volume) >= WINOGRAD_VOXELS and x.shape[1] >= TILE
    return len(kernel) in _POINTS and many and channels > FOLD_CHANNELS


def _plain_form(x: jax.Array, kernel: jax.Array) -> Callable[[jax.Array, jax.Array], jax.Array]:
    if len(kernel) == 1 or math.prod(x.shape[1:4]) <= MATMUL_VOXELS:
        return _matmul
    return _depth_fold if x.shape[-1] <= FOLD_CHANNELS else _depth_sum


def _winograd_gradient(x: jax.Array, gradient: jax.Array, side: int) -> jax.Array:
    """The transpose of `_winograd` by its kernel, with the transformed planes side by side.

    The barrier keeps their memory layout: XLA would let them take the one that the filter gradient wants, and write
    them with large strides.
    """
    outputs, kernels, planes = winograd_matrices(side)
    tiles, made = _tiles(x, side // 2), _tiles(gradient, 0)
    transformed = jnp.stack([_combine(row, tiles) for row in planes])
    gradients = jnp.stack([_combine(column, made) for column in outputs.T])
    transformed, gradients = jax.lax.optimization_barrier((transformed, gradients))
    products = [_planes_gradient(x, g, side) for x, g in zip(transformed, gradients, strict=True)]
    return jnp.tensordot(kernels.T.astype(x.dtype), jnp.stack(products), 1, precision="highest")


def _planes_gradient(x: jax.Array, gradient: jax.Array, side: int) -> jax.Array:
    """The gradient of `_convolve_planes` by its kernel `[k, k, c, f]`."""
    kernel = jax.ShapeDtypeStruct((side, side, x.shape[-1], gradient.shape[-1]), x.dtype)
    (by_kernel,) = jax.linear_transpose(functools.partial(_convolve_planes, x), kernel)(gradient)
    return by_kernel


def _convolve_planes(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _tiles(x: jax.Array, halo: int) -> list[jax.Array]:
    """Cuts the depth into tiles of `TILE` planes and their halo.

    Returns:
        For every place in a tile, from the halo before it to the halo behind it, the planes `[b tiles, y, x, c]`.
    """
    b, depth, *plane = x.shape
    count = -(-depth // TILE)
    blocks = jnp.pad(x, ((0, 0), (0, count * TILE - depth), (0, 0), (0, 0), (0, 0)))
    blocks = blocks.reshape(b, count, TILE, *plane)

    def place(position: int) -> jax.Array:
        tiles, within = divmod(position, TILE)
        shifted = jnp.pad(blocks[:, :, within], ((0, 0), (max(-tiles, 0), max(tiles, 0)), (0, 0), (0, 0), (0, 0)))
        return _planes(shifted[:, max(tiles, 0) : max(tiles, 0) + count])

    return [place(position) for position in range(-halo, TILE + halo)]


def _combine(weights: np.ndarray, arrays: list[jax.Array]) -> jax.Array:
    """Sums arrays with weights known at compile time; what has no weight is not touched."""
    # The operations of lax are traced several times faster than those of jnp, and a network has thousands of these.
    pairs = [(array.dtype.type(weight), array) for weight, array in zip(weights, arrays, strict=True) if weight]
    return functools.reduce(jax.lax.add, [jax.lax.mul(array, weight) for weight, array in pairs])


def _depth_shifts(x: jax.Array, side: int) -> list[jax.Array]:
    """Returns for every depth of the kernel the planes `[b z, y, x, c]` that it meets."""
    padded = jnp.pad(x, ((0, 0), (side // 2, side // 2), (0, 0), (0, 0), (0, 0)))
    return [_planes(padded[:, tap : tap + x.shape[1]]) for tap in range(side)]


def _planes(x: jax.Array) -> jax.Array:
    return x.reshape(-1, *x.shape[2:])


def _patches(x: jax.Array, side: int) -> jax.Array:
    """Returns what the kernel meets at every voxel, `[b, z, y, x, k k k c]`."""
    for axis in (3, 2, 1):
        padding = [(0, 0)] * x.ndim
        padding[axis] = (side // 2, side // 2)
        padded, size = jnp.pad(x, padding), x.shape[axis]
        x = jnp.concatenate([jax.lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(side)], -1)
    return x


def _in_float32(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """A CPU gains nothing from narrower types, and transformed planes need the digits."""
    return tuple(array.astype(jnp.promote_types(array.dtype, jnp.float32)) for array in arrays)
