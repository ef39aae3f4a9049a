"""The network's operations, most with a gradient written by hand, which can be taken once.

Shapes are NHWC. No parameters, no collectives.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

from alexnet_jax.model_config import Pool

FEW_CHANNELS, WIDE = 4, 4  # for `_widened`


def _one_by_one(op: Callable[..., Array]) -> Callable[..., Array]:
    """Make `op` run once per element under `jax.vmap`, instead of as one batched operation.

    XLA turns a batch of convolutions with different kernels into one grouped convolution, which on CPU is many times
    slower than separate ones, and transposes all weights for a batch of matrix products. Both cases arise when two
    towers share a device.
    """
    mapped = jax.custom_batching.custom_vmap(op)

    @mapped.def_vmap
    def rule(axis_size, in_batched, *operands):
        results = [
            mapped(*(x[i] if batched else x for x, batched in zip(operands, in_batched, strict=True)))
            for i in range(axis_size)
        ]
        return jnp.stack(results), True

    return mapped


def _gradients(op: Callable[..., Array], grad: Array, *operands: Array) -> list[Array]:
    """JAX's gradient of `op` with respect to each of its operands, each computed `_one_by_one`."""

    def pull_back(number, grad, *operands):
        before, after = operands[:number], operands[number + 1 :]
        return jax.vjp(lambda x: op(*before, x, *after), operands[number])[1](grad)[0]

    return [_one_by_one(functools.partial(pull_back, number))(grad, *operands) for number in range(len(operands))]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def conv(image: Array, kernel: Array, bias: Array, stride: int, padding: tuple[int, int]) -> Array:
    """Convolution: image [B, H, W, C], kernel [k, k, C, F], bias [F] -> [B, H', W', F].

    `padding` is the number of zeros before and after, along both height and width.
    """
    return _conv_fwd(image, kernel, bias, stride, padding)[0]


def _without_bias(stride: int, padding: tuple[int, int], wide: int = 1) -> Callable[[Array, Array], Array]:
    strides, layout = (stride, stride * wide), ("NHWC", "HWIO", "NHWC")
    return lambda x, kernel: lax.conv_general_dilated(x, kernel, strides, (padding,) * 2, dimension_numbers=layout)


def _widened(stride: int, padding: tuple[int, int], image: Array, kernel: Array) -> Array:
    """The convolution; for few channels WIDE neighbouring pixels at once, by copies of the kernel moved on by a pixel.

    A product with so few columns is slow on CPUs, by more than the zeros beside the copies cost.
    """
    size, _, channels, features = kernel.shape
    width = (image.shape[2] + sum(padding) - size) // stride + 1
    if channels > FEW_CHANNELS or stride > 1 or width % WIDE:
        return _without_bias(stride, padding)(image, kernel)
    copies = [jnp.pad(kernel, ((0, 0), (i, WIDE - 1 - i), (0, 0), (0, 0))) for i in range(WIDE)]
    y = _without_bias(1, padding, WIDE)(image, jnp.concatenate(copies, axis=3))
    return y.reshape(*y.shape[:2], width, features)


def _conv_fwd(image, kernel, bias, stride, padding):
    y = _one_by_one(functools.partial(_widened, stride, padding))(image, kernel)
    return y + bias[None, None, None], (image, kernel, bias)


def _conv_bwd(stride, padding, residuals, grad):
    image, kernel, bias = residuals

    def to_bias(grad, bias):
        # The sum of `grad` over all pixels, as a matrix product: XLA for CPU would compute a sum in a single thread,
        # and `grad` once more for it.
        grad = grad.reshape(-1, bias.size)
        ones = jnp.ones((len(grad), 1), grad.dtype)
        # `+ grad[0]` makes b vary over the devices like `grad`, without any effect on the result: JAX then sums over
        # the devices what each has already summed over its pixels, [F], and not the gradient of every pixel.
        return jax.vjp(lambda b: ones @ (b + grad[0])[None], bias)[1](grad)[0]

    return *_gradients(_without_bias(stride, padding), grad, image, kernel), _one_by_one(to_bias)(grad, bias)


