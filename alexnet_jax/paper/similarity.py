"""How similarly layers represent the same images: within a network, between runs, between towers and along training.

Two measures, both by rsatoolbox, on the distances between the representations of every two images:

    CKA    linear centred kernel alignment (Kornblith et al., 2019): the whitened cosine of squared Euclidean distances
           is equal to it (Diedrichsen et al., 2020)
    RSA    representational similarity analysis (Kriegeskorte et al., 2008): the rank correlation of 1 - r, with r the
           correlation of two images' features

CKA is 1 for representations that differ by a rotation and a scale, RSA for those that differ by the order of the units.
Their value by chance is that for shuffled images: about 0 for RSA, but more for CKA, the more so the fewer images there
are for the number of units.
"""

import importlib.util
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.spatial.distance import squareform

from alexnet_jax.data.records import Images
from alexnet_jax.errors import UserError
from alexnet_jax.inference import activations
from alexnet_jax.inference.network import Network, open_workdir
from alexnet_jax.paper.report import SEED, WIDTH, ReportedRun, compute, sample
from alexnet_jax.run import workdir

METHODS = {"CKA": "cosine_cov", "RSA": "rho-a"}  # -> rsatoolbox's names
FEATURES = 2**26  # most numbers computed at a time: 256 MB
STEPS = 8  # most steps of the first run
STATES: dict[str, tuple[dict, dict]] = {  # of what is compared -> what differs from the networks at the end
    "trained": ({}, {}),
    "untrained": ({"step": 0}, {"step": 0}),
    "chance": ({}, {"shuffled": True}),
}
WHOLE = -1  # all towers of a layer

Distances = dict[str, np.ndarray]  # layer -> [whole and towers, methods, pairs of images] float32


class Key(NamedTuple):
    """One representation of the images in a layer."""

    run: int
    step: int
    tower: int  # or WHOLE
    shuffled: bool = False


class Comparisons(NamedTuple):
    """Similarities, each by METHODS."""

    layers: list[str]
    within: dict[str, np.ndarray]  # "trained", "untrained" -> [methods, layers, layers], of the first run
    runs: dict[str, np.ndarray]  # STATES -> [methods, layers, pairs of runs]
    towers: dict[str, np.ndarray]  # STATES -> [methods, layers, pairs of towers of all runs]
    training: dict[int, np.ndarray]  # step -> [methods, layers], with the first run's newest step


def distances(network: Network, images: Images, index: np.ndarray) -> Distances:
    """The distances between the images `index` in each layer, squared Euclidean for CKA and 1 - r for RSA."""
    found = {}
    for group in _groups(network, len(index)):
        readable, features = compute(network, network.features_step(",".join(group)), images, index)
        upper, units = np.triu_indices(len(readable), 1), activations.units(network.config, group, "none")
        for layer in group:
            parts = []  # of each tower: inner products, sums and number of features
            for tower in range(network.config.model.towers):
                x = features[:, (units["layer"] == layer) & (units["tower"] == tower)].astype(np.float64)
                parts.append((x @ x.T, x.sum(axis=1), x.shape[1]))
            parts.insert(0, tuple(sum(column) for column in zip(*parts, strict=True)))
            found[layer] = np.stack([_distances(*part)[:, *upper] for part in parts]).astype(np.float32)
    return found


def _groups(network: Network, count: int) -> Iterator[tuple[str, ...]]:
    """The layers, as many together as FEATURES allows for `count` images."""
    group, size = list[str](), 0
    for layer in network.config.model.layers():
        units = len(activations.units(network.config, (layer,), "none")["layer"])
        if group and (size + units) * count > FEATURES:
            yield tuple(group)
            group, size = [], 0
        group, size = [*group, layer], size + units
    yield tuple(group)


