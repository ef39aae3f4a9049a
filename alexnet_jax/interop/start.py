"""Whether weights look trained, or as programs start them: independent, of one known distribution, with equal biases.

Training leaves marks that independent weights do not have. Neighbouring weights of a kernel become alike, as in images;
the largest singular values leave the bulk, whose edge Marchenko and Pastur give, and around which Tracy and Widom give
the spread; and the weights follow no common distribution any more. A matrix of 512x1024 evenly spaced weights shows it.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import linalg, stats

from alexnet_jax.interop.foreign import ForeignLayer

# Standard scores that independent weights do not reach; see `pytest tests/test_identify.py`.
EDGE, SMOOTHNESS, MISFIT = 6.0, 6.0, 2.0
DEAD = 1e-3  # of the median length of a unit's weights
SAMPLE = (512, 1024)  # units, weights of each
DISTRIBUTIONS = {  # of variance 1
    "normal": stats.norm(),
    "uniform": stats.uniform(-math.sqrt(3), 2 * math.sqrt(3)),
    "normal cut off at two deviations": stats.truncnorm(-2, 2, scale=1 / stats.truncnorm(-2, 2).std()),
}


class Look(NamedTuple):
    """How the weights and biases of a layer look."""

    verdict: str  # "trained", "as started", "moved" (a little, or started in an unknown way), "constant", "not finite"
    std: float  # of the weights around 0
    start: str  # the distribution that fits the weights, or nothing
    edge: float  # standard score of the largest singular value against the edge of the bulk
    smoothness: float  # standard score of the correlation of neighbours in kernels; 0 where there are none
    bias: float | None  # that all units have
    dead: int  # sampled units whose weights are 0, or nearly so
    rank: int  # of the matrix of the sampled weights
    sampled: tuple[int, ...]  # units, weights of each
    levels: int  # different weights of those sampled; few if they were quantized
    zeros: float  # share of weights that are exactly 0


def look(layer: ForeignLayer) -> Look:
    """How a layer looks."""
    rows = layer.weight.reshape(len(layer.weight), -1)
    steps = [max(1, -(-length // most)) for length, most in zip(rows.shape, SAMPLE, strict=True)]
    matrix = np.asarray(rows[:: steps[0], :: steps[1]], np.float64)
    if not (np.isfinite(layer.weight).all() and np.isfinite(layer.bias).all()):
        return Look("not finite", 0.0, "", 0.0, 0.0, None, 0, 0, matrix.shape, 0, 0.0)
    std, levels = float(np.sqrt(np.mean(matrix**2))), len(np.unique(matrix))
    bias = float(layer.bias[0]) if np.ptp(layer.bias) == 0 else None
    lengths = np.linalg.norm(matrix, axis=1)
    dead, zeros = int(np.sum(lengths <= DEAD * np.median(lengths))), float(np.mean(matrix == 0))
    if levels == 1:
        return Look("constant", std, "", 0.0, 0.0, bias, dead, int(std > 0), matrix.shape, levels, zeros)
    values = linalg.svdvals(matrix, check_finite=False)
    rank = int(np.sum(values > values[0] * max(matrix.shape) * np.finfo(np.float32).eps))
    edge, smoothness = _edge(float(values[0]) / std, matrix.shape), _smoothness(layer.weight)
    start = _start(matrix, std, layer)
    if edge > EDGE or smoothness > SMOOTHNESS:
        verdict = "trained"
    else:
        pytorch = start.startswith("uniform") and _bias_is_uniform(layer)
        verdict = "as started" if start and (bias is not None or pytorch) else "moved"
    return Look(verdict, std, start, edge, smoothness, bias, dead, rank, matrix.shape, levels, zeros)


def _edge(largest: float, shape: tuple[int, ...]) -> float:
    """Score of the largest singular value of a matrix of variance 1, scaled as by Johnstone (2001)."""
    root_n, root_p = math.sqrt(max(1, shape[0] - 1)), math.sqrt(shape[1])
    return (largest**2 - (root_n + root_p) ** 2) / ((root_n + root_p) * (1 / root_n + 1 / root_p) ** (1 / 3))


def _smoothness(weight: np.ndarray) -> float:
    """Score of the correlation of neighbours in kernels [out, in, k, k], which is 0 if they are independent."""
    if weight.ndim < 4 or weight.shape[-1] < 2:
        return 0.0
    kernels = weight[:: max(1, len(weight) // 128)].astype(np.float64)
    beside, below = kernels[..., 1:] * kernels[..., :-1], kernels[..., 1:, :] * kernels[..., :-1, :]
    pairs = beside.size + below.size
    return float((beside.sum() + below.sum()) / np.mean(kernels**2) / math.sqrt(pairs))


def _start(matrix: np.ndarray, std: float, layer: ForeignLayer) -> str:
    """The distribution and rule that the weights seem drawn by; nothing if no distribution fits."""
    sample = matrix.reshape(-1)[:: -(-matrix.size // 2**16)] / std
    distances = {
        name: stats.ks_1samp(sample, known.cdf, method="asymp").statistic for name, known in DISTRIBUTIONS.items()
    }
    name = min(distances, key=lambda name: distances[name])
    if distances[name] * math.sqrt(len(sample)) > MISFIT:
        return ""
    fan_in, fan_out = math.prod(layer.weight.shape[1:]), len(layer.weight) * math.prod(layer.weight.shape[2:])
    rules = {
        "PyTorch's default": 1 / (3 * fan_in),
        "He's rule": 2 / fan_in,
        "Glorot's rule": 2 / (fan_in + fan_out),
        "LeCun's rule": 1 / fan_in,
    }
    rule = [f", {rule}" for rule, variance in rules.items() if same_std(std, math.sqrt(variance), matrix.size)]
    return f"{name}{rule[0] if rule else f', {std:.2g}'}"


def same_std(std: float, known: float, count: int) -> bool:
    """Whether `std`, measured on `count` weights, may be the deviation `known`."""
    return abs(std / known - 1) < 5 / math.sqrt(2 * count)


def _bias_is_uniform(layer: ForeignLayer) -> bool:
    """Whether biases may be PyTorch's, uniform within 1 / sqrt(fan-in)."""
    bound = 1 / math.sqrt(math.prod(layer.weight.shape[1:]))
    return bool(stats.ks_1samp(layer.bias, stats.uniform(-bound, 2 * bound).cdf).pvalue > 1e-4)
