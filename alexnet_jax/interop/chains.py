"""Networks of other programs, as a row of layers, and what has to be done to them to run here."""

import copy
import json
import re
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import UserError
from alexnet_jax.interop.layouts import from_torch, groups
from alexnet_jax.interop.networks import Network
from alexnet_jax.run import config_files
from alexnet_jax.run_config import Config


class Layer(NamedTuple):
    """A convolution or a fully connected layer, as its file has it."""

    name: str
    weight: np.ndarray  # [out, in / groups, k, k], or [out, in]
    bias: np.ndarray
    settings: dict[str, Any] | None  # keys of layers.Conv, `then` alone if fully connected; None: the file does not say


class Chain(NamedTuple):
    layers: list[Layer]
    model: dict[str, Any]  # keys of layers.Model that the file says: image_size, lrn, pool, activation


class Pixels(NamedTuple):
    """What a program's network wants to see: (pixel * scale - mean) / std, in its order of colours."""

    scale: float  # of pixels 0..255
    mean: tuple[float, float, float]  # in the network's own order of colours
    std: tuple[float, float, float]
    bgr: bool


PIXELS = {
    "rgb": Pixels(1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), bgr=False),
    "torchvision": Pixels(1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), bgr=False),
    "caffe": Pixels(1.0, (104.0, 117.0, 123.0), (1.0, 1.0, 1.0), bgr=True),  # the mean of ILSVRC-2012 to whole numbers
}


