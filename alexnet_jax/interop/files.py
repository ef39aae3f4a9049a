"""Files of weights: .safetensors, and .pth of PyTorch through its loader that runs no code."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.errors import DataError, UserError
from alexnet_jax.interop.chains import Chain, Layer, natural
from alexnet_jax.interop.networks import Network, described, from_described

ABOUT = "alexnet_jax"
NEEDS_TORCH = "files of PyTorch need it: pip install torch; or give a .safetensors file"


def write_safetensors(path: Path, network: Network) -> None:
    from safetensors.numpy import save_file

    tensors, about = described(network)
    save_file(tensors, path, {ABOUT: about})


def read_safetensors(path: Path) -> Network | Chain:
    """The network that we wrote, or another program's state dict. Raises DataError if the file is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            tensors, about = {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, TypeError) as error:  # the latter for numbers that NumPy has no type for
        raise DataError(f"{path} is no sound .safetensors file: {error}") from None
    return from_described(tensors, about[ABOUT], path) if ABOUT in about else of_state_dict(tensors, path)


def write_pth(path: Path, network: Network) -> None:
    torch = _torch()
    tensors, about = described(network)
    torch.save({"state_dict": {name: torch.from_numpy(array) for name, array in tensors.items()}, ABOUT: about}, path)


def read_pth(path: Path) -> Network | Chain:
    """As `read_safetensors`. What is in the file but tensors and plain values is refused, never run."""
    torch = _torch()
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # pickle, zip and torch raise many kinds
        reason = " ".join(str(error).split("\n")[0].split())[:200]
        raise DataError(f"{path} is damaged, or holds more than weights, which is not loaded: {reason}") from None
    about = content.get(ABOUT) if isinstance(content, dict) else None
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    tensors = {str(name): _array(of) for name, of in state.items() if isinstance(of, torch.Tensor)}
    return from_described(tensors, about, path) if isinstance(about, str) else of_state_dict(tensors, path)


def _array(tensor: Any) -> np.ndarray:
    return tensor.detach().float().numpy()  # narrow floats too


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise UserError(NEEDS_TORCH) from None
    return torch


def of_state_dict(tensors: dict[str, np.ndarray], path: Path) -> Chain:
    """A state dict's layers, in the order of their numbers: first what has kernels, then what is fully connected.

    A weight is a matrix or has four axes; its bias has the same name but for the end. Raises UserError on others.
    """
    weights = [name for name in tensors if name.endswith("weight") and tensors[name].ndim in (2, 4)]
    biases = {name: name.removesuffix("weight") + "bias" for name in weights}
    other = sorted(set(tensors) - set(weights) - set(biases.values()))
    if other or not weights:
        raise UserError(
            f"{path} holds no AlexNet's state dict: {', '.join(other[:5]) or 'no weights'}; names end in weight or "
            "bias, and weights have two axes or four"
        )
    order = sorted(weights, key=lambda name: (-tensors[name].ndim, natural(name)))
    layers = []
    for name in order:
        weight = tensors[name]
        bias = tensors.get(biases[name], np.zeros(len(weight), np.float32))
        layers.append(Layer(name.removesuffix("weight").rstrip("._"), weight, bias, None))
    return Chain(layers, {})


def read_classes(path: Path) -> list[str]:
    """Class names: one a line, or of a folder that `prepare` wrote."""
    if path.is_dir():
        try:
            return [str(name) for name in json.loads((path / "manifest.json").read_text())["classes"]]
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(f"{path} holds no prepared data; give its folder, or a file with a name a line") from None
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not in UTF-8; save it so, a name a line") from None
    return [line.strip() for line in text.splitlines() if line.strip()]
