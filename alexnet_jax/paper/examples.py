"""What the network makes of single images: the paper's Figure 4, and the patches to which units respond most."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from alexnet_jax.data.records import Subset
from alexnet_jax.inference import activations, feature_store, patches
from alexnet_jax.inference.confusion import short
from alexnet_jax.inference.network import Network
from alexnet_jax.inference.predictions import best
from alexnet_jax.paper.report import WIDTH, Splits, centre_crops, compute, sample
from alexnet_jax.run import pictures

SHOWN, BARS = 8, 5  # images, and classes beside each
QUERIES, NEIGHBOURS = 5, 6
MOST_TRAIN = 5000  # training images to search

LAYERS = ("conv3", "conv5")  # with UNITS in each tower, and PATCHES for each unit
UNITS, PATCHES = 8, 6
MOST_IMAGES = 2000  # to search for patches


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


def units(network: Network, splits: Splits) -> dict[str, Any]:
    """The patches of the evaluation images to which units respond most strongly, a mosaic for each layer and tower."""
    spec, images = network.config.model, splits.evaluation
    layers = tuple(name for name, _ in spec.convs() if name in LAYERS)
    searched = Subset(images, sample(len(images.labels), MOST_IMAGES))
    mosaics = []
    for name, layer in (patches.strongest(network, layers, searched, PATCHES) if layers else {}).items():
        _, columns, count = activations.shapes(spec)[1][f"{name}_response"]
        shown = np.unique(np.linspace(0, count - 1, min(UNITS, count)).astype(int))
        for tower in range(spec.towers):
            image, position = (x[:, tower, shown].T.ravel() for x in (layer.image, layer.position))
            places = zip(*np.divmod(position, columns), strict=True)
            crops = zip(centre_crops(network, searched, image), places, strict=True)
            cuts = np.stack([patches.cut(crop, spec, name, place) for crop, place in crops])
            mosaic = pictures.mosaic(cuts, len(layer.image), gap=2)
            mosaics.append((name, tower, shown, cuts.shape, mosaic))
    missing = [name for name in LAYERS if name not in layers]
    return {"missing": missing, "mosaics": mosaics, "searched": len(searched.labels), "all": len(images.labels)}