def network(chain: Chain, base: Config, pixels: Pixels, classes: list[str] | None) -> tuple[Network, list[list[str]]]:
    """The chain as a network of ours, and a table of what was done: layer here, layer there, shape, how.

    What the chain does not say is as in the config `base`. Raises UserError if the chain is no AlexNet.
    """
    names = _names(chain, base)
    values, rows = base.model_dump(mode="json"), []
    model, tensors = values["model"], {}
    model |= chain.model
    # Others scale what dropout keeps in training, and leave the network at test time alone.
    model["dropout_scaling"] = "training"
    split = _groups(chain, names)
    model["towers"] = max(split.values(), default=1)
    for name, layer in zip(names, chain.layers, strict=True):
        weight = layer.weight
        if not (np.isfinite(weight).all() and np.isfinite(layer.bias).all()):
            raise UserError(f"{layer.name} has weights that are not finite; the file is damaged, or training diverged")
        done: list[str] = []
        if name.startswith("conv"):
            _describe_conv(model, name, layer, split[name], done)
        else:
            _check_what_follows(name, layer)
            model[name] |= {"exchange": True} | ({} if name == "fc8" else {"features": len(weight)})
        if name == "conv1":
            weight = _for_our_pixels(weight, pixels, done)
        if name == names[_count(chain)]:
            done.append("inputs from [C, H, W] to [H, W, C]")
        if name == "fc8" and model["towers"] > 1:
            done.append(f"classes over {model['towers']} towers")
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = weight, layer.bias
        rows.append([name, layer.name, "x".join(map(str, weight.shape)), "; ".join(done)])
    for name in ("conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "fc6", "fc7"):
        model[name] = model[name] if name in names else None
    model["num_classes"] = len(chain.layers[-1].weight)
    values["data"] |= {"source": "prepared", "size": max(values["data"]["size"], model["image_size"])}
    config = config_files.from_json(json.dumps(values))
    if split != groups(config.model):
        raise UserError(f"groups of {split} are no towers: a layer sees its own tower, or all; this network cannot run")
    mean = np.array(pixels.mean, np.float32)[:: -1 if pixels.bgr else 1] / pixels.scale
    size = config.data.size
    statistics = Statistics(
        np.broadcast_to(mean.astype(np.float32), (size, size, 3)).copy(),
        np.zeros(3, np.float32),  # of the colours nothing is known: no noise
        np.eye(3, dtype=np.float32),
    )
    rows += _settings(config, statistics)
    named = classes or [f"class {i}" for i in range(config.model.num_classes)]
    if len(named) != config.model.num_classes:
        raise UserError(f"--classes names {len(named)} classes and the network has {config.model.num_classes}")
    return Network(config, named, statistics, from_torch(config.model, tensors)), rows


def agree(said: dict[str, Any], found: dict[str, Any], who: str) -> None:
    """Adds what a layer says of all layers of its kind. Raises UserError if another one says otherwise."""
    for key, value in found.items():
        if said.setdefault(key, value) != value:
            raise UserError(f"{who} has {key} = {value} and a layer before it {said[key]}; here all layers share one")


def written(number: float) -> float:
    """What people wrote that a float32 was made of."""
    return float(f"{number:.7g}")


def natural(name: str) -> list:
    """Sorts features.3 before features.10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _count(chain: Chain) -> int:
    """How many convolutions there are."""
    return sum(layer.weight.ndim == 4 for layer in chain.layers)


def _names(chain: Chain, base: Config) -> list[str]:
    convs, denses = _count(chain), len(chain.layers) - _count(chain)
    kinds = [layer.weight.ndim for layer in chain.layers]
    if not 1 <= convs <= 6 or not 1 <= denses <= 3 or kinds != sorted(kinds, reverse=True):
        found = ", ".join(f"{layer.name} {list(layer.weight.shape)}" for layer in chain.layers)
        raise UserError(f"this is no AlexNet, 1 to 6 convolutions and then 1 to 3 fully connected layers: {found}")
    names = [f"conv{i + 1}" for i in range(convs)] + ["fc6", "fc7"][: denses - 1] + ["fc8"]
    missing = [name for name in names if getattr(base.model, name) is None]
    if missing:
        raise UserError(f"the network has {len(names)} layers and --config none as {', '.join(missing)}; give another")
    return names


def _groups(chain: Chain, names: list[str]) -> dict[str, int]:
    """Of each convolution, from how many maps it sees of those before it."""
    found, maps = {}, 3
    for name, layer in zip(names, chain.layers, strict=True):
        if layer.weight.ndim != 4:
            break
        seen = layer.weight.shape[1]
        if seen == 0 or maps % seen:
            raise UserError(f"{layer.name} sees {seen} of {maps} maps, which is no group of them")
        found[name] = maps // seen
        maps = len(layer.weight)
    return found


def _describe_conv(model: dict, name: str, layer: Layer, split: int, done: list[str]) -> None:
    side, across = layer.weight.shape[2:]
    if side != across:
        raise UserError(f"{layer.name} has kernels of {side}x{across}; only square ones run here")
    said = copy.copy(layer.settings) or {}
    model[name] |= {"features": len(layer.weight), "kernel": side, "shared": True} | said
    model[name]["exchange"] = name != "conv1" and split == 1 and model["towers"] > 1
    if split > 1:
        done.append(f"{split} groups are {split} towers")
    elif model["towers"] > 1:
        done.append("sees both towers" if name != "conv1" else "kernels over the towers")


def _check_what_follows(name: str, layer: Layer) -> None:
    """Raises UserError if behind a fully connected layer comes other than here: an activation, but for the last."""
    here = [] if name == "fc8" else ["activation"]
    if layer.settings is not None and layer.settings["then"] != here:
        raise UserError(
            f"behind {layer.name} comes {', '.join(layer.settings['then']) or 'nothing'}, and behind {name} here "
            f"{', '.join(here) or 'nothing'}; this network cannot run"
        )


def _for_our_pixels(weight: np.ndarray, pixels: Pixels, done: list[str]) -> np.ndarray:
    """conv1's kernels for pixels of RGB in 0..255 with the mean subtracted: [out, 3, k, k]."""
    if pixels.scale != 1 or pixels.std != (1.0, 1.0, 1.0):
        factor = pixels.scale / np.array(pixels.std)
        weight = (weight * factor[None, :, None, None]).astype(np.float32)
        done.append(f"times {', '.join(f'{of:.6g}' for of in factor)} (its scale of pixels)")
    if pixels.bgr:
        weight = weight[:, ::-1]
        done.append("BGR to RGB")
    return weight


def _settings(config: Config, statistics: Statistics) -> list[list[str]]:
    model, lrn = config.model, config.model.lrn
    mean = ", ".join(f"{value:.6g}" for value in statistics.mean_image[0, 0])
    rows = [
        ["image", "", f"{model.image_size}x{model.image_size}x3", f"centre of {config.data.size}; mean {mean} (RGB)"],
        ["dropout", "", "", "scaled in training, nothing at test time"],
    ]
    if any("lrn" in conv.then for _, conv in model.convs()):
        reach = "over all towers" if lrn.across_towers else "within a tower"
        how = f"k = {lrn.k:g}, n = {lrn.n}, alpha = {lrn.alpha:g} of the sum (not of the mean), {reach}"
        rows.append(["normalization", "", "", how])
    pool = model.pool
    rows.append(["pooling", "", f"{pool.window}x{pool.window} /{pool.stride}", "sizes rounded up" if pool.ceil else ""])
    return rows
