"""What the network makes of single images: the paper's Figure 4, and the patches to which units respond most."""

from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

from alexnet_jax.data.records import Images
from alexnet_jax.inference import activations, feature_store
from alexnet_jax.inference.confusion import short
from alexnet_jax.inference.network import Network
from alexnet_jax.inference.predictions import best
from alexnet_jax.model_config import Model
from alexnet_jax.paper.report import WIDTH, Splits, centre_crops, compute, sample
from alexnet_jax.run import pictures

SHOWN, BARS = 8, 5  # images, and classes beside each
QUERIES, NEIGHBOURS = 5, 6
MOST_TRAIN = 5000  # training images to search

LAYERS = ("conv3", "conv5")  # with UNITS in each tower, and PATCHES for each unit
UNITS, PATCHES = 8, 6
MOST_IMAGES = 2000  # to search for patches
GREY = 128  # where a receptive field extends beyond the image


def figure4_left(network: Network, splits: Splits) -> dict[str, Any]:
    """The five most probable classes of eight evaluation images."""
    images = splits.evaluation
    index, log_probabilities = compute(network, network.log_predict(1), images, sample(len(images.labels), SHOWN))
    rows = -(-len(index) // 2)
    figure = Figure(figsize=(WIDTH, 1.5 * rows), layout="constrained")
    grid = figure.subplots(rows, 4, squeeze=False, width_ratios=(1, 1.2, 1, 1.2))
    for axes in grid.flat:
        axes.axis("off")
    crops, labels = centre_crops(network, images, index), images.labels[index]
    for i, (crop, label, of_classes) in enumerate(zip(crops, labels, log_probabilities, strict=True)):
        picture, bars = grid[i // 2, i % 2 * 2 : i % 2 * 2 + 2]
        picture.imshow(crop)
        picture.set_title(short(network.classes[label]), fontsize=8)
        probabilities = np.exp(of_classes[: len(network.classes)])
        top = best(probabilities, BARS)
        bars.barh(range(len(top)), probabilities[top], color=["#f2918c" if k == label else "#9bb7e0" for k in top])
        for row, k in enumerate(top):
            bars.text(0.02, row, short(network.classes[k]), va="center", fontsize=8)
        bars.set(xlim=(0, 1), ylim=(BARS - 0.4, -0.6))
    return {"figure": figure, "count": len(index)}


def figure4_right(network: Network, splits: Splits) -> dict[str, Any]:
    """Five evaluation images, and the training images nearest to each in the last hidden layer."""
    train, evaluation = splits
    # Other images than in the left half, if there are others.
    count = len(evaluation.labels)
    pool = np.setdiff1d(np.arange(count), sample(count, SHOWN)) if count > SHOWN else np.arange(count)
    step = network.features_step(None)
    queries, query_features = compute(network, step, evaluation, pool[sample(len(pool), QUERIES)])
    searched, features = compute(network, step, train, sample(len(train.labels), MOST_TRAIN))
    nearest = searched[feature_store.nearest(query_features, [features], NEIGHBOURS)[0]]  # [queries, NEIGHBOURS]
    figure = Figure(figsize=(WIDTH, 1.15 * len(queries)), layout="constrained")
    grid = figure.subplots(len(queries), 1 + NEIGHBOURS, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for row, query, neighbours in zip(grid, queries, nearest, strict=True):
        crops = [*centre_crops(network, evaluation, query[None]), *centre_crops(network, train, neighbours)]
        labels = [evaluation.labels[query], *train.labels[neighbours]]
        for axes, crop, label in zip(row, crops, labels, strict=False):  # there may be fewer training images
            axes.imshow(crop)
            axes.set_title(short(network.classes[label])[:10], fontsize=7)
    return {
        "figure": figure,
        "nearest": nearest,
        "same_class": np.mean(train.labels[nearest] == evaluation.labels[queries][:, None]),
        "searched": len(searched),
        "most": MOST_TRAIN,
        "all": len(train.labels),
        "layer": activations.layers_of(network.config, None)[0],
        "units": features.shape[1],
    }


def receptive_field(spec: Model, layer: str, position: int, clipped: bool = True) -> tuple[int, int]:
    """The first and last pixel, along one axis, on which the response of `layer` at `position` depends.

    Unless clipped, the field may extend beyond the image, and includes what padding adds to it.
    """
    operations, side = [], spec.image_size  # from the image to the layer: (window, stride, padding, input's side)
    for name, conv in spec.convs():
        operations.append((conv.kernel, conv.stride, conv.padding[0], side))
        if name == layer:
            break
        side = (side + sum(conv.padding) - conv.kernel) // conv.stride + 1
        for operation in conv.then:
            if operation == "pool":
                operations.append((spec.pool.window, spec.pool.stride, 0, side))
                side = spec.pool.output(side)
            elif operation == "map_norm":
                operations.append((spec.map_norm.n, 1, spec.map_norm.n // 2, side))
    first = last = position
    for window, stride, padding, side in reversed(operations):
        first, last = first * stride - padding, last * stride - padding + window - 1
        if clipped:  # padding is zero whatever the image
            first, last = max(first, 0), min(last, side - 1)
    return first, last


class Strongest(NamedTuple):
    """The images to which units respond most strongly, the strongest first."""

    units: np.ndarray  # [units] indices within a tower, the same in every tower
    image: np.ndarray  # [tower, units, patches] indices of images
    position: np.ndarray  # [tower, units, patches, 2] row and column of the unit's highest response in the image


def strongest(network: Network, layers: tuple[str, ...], images: Images, index: np.ndarray) -> dict[str, Strongest]:
    """Find, among the images `index`, those to which units of each layer respond most strongly."""
    units, columns = {}, {}
    for name in layers:
        _, columns[name], count = activations.shapes(network.config.model)[1][f"{name}_response"]
        units[name] = np.unique(np.linspace(0, count - 1, min(UNITS, count)).astype(int))
    respond = network.activations_step("response", layers)

    @jax.jit
    def highest(params, image, statistics):
        """Each image's highest response and where it is: {layer: two of [B, tower, units]}."""
        maps = {name: x[..., units[name]] for name, x in respond(params, image, statistics).items()}
        flat = {name: x.reshape(*x.shape[:2], -1, x.shape[-1]) for name, x in maps.items()}
        return {name: (x.max(axis=2), x.argmax(axis=2)) for name, x in flat.items()}

    readable, results = compute(network, highest, images, index)
    best_of_layers = {}
    for name, (responses, positions) in results.items():
        order = np.apply_along_axis(best, 0, responses, PATCHES)  # [patches, tower, units]
        rows_columns = np.divmod(np.take_along_axis(positions, order, axis=0), columns[name])
        position = np.moveaxis(np.stack(rows_columns, axis=-1), 0, 2)
        best_of_layers[name] = Strongest(units[name], np.moveaxis(readable[order], 0, 2), position)
    return best_of_layers


def cut(image: np.ndarray, spec: Model, layer: str, position: tuple[int, int]) -> np.ndarray:
    """Cut the receptive field of `layer` at `position` out of an image [S, S, 3] uint8; grey beyond its edges."""
    (top, bottom), (left, right) = (receptive_field(spec, layer, i, clipped=False) for i in position)
    margin = max(-min(top, left), max(bottom, right) + 1 - len(image), 0)
    padded = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), constant_values=GREY)
    return padded[margin + top : margin + bottom + 1, margin + left : margin + right + 1]


def units(network: Network, splits: Splits) -> dict[str, Any]:
    """The patches of the evaluation images to which units respond most strongly, a mosaic for each layer and tower."""
    spec, images = network.config.model, splits.evaluation
    layers = tuple(name for name, _ in spec.convs() if name in LAYERS)
    index = sample(len(images.labels), MOST_IMAGES)
    mosaics = []
    for name, layer in (strongest(network, layers, images, index) if layers else {}).items():
        for tower in range(spec.towers):
            crops = centre_crops(network, images, layer.image[tower].ravel())
            places = zip(crops, layer.position[tower].reshape(-1, 2), strict=True)
            cuts = np.stack([cut(crop, spec, name, tuple(position)) for crop, position in places])
            mosaic = pictures.mosaic(cuts, layer.image.shape[-1], gap=2)
            mosaics.append((name, tower, layer.units, cuts.shape, mosaic))
    missing = [name for name in LAYERS if name not in layers]
    return {"missing": missing, "mosaics": mosaics, "searched": len(index), "all": len(images.labels)}
