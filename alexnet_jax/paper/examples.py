"""The paper's Figure 4: predictions for single images, and the training images that the network finds similar."""

import numpy as np
from matplotlib.figure import Figure

from alexnet_jax.inference import activations, feature_store
from alexnet_jax.inference.confusion import short
from alexnet_jax.inference.network import Network
from alexnet_jax.inference.predictions import best
from alexnet_jax.paper import figures
from alexnet_jax.paper.figures import Block
from alexnet_jax.paper.images import Splits, centre_crops, compute, sample

SHOWN, BARS = 8, 5  # images, and classes beside each
QUERIES, NEIGHBOURS = 5, 6
MOST_TRAIN = 5000  # training images to search


def figure4_left(network: Network, splits: Splits) -> list[Block]:
    """The five most probable classes of eight evaluation images."""
    images = splits.evaluation
    index, log_probabilities = compute(network, network.log_predict(1), images, sample(len(images.labels), SHOWN))
    rows = -(-len(index) // 2)
    figure = Figure(figsize=(figures.WIDTH, 1.5 * rows), layout="constrained")
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
    caption = (
        f"{len(index)} random images of the split {network.config.data.eval_split}, each with its true class above it "
        "and its most probable classes beside it; the true class's bar is red. Centre crop, one view."
    )
    return [figures.plot(figure, "Images and their five most probable classes", caption)]


def figure4_right(network: Network, splits: Splits) -> list[Block]:
    """Five evaluation images, and the training images nearest to each in the last hidden layer."""
    train, evaluation = splits
    # Other images than in the left half, if there are others.
    count = len(evaluation.labels)
    pool = np.setdiff1d(np.arange(count), sample(count, SHOWN)) if count > SHOWN else np.arange(count)
    step = network.features_step(None)
    queries, query_features = compute(network, step, evaluation, pool[sample(len(pool), QUERIES)])
    searched, features = compute(network, step, train, sample(len(train.labels), MOST_TRAIN))
    nearest = searched[feature_store.nearest(query_features, [features], NEIGHBOURS)[0]]  # [queries, NEIGHBOURS]
    figure = Figure(figsize=(figures.WIDTH, 1.15 * len(queries)), layout="constrained")
    grid = figure.subplots(len(queries), 1 + NEIGHBOURS, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for row, query, neighbours in zip(grid, queries, nearest, strict=True):
        crops = [*centre_crops(network, evaluation, query[None]), *centre_crops(network, train, neighbours)]
        labels = [evaluation.labels[query], *train.labels[neighbours]]
        for axes, crop, label in zip(row, crops, labels, strict=False):  # there may be fewer training images
            axes.imshow(crop)
            axes.set_title(short(network.classes[label])[:10], fontsize=7)
    same_class = np.mean(train.labels[nearest] == evaluation.labels[queries][:, None])
    caption = (
        f"First column: {len(queries)} random images of the split {network.config.data.eval_split}. Beside each: the "
        f"{nearest.shape[1]} nearest of {len(searched):,} training images, by Euclidean distance in "
        f"{activations.layer_of(network.config, None)} ({features.shape[1]:,} numbers). {same_class:.0%} of them are "
        "of the query's class."
    )
    blocks: list[Block] = [figures.plot(figure, "Queries and their nearest images", caption)]
    if len(train.labels) > MOST_TRAIN:
        blocks.append(f"The {MOST_TRAIN:,} images searched are a random part of {len(train.labels):,}.")
    return blocks
