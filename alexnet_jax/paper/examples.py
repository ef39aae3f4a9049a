"""The paper's Figure 4: what the network says of single images, and which images it finds alike."""

import numpy as np
from matplotlib.figure import Figure

from alexnet_jax import steps
from alexnet_jax.inference import activations
from alexnet_jax.paper import figures
from alexnet_jax.paper.figures import Picture, Section, Text
from alexnet_jax.paper.images import Network, centre, over, read, sample

SHOWN, BARS = 8, 5  # images, and classes of each
QUERIES, NEIGHBOURS = 5, 6
MOST_TRAIN = 5000  # training images that are searched
LETTERS = 20  # of a class's name


def figure4_left(network: Network) -> Section:
    """The five best classes of eight evaluation images."""
    predict = steps.make_predict_step(network.config, network.mesh, views=1)
    index = sample(len(network.evaluation.labels), SHOWN)
    ((sound, probabilities),) = over(network, predict, network.evaluation, index)
    pixels = centre(read(network.evaluation, sound)[0], network.config.model.image_size)
    rows = -(-len(sound) // 2)
    figure = Figure(figsize=(figures.WIDTH, 1.5 * rows), layout="constrained")
    grid = figure.subplots(rows, 4, squeeze=False, width_ratios=(1, 1.2, 1, 1.2))
    for axes in grid.flat:
        axes.axis("off")
    for i, (image, of_classes) in enumerate(zip(pixels, probabilities[:, : len(network.classes)], strict=True)):
        at, bars = grid[i // 2, i % 2 * 2 : i % 2 * 2 + 2]
        label = int(network.evaluation.labels[sound[i]])
        at.imshow(image)
        at.set_title(_short(network.classes[label]), fontsize=8)
        _bars(bars, of_classes, label, network.classes)
    caption = (
        f"{len(sound)} images of the split {network.config.data.eval_split}, drawn at random, each with its own class "
        "above it and the most probable classes beside it. The bar of its own class is red. Centre crop, one view."
    )
    return Section(
        "figure4-left",
        "Figure 4, left: predictions",
        [Picture("Images and their five most probable classes", figures.plot(figure), caption)],
    )


def _bars(axes, probabilities: np.ndarray, label: int, classes: list[str]) -> None:
    best = np.argsort(-probabilities, kind="stable")[:BARS]
    axes.barh(range(len(best)), probabilities[best], color=["#f2918c" if k == label else "#9bb7e0" for k in best])
    for place, k in enumerate(best):
        axes.text(0.02, place, _short(classes[k]), va="center", fontsize=8)
    axes.set(xlim=(0, 1), ylim=(BARS - 0.4, -0.6))


def _short(name: str) -> str:
    return name if len(name) <= LETTERS else name[: LETTERS - 1] + "…"


def features(network: Network, step, images, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sound indices [n] among `index`, and what `step` says of those images, [n, units] float32."""
    parts = list(over(network, step, images, index))
    return np.concatenate([sound for sound, _ in parts]), np.concatenate([found for _, found in parts])


def nearest(queries: np.ndarray, others: np.ndarray, count: int) -> np.ndarray:
    """Rows of `others` [n, units] nearest to each of `queries` [q, units] by Euclidean distance: [q, count]."""
    distances = np.stack([((others - query) ** 2).sum(axis=1) for query in queries])
    return np.argsort(distances, axis=1, kind="stable")[:, :count]


def figure4_right(network: Network) -> Section:
    """Five evaluation images, and the training images nearest to each in the last hidden layer."""
    step = activations.make_features_step(network.config, network.mesh)
    # Other images than in the left half, if there are others.
    count = len(network.evaluation.labels)
    pool = np.setdiff1d(np.arange(count), sample(count, SHOWN)) if count > SHOWN else np.arange(count)
    queries, of_queries = features(network, step, network.evaluation, pool[sample(len(pool), QUERIES)])
    searched, of_train = features(network, step, network.train, sample(len(network.train.labels), MOST_TRAIN))
    found = searched[nearest(of_queries, of_train, NEIGHBOURS)]  # [q, 6]
    size = network.config.model.image_size
    figure = Figure(figsize=(figures.WIDTH, 1.15 * len(queries)), layout="constrained")
    grid = figure.subplots(len(queries), 1 + NEIGHBOURS, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for row, query in enumerate(queries):
        shown = [(network.evaluation, query), *((network.train, i) for i in found[row])]
        for axes, (images, i) in zip(grid[row], shown, strict=False):
            axes.imshow(centre(read(images, np.array([i]))[0][0], size))
            axes.set_title(_short(network.classes[images.labels[i]])[:10], fontsize=7)
    right = np.mean(network.train.labels[found] == network.evaluation.labels[queries][:, None])
    layer = [name for name, _ in (*network.config.model.convs(), *network.config.model.hidden())][-1]
    caption = (
        f"First column: {len(queries)} images of the split {network.config.data.eval_split}, drawn at random. Beside "
        f"each, the {found.shape[1]} of {len(searched):,} training images nearest to it by Euclidean distance in "
        f"{layer} ({of_train.shape[1]:,} numbers); {right:.0%} of them are of the query's class."
    )
    blocks: list[figures.Block] = [Picture("Queries and their nearest images", figures.plot(figure), caption)]
    if len(network.train.labels) > MOST_TRAIN:
        blocks.append(Text(f"Searched are {MOST_TRAIN:,} of {len(network.train.labels):,} training images, at random."))
    return Section("figure4-right", "Figure 4, right: nearest images", blocks)
