"""Files of named tensors: .safetensors, PyTorch's .pth, which are read without running code, and Flax's .msgpack."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from flax import serialization
from flax.traverse_util import flatten_dict

from alexnet_jax.errors import DataError, UserError, reading
from alexnet_jax.inference.network import Network
from alexnet_jax.interop.foreign import ForeignLayer, ForeignNetwork
from alexnet_jax.interop.networks import METADATA, from_tensors, to_tensors


def write_safetensors(path: Path, network: Network) -> None:
    from safetensors.numpy import save_file

    tensors, metadata = to_tensors(network)
    save_file(tensors, path, {METADATA: metadata})


def read_safetensors(path: Path) -> Network | ForeignNetwork:
    """Read our own network, or another program's state dict. Raises DataError if the file is damaged."""
    from safetensors import safe_open

    with reading(f"{path} is not a valid .safetensors file"), safe_open(path, "np") as file:
        names, metadata = list(file.keys()), file.metadata() or {}
        _check_floats(path, {str(file.get_slice(name).get_dtype()) for name in names if name.endswith("weight")})
        tensors = {name: file.get_tensor(name) for name in names}
    return from_tensors(tensors, metadata[METADATA], path) if METADATA in metadata else _foreign(tensors, path, [])


def write_pth(path: Path, network: Network) -> None:
    import torch

    tensors, metadata = to_tensors(network)
    state = {name: torch.tensor(array) for name, array in tensors.items()}  # copies: an array may not be writable
    torch.save({"state_dict": state, METADATA: metadata}, path)


def read_pth(path: Path) -> Network | ForeignNetwork:
    """As `read_safetensors`. Files that hold more than tensors and plain values are refused, and their code not run."""
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, PermissionError):
        raise
    except Exception:  # of several kinds, whose messages advise to run the code
        raise DataError(
            f"{path} is damaged, or holds more than weights, such as a whole module, whose code is not run; save the "
            "module's state_dict() instead"
        ) from None
    content = content if isinstance(content, dict) else {}
    state, notes = _state_dict(content, torch.Tensor)
    values = {str(name): value.detach() for name, value in state.items() if isinstance(value, torch.Tensor)}
    stored = {str(value.dtype).removeprefix("torch.") for name, value in values.items() if name.endswith("weight")}
    _check_floats(path, stored)
    tensors = {name: value.float().numpy() for name, value in values.items()}
    if isinstance(metadata := content.get(METADATA), str):
        return from_tensors(tensors, metadata, path)
    return _foreign(tensors, path, notes + [f"weights are stored as {name}" for name in sorted(stored - {"float32"})])


def read_msgpack(path: Path) -> ForeignNetwork:
    """Read what `flax.serialization.to_bytes` wrote of a network's parameters or of a state of training."""
    with reading(f"{path} is not a file of Flax, or is truncated"):
        content = serialization.msgpack_restore(path.read_bytes())
        notes = ["a training checkpoint; the optimizer's state is left out"] if "opt_state" in content else []
        while "params" in content:
            content = content["params"]
        tensors = {name: np.asarray(leaf) for name, leaf in flatten_dict(content, sep=".").items()}
    moved = {2: (1, 0), 4: (3, 2, 0, 1)}
    tensors = {
        re.sub("kernel$", "weight", name): leaf.transpose(moved[leaf.ndim]) if leaf.ndim in moved else leaf
        for name, leaf in tensors.items()
    }
    network = _foreign(tensors, path, [*notes, "inputs of the first fully connected layer are taken as [H, W, C]"])
    first = [layer.weight.ndim for layer in network.layers].index(2) if 2 in map(np.ndim, tensors.values()) else 0
    if first:
        layer, maps = network.layers[first], len(network.layers[first - 1].weight)
        (count, inputs), size = layer.weight.shape, math.isqrt(layer.weight.shape[1] // maps)
        if size**2 * maps == inputs:
            weight = layer.weight.reshape(count, size, size, maps).transpose(0, 3, 1, 2)
            network.layers[first] = layer._replace(weight=weight.reshape(count, inputs))
    return network


def _state_dict(content: dict[Any, Any], tensor: type) -> tuple[dict[Any, Any], list[str]]:
    """The state dict in the content of a PyTorch file, and notes on what else it holds."""
    inside = {
        str(name): value
        for name, value in content.items()
        if isinstance(value, dict) and any(isinstance(each, tensor) for each in value.values())
    }
    if not inside:
        return content, []
    name = min(inside, key=lambda name: "ema" in name.lower())  # the first that is no moving average
    left_out = ", ".join(str(other) for other in content if other not in (name, METADATA))
    return inside[name], [f"a training checkpoint: weights are read from {name!r}; left out: {left_out or 'nothing'}"]


def _check_floats(path: Path, stored: set[str]) -> None:
    """Raise UserError if weights, stored as types of these names, are quantized."""
    if others := sorted(name for name in stored if not re.fullmatch(r"B?F(16|32|64)|b?float(16|32|64)", name)):
        raise UserError(f"{path} is quantized: its weights are {', '.join(others)}; give the file with floats")


def _foreign(tensors: dict[str, np.ndarray], path: Path, notes: list[str]) -> ForeignNetwork:
    """The layers of a state dict: convolutions, then fully connected ones, each in the order of their numbers."""
    averages = {name for name in tensors if "ema" in re.split("[._]", name)}
    if averages and averages < set(tensors):
        tensors = {name: tensor for name, tensor in tensors.items() if name not in averages}
        notes = [*notes, "moving averages (EMA) of weights are left out"]
    if tensors and all(name.startswith("module.") for name in tensors):
        notes = [*notes, "names begin with module., as DataParallel saves them"]
    narrow = {str(tensor.dtype) for tensor in tensors.values()} & {"float16", "bfloat16"}
    notes = notes + [f"weights are stored as {name}" for name in sorted(narrow)]
    tensors = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    weights = [name for name in tensors if name.endswith("weight") and tensors[name].ndim in (2, 4)]
    biases = {name: name.removesuffix("weight") + "bias" for name in weights}
    other = sorted(set(tensors) - set(weights) - set(biases.values()))
    if normalized := [name for name in other if name.endswith("running_mean")]:
        raise UserError(f"{path} has batch normalization ({normalized[0]}), which no AlexNet that is known here has")
    if other or not weights:
        raise UserError(
            f"{path} does not hold the state dict of an AlexNet: {', '.join(other[:5]) or 'it has no weights'}; names "
            "must end in weight or bias, and weights must have two or four axes"
        )

    def order(name: str) -> tuple[int, list[str | int]]:
        numbered = [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
        return -tensors[name].ndim, numbered  # features.3 before features.10

    layers = []
    for name in sorted(weights, key=order):
        bias = tensors.get(biases[name], np.zeros(len(tensors[name]), np.float32))
        layers.append(ForeignLayer(name.removesuffix("weight").rstrip("._"), tensors[name], bias, {}))
    return ForeignNetwork(path, layers, {}, notes)
