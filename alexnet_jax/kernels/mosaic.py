"""The operations of a chain in one TPU kernel each way (Pallas, compiled by Mosaic).

The forward kernel reads the output of the convolution once and writes the pooled maps. The backward kernel reads the
same output again and normalizes it anew, so that in between only the places of the maxima are kept.

XLA lays out the maps of convolutions on TPUs as [H, W, C, B]: 128 examples fill the lanes of a register, 8 channels its
sublanes. The kernels work in this order, and nothing is copied between them and the convolutions. A neighbouring
channel is then a shift over sublanes, and a pixel a plain index. A program takes the channels of one tower for 128
examples, and goes down the image by two rows a step, backward by one. Pooling windows reach over three rows; what a
step leaves for later ones is in the scratch arrays `kept` and `kept_index`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from alexnet_jax import ops
from alexnet_jax.kernels import Chain, plain
from alexnet_jax.model_config import Lrn

LANES, SUBLANES = 128, 8  # of a vector register
VMEM_BYTES = 48 * 2**20  # the most that a kernel may take of a core's own memory
NO_PIXEL = 9  # the index of a window that does not exist
# The windows of a pixel along one axis, as (window, place in it): pixel 2 j is the first of window j and the last of
# window j - 1; pixel 2 j + 1 is in the middle of window j.
WINDOWS = ((0, 0), (-1, 2)), ((0, 1),)


def supports(chain: Chain, dtype: Any) -> bool:
    """Whether the kernels compute this chain: `plain` does for other windows than the paper's, and in float16."""
    return (chain.window, chain.stride) == (3, 2) and dtype != jnp.float16


def forward(x: Array, bias: Array, chain: Chain, interpret: bool = False) -> tuple[Array, Array]:
    if not supports(chain, x.dtype):
        return plain.forward(x, bias, chain)
    x = _to_lanes(x, chain.towers)
    height, width, towers, channels, batch = x.shape
    rows, columns = (height - 1) // 2, (width - 1) // 2
    # Step i completes row i - 1 of the result. The first step completes none; the second overwrites what it leaves.
    pooled = _blocks(1, columns, channels, batch, lambda i: jnp.maximum(i - 1, 0))
    shape = (rows, columns, towers, channels, batch)
    results = _call(
        functools.partial(_forward_kernel, chain.lrn),
        steps=rows + 1,
        operands=(x, bias),
        in_specs=[_blocks(2, width, channels, batch)],
        out_specs=[pooled, pooled],
        results=[(shape, x.dtype), (shape, jnp.uint8)],
        scratch=(columns, channels, min(LANES, batch)),
        interpret=interpret,
    )
    return _from_lanes(results[0]), _from_lanes(results[1])


def backward(
    x: Array, bias: Array, index: Array, grad: Array, chain: Chain, interpret: bool = False
) -> tuple[Array, Array]:
    if not supports(chain, x.dtype):
        return plain.backward(x, bias, index, grad, chain)
    x, index, grad = (_to_lanes(each, chain.towers) for each in (x, index, grad))
    height, width, towers, channels, batch = x.shape
    rows, columns = grad.shape[:2]
    pixels = _blocks(1, width, channels, batch)
    windows = _blocks(1, columns, channels, batch, lambda i: jnp.minimum(lax.div(i, 2), rows - 1))
    total = pl.BlockSpec((None, channels, min(LANES, batch)), lambda tower, block, i: (tower, 0, block))
    grad_x, grad_bias = _call(
        functools.partial(_backward_kernel, chain.lrn, rows),
        steps=height,
        operands=(x, bias, index, grad),
        in_specs=[pixels, windows, windows],
        out_specs=[pixels, total],
        results=[(x.shape, x.dtype), ((towers, channels, batch), jnp.float32)],
        scratch=(2, columns + 2, channels, min(LANES, batch)),
        interpret=interpret,
    )
    return _from_lanes(grad_x), grad_bias.sum(axis=-1).reshape(bias.shape).astype(bias.dtype)


def _to_lanes(x: Array, towers: int) -> Array:
    """[B, H, W, towers * C] -> [H, W, towers, C, B]."""
    _, height, width, channels = x.shape
    return jnp.transpose(x, (1, 2, 3, 0)).reshape(height, width, towers, channels // towers, -1)


def _from_lanes(x: Array) -> Array:
    height, width, towers, channels, batch = x.shape
    return jnp.transpose(x.reshape(height, width, towers * channels, batch), (3, 0, 1, 2))


def _blocks(rows: int, columns: int, channels: int, batch: int, place: Any = lambda i: i) -> pl.BlockSpec:
    """The part of an array [H, W, towers, C, B] at step i of a program: all columns of rows `place(i)`."""
    shape = (rows, columns, None, channels, min(LANES, batch))
    return pl.BlockSpec(shape, lambda tower, block, i: (place(i), 0, tower, 0, block))


def _call(kernel, steps, operands, in_specs, out_specs, results, scratch, interpret):
    x, bias, *others = operands
    towers, channels, batch = x.shape[2:]
    varying = jax.typeof(x).manual_axis_type  # the axes of the mesh along which the results differ
    in_specs.insert(1, pl.BlockSpec((None, channels, 1), lambda tower, block, i: (tower, 0, 0)))
    return pl.pallas_call(
        kernel,
        grid=(towers, pl.cdiv(batch, LANES), steps),
        in_specs=in_specs,
        out_specs=out_specs,
        out_shape=[jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=varying) for shape, dtype in results],
        scratch_shapes=[pltpu.VMEM(scratch, dtype) for dtype in (jnp.float32, jnp.int32)],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary"), vmem_limit_bytes=VMEM_BYTES
        ),
        interpret=interpret,
    )(x, bias.astype(jnp.float32).reshape(towers, channels, 1), *others)