conv.defvjp(_conv_fwd, _conv_bwd)


@jax.custom_vjp
def dense(x: Array, kernel: Array) -> Array:
    """Matrix product: x [B, inputs], kernel [inputs, units] -> [B, units]."""
    return _dense_fwd(x, kernel)[0]


def _dense_fwd(x, kernel):
    return _one_by_one(jnp.matmul)(x, kernel), (x, kernel)


def _dense_bwd(residuals, grad):
    return tuple(_gradients(jnp.matmul, grad, *residuals))


dense.defvjp(_dense_fwd, _dense_bwd)


def local_conv(image: Array, kernel: Array, size: int, stride: int, padding: tuple[int, int]) -> Array:
    """Locally connected layer: like `conv`, with a kernel for each output pixel, [H', W', size * size * C, F]."""
    rows, columns = kernel.shape[:2]
    image = jnp.pad(image, ((0, 0), padding, padding, (0, 0)))
    patches = [
        image[:, i : i + (rows - 1) * stride + 1 : stride, j : j + (columns - 1) * stride + 1 : stride]
        for i in range(size)
        for j in range(size)
    ]
    return jnp.einsum("bhwp,hwpf->bhwf", jnp.concatenate(patches, axis=-1), kernel)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def local_response_norm(x: Array, k: float, n: int, alpha: float, beta: float) -> Array:
    """Paper 3.3: y_c = x_c / (k + alpha * sum of x_j^2 over the n channels centred on c)^beta.

    The window is clipped at the first and last channel of `x` [..., C]. These are the channels of one tower, because
    the authors' code normalizes within a GPU. Computed in float32, returned in the type of `x`.
    """
    return _lrn_fwd(x, k, n, alpha, beta)[0]


def _lrn_fwd(x, k, n, alpha, beta):
    x32 = x.astype(jnp.float32)
    scale = k + alpha * _window_sum(x32 * x32, n)
    return (x32 * negative_power(scale, beta)).astype(x.dtype), x


def _lrn_bwd(k, n, alpha, beta, x, grad):
    # dL/dx_c = g_c d_c^-beta - 2 alpha beta x_c * sum over windows j that hold c of g_j x_j d_j^(-beta-1).
    # The window is symmetric, so "windows that hold c" is again the window centred on c.
    x32, grad32 = x.astype(jnp.float32), grad.astype(jnp.float32)
    scale = k + alpha * _window_sum(x32 * x32, n)
    power = negative_power(scale, beta)
    inner = _window_sum(grad32 * x32 * power / scale, n)
    return ((grad32 * power - 2 * alpha * beta * x32 * inner).astype(x.dtype),)


local_response_norm.defvjp(_lrn_fwd, _lrn_bwd)


def _window_sum(x: Array, n: int) -> Array:
    """Sum over the n channels centred on each channel, with zeros outside."""
    half, channels = n // 2, x.shape[-1]
    padded = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(half, half)])
    # Channel 0 of the window comes last only because another order would round differently from earlier versions.
    return sum(padded[..., i : i + channels] for i in range(1, n)) + padded[..., :channels]


def negative_power(x: Array, beta: float) -> Array:
    """x^-beta. For the paper's 0.75 it uses reciprocal square roots, several times faster than a power."""
    if beta == 0.75:
        root = lax.rsqrt(x)
        return root * jnp.sqrt(root)
    return x**-beta


def map_norm(x: Array, n: int, alpha: float, beta: float) -> Array:
    """y = x / (1 + alpha * sum of x^2 over the n x n surrounding pixels of the same map)^beta: [B, H, W, C].

    The authors' code applies it in layer 2, after local response normalization; the paper does not mention it. The
    window is clipped at the edges. Computed in float32, returned in the type of `x`.
    """
    x32 = x.astype(jnp.float32)
    total = lax.reduce_window(x32 * x32, 0.0, lax.add, (1, n, n, 1), (1, 1, 1, 1), padding="SAME")
    return (x32 * negative_power(1 + alpha * total, beta)).astype(x.dtype)


