"""The paper's Figures 1 to 3 for a report's runs, and their learning curves.

Figure 2 is read off the network itself: its layers, towers and what crosses between them. Figure 3 shows whether the
towers specialize in colour and form.
"""

import itertools
import math
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from alexnet_jax.errors import UserError
from alexnet_jax.inference import activations
from alexnet_jax.model_config import Model
from alexnet_jax.paper import colours
from alexnet_jax.paper.report import WIDTH, ReportedRun
from alexnet_jax.run import pictures

TARGET = 0.25  # the training error rate at which Figure 1 compares networks
BOX = (0.84, 0.56)  # width and height of a box in Figure 2; towers are 1 apart, and so are layers
COLUMNS = 16  # of kernels, as in Figure 3


def learning(runs: list[ReportedRun]) -> dict[str, Figure]:
    """Loss and top-1 error in training and validation of every run against steps. Raises UserError without any line."""
    if not any(run.log for run in runs):
        raise UserError("nothing has been logged yet")
    figure = Figure(figsize=(WIDTH, 7), layout="constrained")
    curves = (("loss", "loss, nats"), ("top1_error", "top-1 error"))
    for axes, (key, title) in zip(figure.subplots(2, 1), curves, strict=True):
        for number, run in enumerate(runs):
            for phase in dict.fromkeys(line["phase"] for line in run.log):
                points = [(line["step"], line[key]) for line in run.log if line["phase"] == phase]
                style = {"linestyle": "-" if phase == "train" else "--", "marker": "." if len(points) < 30 else None}
                axes.plot(*zip(*points, strict=True), color=f"C{number}", label=f"{phase}, {run.name}", **style)
        _finish(axes, "step", title)
    return {"figure": figure}


def _finish(axes: Axes, xlabel: str, ylabel: str) -> None:
    axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, None))
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)


def crossing(log: list[dict]) -> int | None:
    """The step of the first log line with a training top-1 error of at most TARGET, or None."""
    steps = [line["step"] for line in log if line["phase"] == "train" and line["top1_error"] <= TARGET]
    return min(steps, default=None)


def training_error(logs: dict[str, list[dict]]) -> Figure | None:
    """Plot the training error rates of named runs against epochs, as in Figure 1; None if no training was logged."""
    figure = Figure(figsize=(WIDTH, 4), layout="constrained")
    axes = figure.subplots()
    for number, (name, log) in enumerate(logs.items()):
        points = {line["step"]: (line["epoch"], line["top1_error"]) for line in log if line["phase"] == "train"}
        if not points:
            continue
        step = crossing(log)
        reached = f"after {step:,} iterations" if step else "not reached"
        axes.plot(*zip(*points.values(), strict=True), color=f"C{number}", label=f"{name}: {TARGET:.0%} {reached}")
        if step:
            axes.plot(*points[step], "o", color=f"C{number}")
    if not axes.lines:
        return None
    axes.axhline(TARGET, color="black", linestyle="--", linewidth=1)
    _finish(axes, "epochs", "training error rate (top-1)")
    return figure


def figure1(runs: list[ReportedRun]) -> dict[str, Figure]:
    """The paper's Figure 1 for these runs. Raises UserError if no training was logged."""
    figure = training_error({f"Run {run.name}": run.log for run in runs})
    if figure is None:
        raise UserError("no training step has been logged yet")
    return {"figure": figure}


class LayerBox(NamedTuple):
    """A tower's share of a layer, as the figure shows it."""

    layer: str
    text: str
    crosses: bool  # whether its input includes the other towers' output


