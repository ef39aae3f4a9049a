"""The paper's Figure 2: layers, towers and what crosses between them, read off the network itself."""

import math
from typing import NamedTuple

import jax
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from alexnet_jax.inference import activations
from alexnet_jax.model_config import Conv, Model
from alexnet_jax.paper import figures
from alexnet_jax.paper.figures import Picture, Section

BOX = (0.84, 0.56)  # width and height, where a tower is 1 wide and a layer 1 high


class Layer(NamedTuple):
    name: str
    text: str  # what a tower's box says
    crosses: bool  # it sees the other towers' output too


def layers(spec: Model) -> list[Layer]:
    """The layers of a tower. Shapes, and who sees whom, are those of its parameters and activations."""
    params, sizes = activations.shapes(spec)
    before: tuple[int, ...] = (spec.image_size, spec.image_size, 3)
    found = []
    for name, conv in spec.convs():
        kernel, response, output = (
            params[name]["kernel"],
            *(sizes[f"{name}_{of}"] for of in ("response", "output")),
        )
        channels = kernel[-2] if conv.shared else kernel[-2] // conv.kernel**2
        own = "" if conv.shared else ", unshared"
        text = f"{name}: {kernel[-1]} of {conv.kernel}x{conv.kernel}x{channels}, /{conv.stride}{own}\n{by(response)}"
        text += f"\n{_then(conv, spec)}" + (f" -> {by(output)}" if output != response else "")
        found.append(Layer(name, text, channels != before[-1]))
        before = output
    for name, dense in spec.hidden():
        inputs, units = params[name]["kernel"][1:]
        ending = _activation(spec) + (", dropout" if dense.dropout else "")
        found.append(Layer(name, f"{name}: {units} of {inputs}\n{ending}", inputs != math.prod(before)))
        before = sizes[f"{name}_output"]
    inputs, classes = params["fc8"]["kernel"][1:]
    found.append(Layer("fc8", f"fc8: {classes} of {inputs}\nclasses", inputs != math.prod(before)))
    return found


def _then(conv: Conv, spec: Model) -> str:
    names = {"activation": _activation(spec), "lrn": "LRN", "map_norm": "map norm", "pool": "pool"}
    return ", ".join(names[operation] for operation in conv.then) or "nothing"


def _activation(spec: Model) -> str:
    return {"relu": "ReLU"}.get(spec.activation, spec.activation)


def by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def links(spec: Model) -> list[tuple[str, int, int]]:
    """The arrows between towers: (layer, from, to) for every layer whose input crosses."""
    pairs = [(i, j) for i in range(spec.towers) for j in range(spec.towers) if i != j]
    return [(layer.name, i, j) for layer in layers(spec) if layer.crosses for i, j in pairs]


def figure2(spec: Model, name: str) -> Section:
    rows = layers(spec)
    figure = Figure(figsize=(max(figures.WIDTH, 3 * spec.towers), len(rows) + 1.2), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, spec.towers), ylim=(-len(rows) - 0.5, 0.6))
    axes.axis("off")
    for tower in range(spec.towers):
        axes.text(tower + 0.5, 0.45, f"tower {tower}", ha="center", weight="bold")
        image = f"image: {by((spec.image_size, spec.image_size, 3))}" + (", the same to all" if spec.towers > 1 else "")
        _box(axes, tower, 0, image)
        for row, layer in enumerate(rows, start=1):
            _box(axes, tower, row, layer.text)
            _arrow(axes, row, tower, tower, "black")
    place = {layer.name: row for row, layer in enumerate(rows, start=1)}
    for layer_name, start, end in links(spec):
        _arrow(axes, place[layer_name], start, end, "tab:red")
    parameters = sum(math.prod(shape) for shape in jax.tree.leaves(activations.shapes(spec)[0], is_leaf=_is_shape))
    crossing = ", ".join(layer.name for layer in rows if layer.crosses)
    count = f"{spec.towers} towers" if spec.towers > 1 else "one tower"
    caption = (
        f"{name}: {parameters:,} parameters in {count}. Each box is one tower's share: kernels, what they give, what "
        "follows. Red arrows cross between towers: " + (f"at {crossing}." if crossing else "none does.")
    )
    return Section(
        "figure2", "Figure 2: the architecture", [Picture("Layers of each tower", figures.plot(figure), caption)]
    )


def _is_shape(leaf) -> bool:
    return isinstance(leaf, tuple)


def _box(axes, tower: int, row: int, text: str) -> None:
    width, height = BOX
    corner = (tower + (1 - width) / 2, -row - height / 2)
    axes.add_patch(FancyBboxPatch(corner, width, height, "round,pad=0.02", facecolor="#eef3fb", edgecolor="#557"))
    axes.text(tower + 0.5, -row, text, ha="center", va="center", fontsize=8)


def _arrow(axes, row: int, start: int, end: int, colour: str) -> None:
    """From the box above `row` in tower `start` to that of `row` in tower `end`."""
    height = BOX[1] / 2 + 0.02
    tip, tail = (end + 0.5, -row + height), (start + 0.5, -row + 1 - height)
    axes.annotate("", tip, tail, arrowprops={"arrowstyle": "-|>", "color": colour, "shrinkA": 0, "shrinkB": 0})
