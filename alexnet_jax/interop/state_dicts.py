"""Files of named tensors: .safetensors, and PyTorch's .pth, which are read without running code from them."""

import re
from pathlib import Path

import numpy as np

from alexnet_jax.errors import UserError, reading
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
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    return from_tensors(tensors, metadata[METADATA], path) if METADATA in metadata else _foreign(tensors, path)


def write_pth(path: Path, network: Network) -> None:
    import torch

    tensors, metadata = to_tensors(network)
    state = {name: torch.from_numpy(array) for name, array in tensors.items()}
    torch.save({"state_dict": state, METADATA: metadata}, path)


def read_pth(path: Path) -> Network | ForeignNetwork:
    """As `read_safetensors`. Files that hold more than tensors and plain values are refused, and their code not run."""
    import torch

    with reading(f"{path} is damaged, or holds more than weights, which is not loaded"):
        content = torch.load(path, map_location="cpu", weights_only=True)
    content = content if isinstance(content, dict) else {}
    state, metadata = content.get("state_dict", content), content.get(METADATA)
    values = state.items() if isinstance(state, dict) else ()
    tensors = {  # float32, also if they are stored as narrower floats
        str(name): value.detach().float().numpy() for name, value in values if isinstance(value, torch.Tensor)
    }
    return from_tensors(tensors, metadata, path) if isinstance(metadata, str) else _foreign(tensors, path)


def _foreign(tensors: dict[str, np.ndarray], path: Path) -> ForeignNetwork:
    """The layers of a state dict: convolutions, then fully connected ones, each in the order of their numbers."""
    weights = [name for name in tensors if name.endswith("weight") and tensors[name].ndim in (2, 4)]
    biases = {name: name.removesuffix("weight") + "bias" for name in weights}
    other = sorted(set(tensors) - set(weights) - set(biases.values()))
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
    return ForeignNetwork(path, layers, {})
