"""The kernels for GPUs, in the Triton dialect of Pallas.

Each thread walks along a strip of rows and computes a few neighbouring channels of it, so that windows over channels
lie within a thread: its registers are lists of [THREADS] arrays, one for each channel. Neighbouring threads compute
neighbouring channels, and read and write memory side by side.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from alexnet_jax.kernels import Chain, plain
from alexnet_jax.kernels.threads import THREADS, Registers, load, place, store
from alexnet_jax.model_config import Lrn

FORWARD_WIDTH, BACKWARD_WIDTH = 8, 16  # channels of a thread; the windows at its edges are computed twice
ROWS = 2  # of the pooled maps in a strip


def forward(x: Array, bias: Array, chain: Chain) -> tuple[Array, Array]:
    if (width := _width(x, chain, FORWARD_WIDTH)) is None:
        return plain.forward(x, bias, chain)
    batch, *sides, channels = x.shape
    rows, columns = ((side - chain.window) // chain.stride + 1 for side in sides)
    shape = batch, rows, columns, channels
    outputs = _like(x, shape, x.dtype), _like(x, shape, jnp.uint8)
    threads = batch * pl.cdiv(rows, ROWS) * channels // width
    return _call(functools.partial(_forward, chain, width), outputs, threads, x, bias)


def backward(x: Array, bias: Array, index: Array, grad: Array, chain: Chain) -> tuple[Array, Array]:
    if (width := _width(x, chain, BACKWARD_WIDTH)) is None:
        return plain.backward(x, bias, index, grad, chain)
    batch, height, _, channels = x.shape
    strips = pl.cdiv(height, chain.stride)
    outputs = _like(x, x.shape, x.dtype), _like(x, (batch * strips, channels), jnp.float32)
    kernel = functools.partial(_backward, chain, width)
    grad_x, sums = _call(kernel, outputs, batch * strips * channels // width, x, bias, index, grad)
    return grad_x, sums.sum(0).astype(bias.dtype)


def _width(x: Array, chain: Chain, most: int) -> int | None:
    """The number of channels of a thread, a power of two; None if the kernels cannot compute the chain."""
    share = x.shape[-1] // chain.towers
    width = min(most, share & -share)
    return width if width >= 2 * _reach(chain) and chain.window >= chain.stride else None


def _reach(chain: Chain) -> int:
    """How many channels to each side a window over channels takes in."""
    return chain.lrn.n // 2 if chain.lrn else 0


def _like(x: Array, shape: tuple[int, ...], dtype) -> jax.ShapeDtypeStruct:
    """The type of an array that differs between devices wherever `x` does."""
    return jax.eval_shape(lambda x: jnp.broadcast_to(x.reshape(-1)[0], shape).astype(dtype), x)


def _call(kernel, outputs, threads: int, *inputs: Array):
    return pl.pallas_call(
        kernel,
        out_shape=outputs,
        grid=(pl.cdiv(threads, THREADS),),
        in_specs=[pl.BlockSpec(memory_space=pl.ANY)] * len(inputs),
        out_specs=tuple(pl.BlockSpec(memory_space=pl.ANY) for _ in outputs),
        compiler_params=triton.CompilerParams(num_warps=THREADS // 32, num_stages=1),
    )(*inputs)


def _forward(chain: Chain, width: int, x_ref, bias_ref, pooled_ref, index_ref):
    images, height, _, channels = x_ref.shape
    _, rows, columns, _ = pooled_ref.shape
    window, stride, reach = chain.window, chain.stride, _reach(chain)
    here = place(chain.towers, width, channels, pl.cdiv(rows, ROWS), images)
    bias = load(bias_ref, (), here, width, reach, here.exists)
    # Maxima are taken of the bits of the maps, as integers: none is negative, so the order is the same, once a NaN has
    # lost its sign. The last bits hold the place in the window, the largest number for the first pixel.
    ones = (1 << (window * window - 1).bit_length()) - 1

    def keys(column, number: int) -> list[Registers]:
        """For each row of the strip the maximum over a column of its windows, the `number`th."""
        largest: list[Registers] = [[]] * ROWS
        for i in range((ROWS - 1) * stride + window):
            row = here.strip * ROWS * stride + i
            x = load(x_ref, (here.image, row, column), here, width, reach, here.exists & (row < height))
            x = _normalize(_relu(x, bias), chain.lrn)
            bits = [lax.bitcast_convert_type(each, jnp.int32) & (2**31 - 1 - ones) for each in x]
            for r in range(ROWS):
                if 0 <= i - r * stride < window:
                    tap = (i - r * stride) * window + number
                    marked = [each | (ones - tap) for each in bits]
                    largest[r] = [*map(jnp.maximum, largest[r], marked)] if largest[r] else marked
        return largest

    kept = max(window - stride, 0)  # columns that the next window has too

    def step(j, carried):
        carried = [*carried, *(keys(stride * j + n, n) for n in range(kept, min(window, kept + stride)))]
        for r in range(ROWS):
            key = functools.reduce(lambda a, b: [*map(jnp.maximum, a, b)], (column[r] for column in carried))
            row = here.strip * ROWS + r
            at, mask = (here.image, row, j), here.exists & (row < rows)
            values = [lax.bitcast_convert_type(each & ~ones, jnp.float32) for each in key]
            store(pooled_ref, at, here, values, mask)
            store(index_ref, at, here, [ones - (each & ones) for each in key], mask)
        # A column's number in the next window is smaller by the stride.
        return jax.tree.map(lambda key: key + stride, carried[stride:])

    lax.fori_loop(0, columns, step, [keys(n, n) for n in range(kept)])


def _backward(chain: Chain, width: int, x_ref, bias_ref, index_ref, grad_ref, grad_x_ref, sums_ref):
    images, height, breadth, channels = x_ref.shape
    _, rows, columns, _ = grad_ref.shape
    window, stride, reach = chain.window, chain.stride, _reach(chain)
    strips = pl.cdiv(height, stride)
    here = place(chain.towers, width, channels, strips, images)
    bias = load(bias_ref, (), here, width, 2 * reach, here.exists)
    steps = range(pl.cdiv(window, stride))  # windows reach so many strides back

    def of_window(row, column):
        exists = here.exists & (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
        at = (here.image, row, column)
        return [load(ref, at, here, width, reach, exists) for ref in (index_ref, grad_ref)]

    def step(j, sums):
        windows = {(q, p): of_window(here.strip - q, j - p) for q in steps for p in steps}
        for a in range(stride):
            for b in range(stride):
                shares = [
                    [jnp.where(each == i * window + j, g, 0.0) for each, g in zip(*windows[q, p], strict=True)]
                    for (q, i) in enumerate(range(a, window, stride))
                    for (p, j) in enumerate(range(b, window, stride))
                ]
                grad = functools.reduce(lambda x, y: [*map(jnp.add, x, y)], shares)
                at = (here.image, here.strip * stride + a, j * stride + b)
                mask = here.exists & (at[1] < height) & (at[2] < breadth)
                x = _relu(load(x_ref, at, here, width, 2 * reach, mask), bias)
                grad = _normalize_gradient(x, grad, chain.lrn)
                own = x[2 * reach : 2 * reach + width]
                grad = [jnp.where(x > 0, g, 0.0) for x, g in zip(own, grad, strict=True)]
                store(grad_x_ref, at, here, grad, mask)
                sums = [*map(jnp.add, sums, grad)]
        return sums

    sums = lax.fori_loop(0, pl.cdiv(breadth, stride), step, [jnp.zeros(THREADS, jnp.float32)] * width)
    store(sums_ref, (here.image * strips + here.strip,), here, sums, here.exists)


def _relu(x: Registers, bias: Registers) -> Registers:
    x = [*map(jnp.add, x, bias)]
    return [jnp.where(each <= 0, 0.0, each) for each in x]  # NaN stays, which Triton's maximum would drop


def _normalize(x: Registers, lrn: Lrn | None) -> Registers:
    """LRN, as the next two for the channels whose windows are complete."""
    return [*map(jnp.multiply, _inner(x, lrn.n), _powers(x, lrn)[0])] if lrn else x


def _normalize_gradient(x: Registers, grad: Registers, lrn: Lrn | None) -> Registers:
    """As `ops._lrn_bwd`, for the `grad` of the channels whose windows are complete."""
    if lrn is None:
        return grad
    powers, inverses = _powers(x, lrn)
    x, grad = _inner(x, lrn.n), [*map(jnp.multiply, grad, powers)]
    totals = _window_sums([g * (a * i) for g, a, i in zip(grad, x, inverses, strict=True)], lrn.n)
    own = zip(_inner(grad, lrn.n), _inner(x, lrn.n), totals, strict=True)
    return [g - 2 * lrn.alpha * lrn.beta * a * total for g, a, total in own]


def _powers(x: Registers, lrn: Lrn) -> tuple[Registers, Registers]:
    """scale^-beta and 1 / scale, where scale = k + alpha * the sum of squares over the window."""
    roots = [lax.rsqrt(lrn.k + lrn.alpha * total) for total in _window_sums([a * a for a in x], lrn.n)]
    inverses = [root * root for root in roots]
    if lrn.beta == 0.75:
        return [i * lax.rsqrt(root) for i, root in zip(inverses, roots, strict=True)], inverses
    return [jnp.exp(lrn.beta * jnp.log(i)) for i in inverses], inverses


def _inner(x: Registers, n: int) -> Registers:
    """The channels on which a window of n within `x` is centred."""
    return x[n // 2 : len(x) - n // 2]


def _window_sums(x: Registers, n: int) -> Registers:
    """The sums of n neighbours, with few additions: those of n / 2 are computed once."""
    if n == 1:
        return x
    half = _window_sums(x, n // 2)
    pairs = [a + b for a, b in zip(half, half[n // 2 :], strict=False)]
    return [a + b for a, b in zip(pairs, x[n - 1 :], strict=False)] if n % 2 else pairs