def fill_last_window(x: Array, pool: Pool) -> Array:
    """Append rows and columns of -infinity to [..., H, W, C], to complete the last window of max-pooling."""
    missing = [max(0, (pool.output(side) - 1) * pool.stride + pool.window - side) for side in x.shape[-3:-1]]
    edges = [(0, 0, 0)] * (x.ndim - 3) + [(0, count, 0) for count in missing] + [(0, 0, 0)]
    return lax.pad(x, jnp.asarray(-jnp.inf, x.dtype), edges)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def max_pool(x: Array, window: int, stride: int) -> Array:
    """Paper 3.4: the maximum of each window x window pixels, every `stride`: [..., H, W, C] -> [..., H', W', C].

    H' = (H - window) // stride + 1. Among equal maxima the gradient goes to the first in row order.
    """
    ones = (1,) * (x.ndim - 3)
    return lax.reduce_window(
        x, -jnp.inf, lax.max, (*ones, window, window, 1), (*ones, stride, stride, 1), padding="VALID"
    )


def _max_pool_fwd(x, window, stride):
    # The backward pass looks for the pixel that equals the maximum. Without the barrier XLA may compute `x` once more
    # for one of the two, rounded otherwise (it does in bfloat16 on GPUs); then no pixel would equal it, and the
    # gradient of the window would be lost.
    x = lax.optimization_barrier(x)
    y = max_pool(x, window, stride)
    return y, (x, y)


def _max_pool_bwd(window, stride, residuals, grad):
    x, y = residuals
    return (scatter_to_winners(winner(x, y, window, stride), grad, x.shape, window, stride),)


def winner(x: Array, y: Array, window: int, stride: int) -> Array:
    """The index in its window of the first pixel of `x` that equals the maximum, `y` [..., H', W', C]: int32."""
    rows, columns = y.shape[-3:-1]
    index = jnp.full(y.shape, window * window, jnp.int32)
    for each in reversed(range(window * window)):
        i, j = divmod(each, window)
        rows_end, columns_end = i + (rows - 1) * stride + 1, j + (columns - 1) * stride + 1
        index = jnp.where(x[..., i:rows_end:stride, j:columns_end:stride, :] == y, each, index)
    return index


def scatter_to_winners(index: Array, grad: Array, shape: tuple[int, ...], window: int, stride: int) -> Array:
    """The gradient of max-pooling with respect to its input, of `shape`: each maximum's to the pixel of its `index`."""
    (height, width), (rows, columns) = shape[-3:-1], grad.shape[-3:-1]
    lead = [(0, 0, 0)] * (grad.ndim - 3)
    extra = -(-window // stride) - 1  # windows reach this many strides past the start of the last one
    zero = jnp.zeros((), grad.dtype)

    def plane(a, b):  # the gradient of pixels [a::stride, b::stride]
        total = jnp.zeros((*shape[:-3], rows + extra, columns + extra, shape[-1]), grad.dtype)
        for i in range(a, window, stride):
            for j in range(b, window, stride):
                q, r = i // stride, j // stride
                share = jnp.where(index == i * window + j, grad, zero)
                total = total + lax.pad(share, zero, [*lead, (q, extra - q, 0), (r, extra - r, 0), (0, 0, 0)])
        return total

    planes = jnp.stack([jnp.stack([plane(a, b) for b in range(stride)], -2) for a in range(stride)], -4)
    pixels = planes.reshape(*shape[:-3], (rows + extra) * stride, (columns + extra) * stride, shape[-1])
    down, right = height - pixels.shape[-3], width - pixels.shape[-2]
    return lax.pad(pixels, zero, [*lead, (0, down, 0), (0, right, 0), (0, 0, 0)])


max_pool.defvjp(_max_pool_fwd, _max_pool_bwd)
