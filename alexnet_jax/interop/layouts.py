"""Conversion of parameters to and from PyTorch's array layout, which Caffe and ONNX share. Values are only moved.

here      kernel [tower, k, k, in, out / towers] or [tower, in, out / towers]; feature maps are flattened as [H, W, C]
PyTorch   weight [out, in / groups, k, k] or [out, in]; groups are towers; feature maps are flattened as [C, H, W]
"""

import numpy as np

from alexnet_jax.errors import UserError
from alexnet_jax.inference import activations
from alexnet_jax.model_config import Model

Params = dict[str, dict[str, np.ndarray]]


def groups(spec: Model) -> dict[str, int]:
    """The number of groups of each convolution: more than one where a tower sees only its own feature maps."""
    return {name: 1 if name == "conv1" or conv.exchange else spec.towers for name, conv in spec.convs()}


def check(spec: Model) -> None:
    """Raise UserError if PyTorch has no equivalent of one of the layers."""
    local = [name for name, conv in spec.convs() if not conv.shared]
    sees_all = {name: dense.exchange for name, dense in spec.hidden()} | {"fc8": spec.fc8.exchange}
    apart = [name for name, exchange in sees_all.items() if not exchange and spec.towers > 1]
    if local or apart:
        what = "has separate kernels for every position" if local else "sees only its own tower"
        raise UserError(
            f"{', '.join(local or apart)} {what}, which other programs have no layer for; export to .stablehlo, which "
            "can hold any network"
        )


def to_torch(spec: Model, params: Params) -> dict[str, np.ndarray]:
    """Parameters as float32 tensors `LAYER.weight` and `LAYER.bias`. Raises UserError as `check` does."""
    check(spec)
    first_dense, maps = _first_dense(spec)
    tensors = {}
    for name, leaves in params.items():
        kernel, bias = np.asarray(leaves["kernel"]), np.asarray(leaves["bias"]).reshape(-1)
        if kernel.ndim == 5:  # [tower, k, k, in, out] -> [tower, out, in, k, k]
            weight = kernel.transpose(0, 4, 3, 1, 2).reshape(-1, kernel.shape[3], *kernel.shape[1:3])
        else:
            weight = kernel.transpose(0, 2, 1).reshape(-1, kernel.shape[1])
            if name == first_dense:
                weight = weight.reshape(-1, *maps).transpose(0, 3, 1, 2).reshape(weight.shape)
        if name == "fc8":  # it may have more columns than classes
            weight, bias = weight[: spec.num_classes], bias[: spec.num_classes]
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = np.ascontiguousarray(weight), np.ascontiguousarray(bias)
    return tensors


def from_torch(spec: Model, tensors: dict[str, np.ndarray]) -> Params:
    """The parameters of `to_torch`'s tensors, or of another program's under the same names.

    Columns of fc8 without a class are zero. Raises UserError if a tensor has the wrong shape.
    """
    check(spec)
    towers, (first_dense, (height, width, channels)) = spec.towers, _first_dense(spec)
    params: Params = {}
    for name, leaves in activations.shapes(spec)[0].items():
        *kernel_size, fan_in, units = leaves["kernel"][1:]
        outputs = spec.num_classes if name == "fc8" else towers * units
        expected = {"weight": (outputs, fan_in, *kernel_size), "bias": (outputs,)}
        weight, bias = (np.asarray(tensors[f"{name}.{kind}"], np.float32) for kind in expected)
        for tensor, (kind, shape) in zip((weight, bias), expected.items(), strict=True):
            if tensor.shape != shape:
                raise UserError(
                    f"{name}.{kind} has the shape {tensor.shape}, but the config's network needs {shape}; give the "
                    "--config of the network that the weights belong to"
                )
        if missing := towers * units - outputs:
            weight, bias = np.pad(weight, ((0, missing), (0, 0))), np.pad(bias, (0, missing))
        if weight.ndim == 4:
            kernel = weight.reshape(towers, units, *weight.shape[1:]).transpose(0, 3, 4, 2, 1)
        else:
            if name == first_dense:
                weight = weight.reshape(-1, channels, height, width).transpose(0, 2, 3, 1).reshape(weight.shape)
            kernel = weight.reshape(towers, units, -1).transpose(0, 2, 1)
        params[name] = {"bias": bias.reshape(towers, units), "kernel": np.ascontiguousarray(kernel)}
    return params


def _first_dense(spec: Model) -> tuple[str, tuple[int, int, int]]:
    """The first fully connected layer, and the shape [H, W, C] of its input over all towers."""
    name = next((name for name, _ in spec.hidden()), "fc8")
    height, width, channels = activations.shapes(spec)[1][f"{spec.convs()[-1][0]}_output"]
    return name, (height, width, channels * spec.towers)