def _distances(products: np.ndarray, sums: np.ndarray, units: int) -> np.ndarray:
    """Squared Euclidean distances and 1 - r, [methods, images, images], from the images' inner products and sums."""
    squares = np.diag(products)
    covariances = products - np.outer(sums, sums) / units
    lengths = np.sqrt(np.maximum(np.diag(covariances), 0))
    scale = np.outer(lengths, lengths)
    correlations = np.divide(covariances, scale, out=np.zeros_like(scale), where=scale > 0)  # equal features have none
    return np.stack([squares[:, None] + squares - 2 * products, 1 - correlations])


def similarities(vectors: np.ndarray) -> np.ndarray:
    """By each method, of every two of `vectors` [n, methods, pairs of images]: [methods, n, n]."""
    from rsatoolbox.rdm import compare

    columns = zip(METHODS.values(), vectors.astype(np.float64).swapaxes(0, 1), strict=True)
    return np.stack([compare(column, column, method) for method, column in columns])


def shuffled(vector: np.ndarray) -> np.ndarray:
    """The distances [..., pairs of images] with the images in another, fixed order."""
    matrices = [squareform(row) for row in vector.reshape(-1, vector.shape[-1])]
    order = np.random.default_rng(SEED).permutation(len(matrices[0]))
    rows = [squareform(matrix[np.ix_(order, order)], checks=False) for matrix in matrices]
    return np.reshape(rows, vector.shape)


def compared(runs: list[ReportedRun], images: Images, count: int) -> Comparisons:
    """Compare all runs at their start and end, and the first one along the way, on `count` images drawn at random.

    Raises UserError if rsatoolbox is missing, or runs look at images of different sizes.
    """
    if importlib.util.find_spec("rsatoolbox") is None:
        raise UserError('comparing representations needs rsatoolbox: pip install "alexnet_jax[features]"')
    if any(run.network.config.data.size != images.size for run in runs):
        raise UserError("the runs look at images of different sizes (data.size), so their answers cannot be compared")
    index, found, last = sample(len(images.labels), count), {}, [run.network.step for run in runs]
    for number, run in enumerate(runs):
        kept = workdir.saved_steps(run.network.path) if number == 0 else []
        steps = np.unique([0, *kept, last[number]])
        chosen = np.unique(np.linspace(0, len(steps) - 1, min(STEPS, len(steps))).round().astype(int))
        for step in steps[chosen].tolist():
            network = run.network if step == last[number] else open_workdir(run.network.path, step)
            found[number, step] = distances(network, images, index)
    return _comparisons(found, last)


def _comparisons(found: dict[tuple[int, int], Distances], last: list[int]) -> Comparisons:
    """Compare the networks (run, step), of which the runs' newest steps are `last`."""
    layers = [layer for layer in found[0, 0] if all(layer in each for each in found.values())]
    keys = [Key(*each, part - 1) for each, distances in found.items() for part in range(len(distances[layers[0]]))]
    newest = [key for key in keys if key.step == last[key.run]]
    tables = []  # of layers
    for layer in layers:
        vectors = {key: found[key.run, key.step][layer][key.tower + 1] for key in keys}
        tables.append(similarities(np.stack([*vectors.values(), *(shuffled(vectors[key]) for key in newest)])))
    table = np.stack(tables, axis=1)
    place = {key: i for i, key in enumerate([*keys, *(key._replace(shuffled=True) for key in newest)])}

    def of(pairs: list[tuple[Key, Key]]) -> dict[str, np.ndarray]:
        columns = {}
        for state, changes in STATES.items():
            rows = [
                [place[key._replace(**change)] for key, change in zip(pair, changes, strict=True)] for pair in pairs
            ]
            columns[state] = table[:, :, *np.array(rows, int).reshape(-1, 2).T]
        return columns

    pairs = list(itertools.combinations(newest, 2))
    runs = [(a, b) for a, b in pairs if a.tower == b.tower == WHOLE]
    towers = [(a, b) for a, b in pairs if a.run == b.run and WHOLE not in (a.tower, b.tower)]
    within = {
        state: similarities(np.stack([distances[0] for name, distances in found[0, step].items() if name in layers]))
        for state, step in (("trained", last[0]), ("untrained", 0))
    }
    end = place[Key(0, last[0], WHOLE)]
    training = {step: table[:, :, place[Key(0, step, WHOLE)], end] for run, step in found if run == 0}
    return Comparisons(layers, within, of(runs), of(towers), training)


