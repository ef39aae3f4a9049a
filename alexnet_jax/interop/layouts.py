"""Where a weight lies: ours, split over towers, and PyTorch's, where groups are towers. Only moves, no arithmetic.

ours      kernel [tower, k, k, in, out / towers] and [tower, in, out / towers]; maps are flattened as [H, W, C]
PyTorch   weight [out, in / groups, k, k] and [out, in]; maps are flattened as [C, H, W]. Caffe and ONNX have it so too
"""

import math

import numpy as np

from alexnet_jax.errors import UserError
from alexnet_jax.inference import activations
from alexnet_jax.model_config import Model

Params = dict[str, dict[str, np.ndarray]]


def groups(spec: Model) -> dict[str, int]:
    """In how many groups each convolution sees the maps before it."""
    alone = {name for name, conv in spec.convs() if not conv.exchange} - {"conv1"}
    return {name: spec.towers if name in alone else 1 for name, _ in spec.convs()}


def check(spec: Model) -> None:
    """Raises UserError if PyTorch has no layer for one of this network."""
    local = [name for name, conv in spec.convs() if not conv.shared]
    sees_all = {name: dense.exchange for name, dense in spec.hidden()} | {"fc8": spec.fc8.exchange}
    apart = [name for name, exchange in sees_all.items() if not exchange and spec.towers > 1]
    if local or apart:
        what = "has kernels of its own at every place" if local else "sees its own tower only"
        raise UserError(
            f"{', '.join(local or apart)} {what}, which other programs have no layer for; export to .stablehlo, which "
            "holds any network"
        )


def to_torch(spec: Model, params: Params) -> dict[str, np.ndarray]:
    """Our parameters as `LAYER.weight` and `LAYER.bias`, float32."""
    check(spec)
    tensors = {}
    for name, leaves in params.items():
        kernel, bias = np.asarray(leaves["kernel"]), np.asarray(leaves["bias"]).reshape(-1)
        if kernel.ndim == 5:  # [tower, k, k, in, out] -> [tower, out, in, k, k]
            weight = kernel.transpose(0, 4, 3, 1, 2).reshape(-1, kernel.shape[3], *kernel.shape[1:3])
        else:
            weight = kernel.transpose(0, 2, 1).reshape(-1, kernel.shape[1])
            if name == _first_dense(spec):
                weight = weight[:, _flattened(spec)]
        if name == "fc8":  # behind the classes there may be columns that stand for none
            weight, bias = weight[: spec.num_classes], bias[: spec.num_classes]
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = np.ascontiguousarray(weight), np.ascontiguousarray(bias)
    return tensors


def from_torch(spec: Model, tensors: dict[str, np.ndarray]) -> Params:
    """What `to_torch` gave, or another program's tensors under the same names. Raises UserError on other shapes.

    Columns of fc8 that stand for no class are zeros.
    """
    check(spec)
    shapes, towers = activations.shapes(spec)[0], spec.towers
    params: Params = {}
    for name, wanted in shapes.items():
        *rest, units = wanted["kernel"][1:]
        fits = {
            "weight": (towers * units, rest[-1], *rest[:-1]),
            "bias": (towers * units,),
        }
        weight, bias = (np.asarray(tensors[f"{name}.{kind}"], np.float32) for kind in fits)
        if name == "fc8":
            missing = towers * units - spec.num_classes
            fits = {kind: (spec.num_classes, *shape[1:]) for kind, shape in fits.items()}
        for kind, of in (("weight", weight), ("bias", bias)):
            if of.shape != fits[kind]:
                raise UserError(
                    f"{name}.{kind} has the shape {of.shape} and the config's network needs {fits[kind]}; give the "
                    "--config of the network that the weights are of"
                )
        if name == "fc8":
            weight, bias = np.pad(weight, ((0, missing), (0, 0))), np.pad(bias, (0, missing))
        if weight.ndim == 4:
            kernel = weight.reshape(towers, units, *weight.shape[1:]).transpose(0, 3, 4, 2, 1)
        else:
            if name == _first_dense(spec):
                weight = weight[:, np.argsort(_flattened(spec))]
            kernel = weight.reshape(towers, units, -1).transpose(0, 2, 1)
        params[name] = {"bias": bias.reshape(towers, units), "kernel": np.ascontiguousarray(kernel)}
    return params


def _first_dense(spec: Model) -> str:
    return next((name for name, _ in spec.hidden()), "fc8")


def _flattened(spec: Model) -> np.ndarray:
    """For each place in [C, H, W], channels of all towers in a row, that in our [H, W, C]."""
    last = spec.convs()[-1][0]
    height, width, channels = activations.shapes(spec)[1][f"{last}_output"]
    shape = (height, width, channels * spec.towers)
    return np.arange(math.prod(shape)).reshape(shape).transpose(2, 0, 1).reshape(-1)
