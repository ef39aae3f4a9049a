"""Networks of other programs, as a sequence of layers, and their conversion to ours."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import UserError
from alexnet_jax.inference.network import Network
from alexnet_jax.interop import networks
from alexnet_jax.run import config_files
from alexnet_jax.run_config import Config


class ForeignLayer(NamedTuple):
    """A convolutional or fully connected layer as its file has it."""

    name: str
    weight: np.ndarray  # [out, in / groups, k, k], or [out, in]
    bias: np.ndarray  # [out]
    settings: dict[str, Any]  # keys of model_config.Conv (fully connected: `then`) that the file states


class ForeignNetwork(NamedTuple):
    path: Path
    layers: list[ForeignLayer]
    model: dict[str, Any]  # keys of model_config.Model that the file states: image_size, lrn, pool, activation
    notes: list[str]  # what else there is to know about the file, such as that its weights are float16

    def follow(self, operation: str, value: Any, where: str) -> None:
        """Append an operation to the last layer's `then`. UserError if its setting `value` is not as before."""
        if not self.layers:
            raise UserError(f"{where} comes before all layers, which is not supported")
        settings = self.layers[-1].settings
        settings["then"] = (*settings["then"], operation)
        known = self.model.setdefault(operation, value)
        if operation == "pool" and {**known, "ceil": value["ceil"]} == value != known:
            # The model zoo's bvlcalexnet, converted from images of 227, where rounding makes no difference, to 224.
            self.model[operation] = {key: value[key] for key in ("window", "stride")}
            if self.model.pop("image_size", 0):
                self.notes.append("pooling rounds both up and down: image size and rounding are taken from --config")
        elif known != value:
            raise UserError(f"{where} has {operation} = {value}, but earlier layers have {known}")

    def flattened(self) -> "ForeignNetwork":
        """With fully connected layers as such where they are convolutions, as TF-Slim writes them: kxk, 1x1, 1x1."""
        shapes = [layer.weight.shape for layer in self.layers]
        pointwise = 0
        while pointwise < len(shapes) and shapes[-1 - pointwise][2:] == (1, 1):
            pointwise += 1
        dense = len(shapes) - pointwise - 1 if pointwise else len(shapes)
        layers = self.layers[:dense] + [
            layer._replace(
                weight=layer.weight.reshape(len(layer.weight), -1),
                settings={key: value for key, value in layer.settings.items() if key == "then"},
            )
            for layer in self.layers[dense:]
        ]
        return self._replace(layers=layers)


class Preprocessing(NamedTuple):
    """The input that a program's network expects: (pixel * scale - mean) / std, in its order of colours."""

    scale: float  # of pixels 0..255
    mean: tuple[float, float, float]  # in the network's own order of colours
    std: tuple[float, float, float]
    bgr: bool


PREPROCESSING = {
    "rgb": Preprocessing(1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), bgr=False),
    "torchvision": Preprocessing(1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), bgr=False),
    "cifar": Preprocessing(1 / 255, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201), bgr=False),
    "caffe": Preprocessing(1.0, (104.0, 117.0, 123.0), (1.0, 1.0, 1.0), bgr=True),  # ILSVRC-2012's mean, rounded
}


def lrn(n: int, alpha: float, beta: float, k: float) -> dict[str, Any]:
    """Caffe's or ONNX's normalization as model_config.Lrn; their alpha is that of the mean over n channels."""
    alpha, beta, k = (float(f"{number:.7g}") for number in (alpha, beta, k))  # the decimals that became float32
    return {"k": k, "n": n, "alpha": alpha / n, "beta": beta, "across_towers": True}


def convert(
    foreign: ForeignNetwork, base: Config, preprocessing: Preprocessing, classes: list[str] | None
) -> tuple[Network, list[list[str]]]:
    """Convert another program's network to ours, as of step 0.

    The config `base` supplies what the file does not state, `preprocessing` becomes part of conv1's kernels and of the
    mean image, and without `classes`, their names, classes are numbered. Also returns a table with a row for each
    change: our layer, theirs, shape, what was done. Raises UserError if the network cannot be represented.
    """
    layers = _by_name(foreign, base)
    groups = _groups(foreign.path, layers)
    towers, first_dense = max(groups.values()), list(layers)[len(groups)]
    # Other programs scale the units that dropout keeps in training, and do nothing at test time.
    model = base.model.model_dump() | foreign.model | {"dropout_scaling": "training", "towers": towers}
    model["pool"] = base.model.pool.model_dump() | foreign.model.get("pool", {})
    model |= dict.fromkeys(base.model.layers().keys() - layers.keys())
    model["num_classes"] = len(layers["fc8"].weight)
    tensors, rows = {}, []
    for name, layer in layers.items():
        weight, where, done = layer.weight, f"{foreign.path}: {layer.name}", list[str]()
        if not (np.isfinite(weight).all() and np.isfinite(layer.bias).all()):
            raise UserError(f"{where} has weights that are not finite; the file is damaged, or its training diverged")
        model[name] |= _settings(where, name, layer, groups.get(name, 1), towers, done)
        if name == "conv1":
            weight = _for_stored_pixels(weight, preprocessing, done)
        if name == first_dense:
            done.append("inputs from [C, H, W] to [H, W, C]")
        if name == "fc8" and towers > 1:
            done.append(f"classes split over {towers} towers")
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = weight, layer.bias
        rows.append([name, layer.name, "x".join(map(str, weight.shape)), "; ".join(done)])
    size = max(base.data.size, model["image_size"])
    config = config_files.changed(base, model=model, data={"source": "prepared", "size": size})
    if groups != networks.groups(config.model):
        raise UserError(f"{foreign.path}: layers must have 1 group or the same number of groups, but have {groups}")
    mean = np.array(preprocessing.mean, np.float32)[:: -1 if preprocessing.bgr else 1] / preprocessing.scale
    mean_image = np.full((size, size, 3), mean)
    # The file states no colour covariance, so there is no colour noise.
    statistics = Statistics(mean_image, np.zeros(3, np.float32), np.eye(3, dtype=np.float32))
    classes = classes or [f"class {i}" for i in range(config.model.num_classes)]
    if len(classes) != config.model.num_classes:
        raise UserError(f"--classes names {len(classes)} classes, but the network has {config.model.num_classes}")
    params = networks.from_torch(config.model, tensors)
    return Network(config, statistics, params, classes, 0, foreign.path), rows + _common_rows(config, mean)