def section(runs: list[ReportedRun], images: Images, count: int) -> dict[str, Any]:
    """The figures and tables of what `compared` finds; arguments and errors as there."""
    found = compared(runs, images, count)
    return found._asdict() | {
        "images": min(count, len(images.labels)),
        "figures": (_within_figure(found), _training_figure(found)),
        "runs": _pairs(found.layers, found.runs),
        "towers": _pairs(found.layers, found.towers),
    }


def _pairs(layers: list[str], values: dict[str, np.ndarray]) -> dict[str, Any] | None:
    """Their figure, table and extremes; None if there are no pairs."""
    if not (count := values["trained"].shape[2]):
        return None
    means = {state: values[state].mean(axis=2) for state in STATES}
    order, cell = np.argsort(means["trained"][0]), "{:z.2f} / {:z.2f}".format
    return {
        "figure": _pairs_figure(layers, means, values["trained"]),
        "count": count,
        "rows": [[layer, *(cell(*means[state][:, i]) for state in STATES)] for i, layer in enumerate(layers)],
        "least": layers[order[0]],
        "most": layers[order[-1]],
    }


def _panels(height: float, rows: int = 1) -> tuple[Figure, np.ndarray]:
    """A figure with a column for each method."""
    grid = (figure := Figure(figsize=(WIDTH, height), layout="constrained")).subplots(rows, len(METHODS), squeeze=False)
    for axes, method in zip(grid[0], METHODS, strict=True):
        axes.set_title(method, fontsize=10)
    return figure, grid


def _within_figure(found: Comparisons) -> Figure:
    """Matrices, layer x layer."""
    figure, grid = _panels(6.5, rows=len(found.within))
    places = range(len(found.layers))
    for row, (state, tables) in zip(grid, found.within.items(), strict=True):
        row[0].set_ylabel(state)
        for axes, table in zip(row, tables, strict=True):
            axes.imshow(table, vmin=0, vmax=1, cmap="viridis")
            axes.set_xticks(places, found.layers, fontsize=7, rotation=90)
            axes.set_yticks(places, found.layers, fontsize=7)
            for i, j in itertools.product(places, places):
                colour = "black" if table[i, j] > 0.6 else "white"
                axes.text(j, i, f"{100 * table[i, j]:.0f}", ha="center", va="center", fontsize=6, color=colour)
    return figure


def _pairs_figure(layers: list[str], means: dict[str, np.ndarray], trained: np.ndarray) -> Figure:
    """The means layer by layer, with the range of the trained ones."""
    figure, ((*panels,),) = _panels(3)
    for method, axes in enumerate(panels):
        for (state, mean), style in zip(means.items(), ("o-", "s--", "k:"), strict=True):
            axes.plot(layers, mean[method], style, label=state, markersize=4)
        axes.fill_between(layers, trained[method].min(axis=1), trained[method].max(axis=1), alpha=0.2)
        _finish(axes)
    return figure


def _training_figure(found: Comparisons) -> Figure:
    """For each layer, how similar it is to itself at the end, against steps."""
    figure, ((*panels,),) = _panels(3)
    values = np.stack([*found.training.values()])  # [steps, methods, layers]
    for method, axes in enumerate(panels):
        for number, layer in enumerate(found.layers):
            colour = colormaps["viridis"](0.95 * number / len(found.layers))
            axes.plot([*found.training], values[:, method, number], ".-", color=colour, label=layer)
        _finish(axes)
        axes.set_xlabel("step")
    return figure


def _finish(axes: Axes) -> None:
    axes.set_ylim(min(0, axes.get_ylim()[0]), 1.03)
    axes.tick_params(axis="x", labelsize=7)
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)
