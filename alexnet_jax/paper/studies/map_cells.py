"""When training starts: which initial values, normalization, learning rate and number of classes leave the loss of
guessing, ln(classes), and how soon.

A cell is the paper's config with other values. A small network, with the signals and the learning speed of the full one
(`shrunk`), is trained for it with several seeds, until it has left that loss or its steps are over.
"""

import itertools
from typing import Any, NamedTuple

from alexnet_jax.inference import activations
from alexnet_jax.model_config import Conv
from alexnet_jax.run import config_files
from alexnet_jax.run_config import Config

DEVIATIONS = ("0.01", "0.03 in conv3-5", "He")  # the paper's; the authors'; sqrt(2 / fan-in) from conv2 to fc7
BIASES = (1.0, 0.1, 0.0)  # where the paper has 1
LRNS = ("on", "off", "alpha/n")  # alpha/n: as in the authors' code
RATES = (0.01, 0.003, 0.03)
# With 1 the responses of a linear layer change as fast as in the full network, but its few units overshoot more: losses
# become infinite that do not at full size. With 3/4 the first steps of the three cells compared were the most alike.
SPEED = 0.75
FINER = (1, 100)  # classes are divided into so many
MOST_CLASSES = 1000  # and no finer


class Cell(NamedTuple):
    deviation: str
    bias: float
    lrn: str
    rate: float
    finer: int  # each class of the data is divided into so many, by brightness


def grid(seeds: int, classes: int) -> list[tuple[Cell, int]]:
    """All cells with each seed, for data of `classes`: every cell once, then those near the paper's with more seeds."""
    levels = (DEVIATIONS, BIASES, LRNS, RATES, [finer for finer in FINER if finer * classes <= MOST_CLASSES])
    distance = {
        cell: LRNS.index(cell.lrn) + RATES.index(cell.rate) for cell in map(Cell._make, itertools.product(*levels))
    }
    return sorted(itertools.product(distance, range(seeds)), key=lambda run: (run[1] > 0, distance[run[0]] + run[1]))


def full_config(cell: Cell, classes: int) -> Config:
    """The paper's config with the values of the cell, for data of `classes`."""
    values = config_files.load("paper")
    if cell.deviation == DEVIATIONS[1]:
        for name in ("conv3", "conv4", "conv5"):
            values.model[name].init_std = 0.03
    variants = {"he": cell.deviation == "He", f"bias={cell.bias}": True, "no_lrn": cell.lrn == "off"}
    config_files.functions("variants")["apply"](values, [name for name, applies in variants.items() if applies])
    if cell.lrn == "alpha/n":
        values.model.lrn.alpha /= values.model.lrn.n
    values.model.num_classes = classes * cell.finer
    values.optim.learning_rate = cell.rate
    return config_files.parse(values)


def shrunk(full: Config, small: Config) -> Config:
    """`small` with the signals of `full` at the start, and layers that learn as fast.

    With r = inputs of a unit in `full` / inputs of a unit in `small`, a layer's deviation is sqrt(r) times that of
    `full`, so its responses are as large. Its weights' learning rate is r^SPEED times that of `full`, and the weight
    decay as much smaller, so that a step shrinks the weights by as much.
    """
    ratios = activations.fan_in_ratios(full.model, small.model)
    deviations = activations.deviations(full.model, small.model)
    model: dict[str, Any] = {"num_classes": full.model.num_classes, "lrn": full.model.lrn.model_dump()}
    rules = {}
    for name, layer in full.model.layers().items():
        start = {"init_std": deviations[name], "init_bias": layer.init_bias}
        then = {"then": layer.then} if isinstance(layer, Conv) else {}
        model[name] = small.model.layers()[name].model_dump() | start | then
        faster = ratios[name] ** SPEED
        decay = full.optim.weights.weight_decay / faster
        rules[name] = {"weight_decay": decay, "lr_multipliers": ((0, faster, 1.0),)}
    rate = {"learning_rate": full.optim.learning_rate, "layers": rules}
    return config_files.changed(small, model=model, optim=rate)


def cell_of(result: dict[str, Any]) -> Cell:
    return Cell._make(result[key] for key in Cell._fields)
