"""What follows a convolution on accelerators, as one kernel: bias, ReLU, local response normalization and max-pooling.

XLA computes these in many kernels, each of which reads and writes all pixels. A module of this folder computes them in
one kernel each way, and keeps for the backward pass only its input and the place of each maximum. Each has the same two
functions:

    forward(x, bias, chain) -> (pooled, index)
    backward(x, bias, index, grad, chain) -> (grad_x, grad_bias)

`x` [B, H, W, towers * C] is the output of a convolution without its bias, with the channels of all towers of the device
side by side. `bias` is [towers * C]; `pooled` and its gradient `grad` are [B, H', W', towers * C]; all have the type of
`x`. `index` [B, H', W', towers * C] uint8 says which pixel of its window is the maximum, counted row by row; among
equal maxima it is the first. `grad_bias` is the sum over the pixels of this device.
"""

import importlib
from types import ModuleType
from typing import NamedTuple

import jax

from alexnet_jax.model_config import Lrn

BY_PLATFORM = {"gpu": "triton", "tpu": "mosaic"}  # the modules that are faster than "plain"


class Chain(NamedTuple):
    """What to compute, known when the step is compiled."""

    towers: int  # normalization stays within each tower's share of the channels
    lrn: Lrn | None
    window: int  # of max-pooling, pixels, like `stride`; windows that the image does not fill are dropped
    stride: int


def choose(device: jax.Device, fused: bool) -> str | None:
    """The module of kernels for a device, or None for CPUs, which run the operations of `ops` one by one.

    Without `fused` it is "plain", the same operations as separate kernels of XLA's; and on GPUs of NVIDIA's before
    Ampere and of others, which XLA has no Triton for or nobody has tried.
    """
    if device.platform == "cpu":
        return None
    generation = str(getattr(device, "compute_capability", "")).partition(".")[0]  # 9.0: Hopper
    able = device.platform != "gpu" or (generation.isdigit() and int(generation) >= 8)
    return BY_PLATFORM.get(device.platform, "plain") if fused and able else "plain"


def module(name: str) -> ModuleType:
    """The module `name`, imported when it is needed: Pallas takes long to import."""
    return importlib.import_module(f"{__name__}.{name}")
