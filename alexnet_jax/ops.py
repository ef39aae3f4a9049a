"""The network's operations, most with a gradient written by hand, which can be taken once.

Shapes are NHWC. No parameters, no collectives.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental.xla_metadata import set_xla_metadata

FEW_CHANNELS, WIDE = 4, 4  # for `_widened`
FEW_FEATURES = 64  # for `_side_by_side`


def in_memory(x: Array) -> Array:
    """`x`, on CPUs computed once and kept in memory.

    XLA computes what it finds cheap again for each use, in the order of that use: for a transposed one many times more
    slowly than reading, and perhaps with other roundings. XLA for CPUs removes optimization barriers before it decides
    that, but leaves a call alone that it must not inline. The call itself costs nothing.
    """
    return lax.platform_dependent(x, cpu=_called, default=lambda x: x)


def _called(x: Array) -> Array:
    with set_xla_metadata(inlineable="false"):
        return _unchanged(x)


_unchanged = jax.jit(lax.optimization_barrier)


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


def _side_by_side(op: Callable[..., Array]) -> Callable[..., Array]:
    """Make `op(image, *others)` run `_one_by_one`, or at once on the features of all elements in a row.

    Features are the last axis of the others and of the result. XLA for CPUs takes longer to cut an image of few
    channels into patches than to multiply them by few features; so towers that share such an image share its patches.
    """
    mapped, separate = jax.custom_batching.custom_vmap(op), _one_by_one(op)

    @mapped.def_vmap
    def rule(axis_size, in_batched, image, *others):
        few = image.shape[-1] <= FEW_CHANNELS and axis_size * others[0].shape[-1] <= FEW_FEATURES
        if in_batched[0] or not all(in_batched[1:]) or not few:
            return jax.vmap(separate, [0 if batched else None for batched in in_batched])(image, *others), True
        rows = [jnp.moveaxis(x, 0, -2) for x in others]
        y = op(image, *(row.reshape(*row.shape[:-2], -1) for row in rows))
        return jnp.moveaxis(y.reshape(*y.shape[:-1], axis_size, -1), -2, 0), True

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
    y = _side_by_side(functools.partial(_widened, stride, padding))(image, kernel)
    return y + bias[None, None, None], (image, kernel, bias)


def _conv_bwd(stride, padding, residuals, grad):
    image, kernel, bias = residuals
    grad = in_memory(grad)  # which three sums read, one of them in another order

    def to_bias(grad, bias):
        # The sum of `grad` over all pixels, as a matrix product: XLA for CPU would compute a sum in a single thread,
        # and `grad` once more for it.
        grad = grad.reshape(-1, bias.size)
        ones = jnp.ones((len(grad), 1), grad.dtype)
        # `+ grad[0]` makes b vary over the devices like `grad`, without any effect on the result: JAX then sums over
        # the devices what each has already summed over its pixels, [F], and not the gradient of every pixel.
        return jax.vjp(lambda b: ones @ (b + grad[0])[None], bias)[1](grad)[0]

    def to_kernel(image, grad, kernel):
        return jax.vjp(functools.partial(op, image), kernel)[1](grad)[0]

    op = _without_bias(stride, padding)
    to_image, _ = _gradients(op, grad, image, kernel)
    return to_image, _side_by_side(to_kernel)(image, grad, kernel), _one_by_one(to_bias)(grad, bias)


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