def _forward_kernel(lrn: Lrn | None, x, bias, pooled, index, kept, kept_index):
    biases = jnp.broadcast_to(bias[...], x.shape[2:])

    def maps(row, column):
        a = jnp.maximum(x[row, column].astype(jnp.float32) + biases, 0)
        return a if lrn is None else a * _powers(_scale(a, lrn), lrn.beta)[0]

    def greater(first, second):
        """The greater of two (values, indices), the first of equals."""
        return jnp.maximum(first[0], second[0]), jnp.where(second[0] > first[0], second[1], first[1])

    def window(j, left):
        pixels = [[left[row], maps(row, 2 * j + 1), maps(row, 2 * j + 2)] for row in range(2)]
        upper, lower = (
            functools.reduce(greater, [(a, jnp.full(a.shape, 3 * row + i)) for i, a in enumerate(pixels[row])])
            for row in range(2)
        )
        # The upper row is the first of window row i and the last of window row i - 1, which it completes.
        values, places = greater((kept[j], kept_index[j]), (upper[0], upper[1] + 6))
        pooled[0, j], index[0, j] = values.astype(pooled.dtype), places.astype(index.dtype)
        kept[j], kept_index[j] = greater(upper, lower)
        return pixels[0][2], pixels[1][2]

    lax.fori_loop(0, pooled.shape[1], window, (maps(0, 0), maps(1, 0)))


def _backward_kernel(lrn: Lrn | None, rows: int, x, bias, index, grad, grad_x, grad_bias, kept, kept_index):
    # `kept` has two rows of windows, by turns that of row i of x and the one above, with a window more at both ends.
    i, columns = pl.program_id(2), grad.shape[1]
    row = lax.div(i, 2)  # not i // 2, which asks what TPU this process has
    biases = jnp.broadcast_to(bias[...], x.shape[2:])

    @pl.when(i == 0)
    def _():
        kept_index[...] = jnp.full(kept_index.shape, NO_PIXEL)
        kept[...] = jnp.zeros(kept.shape)
        grad_bias[...] = jnp.zeros(grad_bias.shape)

    @pl.when(i % 2 == 0)
    def _():
        def keep(j, carry):
            kept_index[row % 2, j + 1] = jnp.where(row < rows, index[0, j].astype(jnp.int32), NO_PIXEL)
            kept[row % 2, j + 1] = grad[0, j].astype(jnp.float32)
            return carry

        lax.fori_loop(0, columns, keep, 0)

    def pixel(odd_row, j, odd_column):
        """Compute the gradient of the pixel in column 2 * j + odd_column of row i, and return it."""
        after = jnp.zeros(x.shape[2:])
        for down, first in WINDOWS[odd_row]:
            for right, second in WINDOWS[odd_column]:
                place = (row + down + 2) % 2, j + right + 1
                after += jnp.where(kept_index[place] == 3 * first + second, kept[place], 0)
        column = 2 * j + odd_column
        before = x[0, column].astype(jnp.float32) + biases
        if lrn is not None:  # as in `ops.local_response_norm`
            a = jnp.maximum(before, 0)
            power, next_power = _powers(_scale(a, lrn), lrn.beta)
            inner = _window_sum(after * a * next_power, lrn.n)
            after = after * power - 2 * lrn.alpha * lrn.beta * a * inner
        after = jnp.where(before > 0, after, 0)
        grad_x[0, column] = after.astype(grad_x.dtype)
        return after

    def sweep(odd_row):
        def both(j, total):
            return total + pixel(odd_row, j, 0) + pixel(odd_row, j, 1)

        total = lax.fori_loop(0, columns, both, jnp.zeros(x.shape[2:]))
        grad_bias[...] += total + pixel(odd_row, columns, 0)

    for odd_row in range(2):
        pl.when(i % 2 == odd_row)(functools.partial(sweep, odd_row))
    if x.shape[1] % 2 == 0:  # the last column is in no window
        grad_x[0, x.shape[1] - 1] = jnp.zeros(x.shape[2:], grad_x.dtype)


def _scale(a: Array, lrn: Lrn) -> Array:
    return lrn.k + lrn.alpha * _window_sum(a * a, lrn.n)


def _powers(x: Array, beta: float) -> tuple[Array, Array]:
    """x^-beta and x^(-beta - 1), for the paper's 0.75 without the divisions and square roots that take a TPU longer."""
    if beta == 0.75:
        root = lax.rsqrt(x)
        power = root * root * lax.rsqrt(root)
        return power, power * root * root
    power = ops.negative_power(x, beta)
    return power, power / x


def _window_sum(x: Array, n: int) -> Array:
    """Sum over the n channels centred on each channel, with zeros outside: [C, lanes]."""
    half, channels = n // 2, x.shape[0]
    zeros = jnp.zeros((half + -(channels + half) % SUBLANES, x.shape[1]))
    x = jnp.concatenate([x, zeros])  # in whole registers; the rolls bring zeros to both ends
    shifts = [*range(1, half + 1), *range(len(x) - half, len(x))]
    return sum((pltpu.roll(x, shift, 0) for shift in shifts), x)[:channels]