def _by_name(foreign: ForeignNetwork, base: Config) -> dict[str, ForeignLayer]:
    """The layers by our names."""
    axes = [layer.weight.ndim for layer in foreign.layers]
    convs, denses = axes.count(4), len(axes) - axes.count(4)
    if not 1 <= convs <= 6 or not 1 <= denses <= 3 or axes != sorted(axes, reverse=True):
        layers = ", ".join(f"{layer.name} {list(layer.weight.shape)}" for layer in foreign.layers) or "no layers"
        expected = "1 to 6 convolutions, then 1 to 3 fully connected layers"
        raise UserError(f"{foreign.path} is not an AlexNet ({expected}); it has {layers}")
    names = [f"conv{i + 1}" for i in range(convs)] + ["fc6", "fc7"][: denses - 1] + ["fc8"]
    if missing := [name for name in names if getattr(base.model, name) is None]:
        raise UserError(f"{foreign.path} has {len(names)} layers; give a --config that has {', '.join(missing)} too")
    return dict(zip(names, foreign.layers, strict=True))


def _groups(path: Path, layers: dict[str, ForeignLayer]) -> dict[str, int]:
    """The number of groups of each convolution, from the number of feature maps that a kernel spans."""
    groups, maps = {}, 3
    for name, layer in layers.items():
        if name.startswith("conv"):
            count, span = layer.weight.shape[:2]
            if span == 0 or maps % span:
                raise UserError(
                    f"{path}: {layer.name} has kernels over {span} of {maps} maps, which do not form groups"
                )
            groups[name], maps = maps // span, count
    return groups


def _settings(where: str, name: str, layer: ForeignLayer, groups: int, towers: int, done: list[str]) -> dict[str, Any]:
    """A layer's settings, as keys of model_config.Conv, Dense or Head."""
    features = {} if name == "fc8" else {"features": len(layer.weight)}
    if not name.startswith("conv"):
        expected = () if name == "fc8" else ("activation",)
        if (then := layer.settings.get("then", expected)) != expected:
            actual, needed = (", ".join(each) or "nothing" for each in (then, expected))
            raise UserError(f"{where} is followed by {actual}, but {name} can only be followed by {needed}")
        return features | {"exchange": True}
    height, width = layer.weight.shape[2:]
    if height != width:
        raise UserError(f"{where} has kernels of {height}x{width}; only square ones are supported")
    if groups > 1:
        done.append(f"{groups} groups become {groups} towers")
    elif towers > 1:
        done.append("kernels split over the towers" if name == "conv1" else "sees all towers")
    exchange = name != "conv1" and groups == 1 and towers > 1
    return features | {"kernel": height, "shared": True, "exchange": exchange} | layer.settings


def _for_stored_pixels(weight: np.ndarray, preprocessing: Preprocessing, done: list[str]) -> np.ndarray:
    """conv1's kernels [out, 3, k, k] for RGB pixels in 0..255 minus their mean."""
    if preprocessing.scale != 1 or preprocessing.std != (1.0, 1.0, 1.0):
        factors = preprocessing.scale / np.array(preprocessing.std)
        weight = (weight * factors[None, :, None, None]).astype(np.float32)
        done.append(f"times {', '.join(f'{factor:.6g}' for factor in factors)} (its scale of pixels)")
    if preprocessing.bgr:
        weight = weight[:, ::-1]
        done.append("BGR to RGB")
    return weight


def _common_rows(config: Config, mean: np.ndarray) -> list[list[str]]:
    """The rows of the table that concern no single layer; `mean` is that of R, G and B."""
    spec, lrn, pool, stored = config.model, config.model.lrn, config.model.pool, config.data.size
    means, rounding = ", ".join(f"{value:.6g}" for value in mean), "up" if pool.ceil else "down"
    reach = "across towers" if lrn.across_towers else "within a tower"
    how = f"k = {lrn.k:g}, n = {lrn.n}, alpha = {lrn.alpha:g} of the sum (not of the mean), {reach}"
    normalizes = any("lrn" in conv.then for _, conv in spec.convs())
    return [
        ["image", "", f"{spec.image_size}x{spec.image_size}x3", f"centre of {stored}x{stored}; mean {means} (RGB)"],
        ["dropout", "", "", "scaled in training, nothing at test time"],
        ["pooling", "", f"{pool.window}x{pool.window} /{pool.stride}", f"sizes rounded {rounding}"],
        *([["normalization", "", "", how]] if normalizes else []),
    ]