def boxes(spec: Model) -> list[LayerBox]:
    """Describe the layers of a tower by the shapes of their parameters and activations."""
    params, shapes = activations.shapes(spec)
    activation = {"relu": "ReLU"}.get(spec.activation, spec.activation)
    names = {"activation": activation, "lrn": "LRN", "map_norm": "map norm", "pool": "pool"}
    inputs: tuple[int, ...] = (spec.image_size, spec.image_size, 3)  # of this tower alone
    column = []
    for name, conv in spec.convs():
        kernel, response, output = params[name]["kernel"], shapes[f"{name}_response"], shapes[f"{name}_output"]
        channels = kernel[-2] if conv.shared else kernel[-2] // conv.kernel**2
        unshared = "" if conv.shared else ", unshared"
        operations = ", ".join(names[operation] for operation in conv.then) or "nothing"
        text = f"{name}: {kernel[-1]} of {conv.kernel}x{conv.kernel}x{channels}, /{conv.stride}{unshared}"
        text += f"\n{by(response)}\n{operations}" + (f" -> {by(output)}" if output != response else "")
        column.append(LayerBox(name, text, channels != inputs[-1]))
        inputs = output
    endings = {name: activation + (", dropout" if dense.dropout else "") for name, dense in spec.hidden()}
    for name, ending in (endings | {"fc8": "classes"}).items():
        width, units = params[name]["kernel"][1:]
        column.append(LayerBox(name, f"{name}: {units} of {width}\n{ending}", width != math.prod(inputs)))
        inputs = shapes[f"{name}_output"]
    return column


def by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def links(spec: Model) -> list[tuple[str, int, int]]:
    """The arrows between towers: (layer, from, to) for every layer whose input crosses."""
    pairs = itertools.permutations(range(spec.towers), 2)
    return [(box.layer, *pair) for box, pair in itertools.product(boxes(spec), pairs) if box.crosses]


def figure2(spec: Model) -> dict[str, Any]:
    """The figure of the layers, tower by tower; the number of parameters; and the layers at which towers meet."""
    column = boxes(spec)
    figure = Figure(figsize=(max(WIDTH, 3 * spec.towers), len(column) + 1.2), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, spec.towers), ylim=(-len(column) - 0.5, 0.6))
    axes.axis("off")
    image = f"image: {by((spec.image_size, spec.image_size, 3))}{', the same to all' if spec.towers > 1 else ''}"
    width, height = BOX
    for tower in range(spec.towers):
        axes.text(tower + 0.5, 0.45, f"tower {tower}", ha="center", weight="bold")
        for row, text in enumerate([image, *(box.text for box in column)]):
            corner = (tower + (1 - width) / 2, -row - height / 2)
            axes.add_patch(FancyBboxPatch(corner, *BOX, "round,pad=0.02", facecolor="#eef3fb", edgecolor="#557"))
            axes.text(tower + 0.5, -row, text, ha="center", va="center", fontsize=8)
            if row:
                _arrow(axes, row, tower, tower, "black")
    rows = {box.layer: row for row, box in enumerate(column, start=1)}
    for layer, start, end in links(spec):
        _arrow(axes, rows[layer], start, end, "tab:red")
    parameters = sum(math.prod(shape) for leaves in activations.shapes(spec)[0].values() for shape in leaves.values())
    return {"figure": figure, "parameters": parameters, "crossing": [box.layer for box in column if box.crosses]}


def _arrow(axes: Axes, row: int, start: int, end: int, colour: str) -> None:
    """Draw an arrow from the box above `row` in tower `start` to the box at `row` in tower `end`."""
    height = BOX[1] / 2 + 0.02
    tip, tail = (end + 0.5, -row + height), (start + 0.5, -row + 1 - height)
    axes.annotate("", tip, tail, arrowprops={"arrowstyle": "-|>", "color": colour, "shrinkA": 0, "shrinkB": 0})


def figure3(runs: list[ReportedRun]) -> dict[str, Any]:
    """Mosaics of the first run's kernels, each tower's chroma share in every run, and the runs on grey images."""
    images = pictures.as_images(runs[0].conv1_kernels)
    rows, grey = [], []
    for run in runs:
        _, eigenvalues, vectors = run.network.statistics
        if eigenvalues[1] < 1e-4 * eigenvalues[0] and np.ptp(vectors[:, 0]) < 1e-3:  # all on the line of greys
            grey.append(run.name)
        shares = colours.chroma_share(run.conv1_kernels)
        rows.append((run.name, shares.mean(axis=1), colours.specialization(shares) if len(shares) > 1 else None))
    mosaics = [pictures.mosaic(tower, COLUMNS) for tower in images]
    return {"mosaics": mosaics, "shape": images.shape, "rows": rows, "grey": grey, "draws": colours.DRAWS}
