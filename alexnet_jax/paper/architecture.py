"""The paper's Figure 2: layers, towers and what crosses between them, read off the network itself."""

import itertools
import math
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from alexnet_jax.inference import activations
from alexnet_jax.model_config import Model
from alexnet_jax.paper.report import WIDTH

BOX = (0.84, 0.56)  # width and height of a box; towers are 1 apart, and so are layers


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
