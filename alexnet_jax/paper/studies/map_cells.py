"""When training starts: which initial values, normalization, learning rate and number of classes leave the loss of
guessing, ln(classes), and how soon.

A cell is the paper's config with other values. A small network, with the signals and the learning speed of the full one
(`shrunk`), is trained for it with several seeds, until it has left that loss or its steps are over.
"""

import collections
import functools
import itertools
import json
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from alexnet_jax import optim, sharding, steps
from alexnet_jax.data import manifest
from alexnet_jax.data.datasets import Dataset
from alexnet_jax.data.files import write_text
from alexnet_jax.data.loader import Batch, Order
from alexnet_jax.data.records import spread
from alexnet_jax.errors import Interrupted, UserError
from alexnet_jax.inference import activations
from alexnet_jax.model_config import Conv
from alexnet_jax.run import config_files, log_lines, run_data
from alexnet_jax.run.stopping import stop_signals
from alexnet_jax.run_config import Config

DEVIATIONS = ("0.01", "0.03 in conv3-5", "He")  # the paper's; the authors'; sqrt(2 / fan-in) from conv2 to fc7
BIASES = (1.0, 0.1, 0.0)  # where the paper has 1
LRNS = ("on", "off", "alpha/n")  # alpha/n: as in the authors' code
RATES = (0.01, 0.003, 0.03)
# With 1 the responses of a linear layer change as fast as in the full network, but its few units overshoot more: losses
# become infinite that do not at full size. With 3/4 the first steps of the three cells compared were the most alike.
SPEED = 0.75
FINER = (1, 100)  # classes are divided into so many
RUNS = "runs.jsonl"


class Cell(NamedTuple):
    deviation: str
    bias: float
    lrn: str
    rate: float
    finer: int  # each class of the data is divided into so many, by brightness


class Task(NamedTuple):
    """What all cells are trained on, and for how long."""

    small: Config  # of the network that is trained: sizes, data, batch, steps; its start is the cell's
    pixels: np.ndarray  # [N, H, W, 3] uint8
    labels: np.ndarray  # [N] int32
    dataset: Dataset


def grid(seeds: int) -> list[tuple[Cell, int]]:
    """All cells with each seed: every cell once, then those near the paper's before others with more seeds."""
    levels = (DEVIATIONS, BIASES, LRNS, RATES, FINER)
    distance = {
        cell: LRNS.index(cell.lrn) + RATES.index(cell.rate) for cell in map(Cell._make, itertools.product(*levels))
    }
    return sorted(itertools.product(distance, range(seeds)), key=lambda run: (run[1] > 0, distance[run[0]] + run[1]))


def open_task(data: str, scale: str) -> Task:
    """Read the images that cells are trained on: those of a prepared folder, or if `data` is "", handwritten digits.

    Scale "full" trains the full network itself, "smoke" the small one for some steps.
    """
    values = config_files.load("scales:full_start" if scale == "full" else "scales:small_start")
    if data:
        values.data.directory, values.model.num_classes = data, len(manifest.read(Path(data)).classes)
    else:
        values.data.update(source="digits", train_examples=0)
    if scale == "smoke":
        values.data.train_examples = 64
        values.train.update(max_steps=4, log_every_steps=2)
    small = config_files.parse(values)
    dataset = run_data.of_config(small)
    split = dataset.splits[small.data.train_split]
    chosen = spread(split, min(small.data.train_examples or len(split.labels), len(split.labels)))
    pixels = np.empty((len(chosen.labels), split.size, split.size, 3), np.uint8)
    for i, problem in chosen.read(np.arange(len(pixels)), pixels).items():
        raise UserError(f"{chosen.name(i)}: {problem}; prepare the data again")
    return Task(small, pixels, np.asarray(chosen.labels), dataset)


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


def finer_labels(task: Task, finer: int) -> np.ndarray:
    """Labels [N] in which each class is divided into `finer` of equal size, from its darkest images to its brightest.

    A network can learn them from the start: class and brightness are both in the picture.
    """
    brightness = task.pixels.mean(axis=(1, 2, 3))
    order = np.lexsort((brightness, task.labels))
    first = np.searchsorted(task.labels[order], task.labels)  # where the class begins in that order
    rank = np.argsort(order) - first
    count = np.bincount(task.labels)[task.labels]
    return (task.labels * finer + rank * finer // count).astype(np.int32)


@functools.cache
def _train_step(config: Config, steps_per_epoch: int) -> Any:
    return steps.make_train_step(config, sharding.make_mesh(1, 1, config.model.towers), steps_per_epoch)


def follow(cell: Cell, seed: int, task: Task) -> dict[str, Any]:
    """Train a cell: its outcome, when it started, and the mean loss of every `train.log_every_steps` steps.

    outcome: "started" once the mean loss of so many steps is below that of guessing by the rule of log_lines; "stuck"
    if that has not happened within train.max_steps; "diverged" if a loss is not finite.
    """
    classes, window = task.small.model.num_classes, task.small.train.log_every_steps
    config = shrunk(full_config(cell, classes), task.small)
    labels = finer_labels(task, cell.finer)
    order = Order(len(labels), config.train.batch_size, seed)
    # One program for all cells of a normalization, a number of classes and a seed: the start is no part of it.
    alike = cell._replace(deviation=DEVIATIONS[0], bias=BIASES[0], rate=RATES[0])
    common = shrunk(full_config(alike, classes), task.small).model_copy(update={"seed": seed})
    train_step, mesh = _train_step(common, order.steps_per_epoch), sharding.make_mesh(1, 1, config.model.towers)
    placed = sharding.of_state(steps.abstract_state(common, mesh), mesh, config.mesh.fc_sharding)
    state = jax.device_put(steps.random_state(config, seed), placed)
    rates = optim.rates(config, config.model.layers(), 0, optim.Validation())
    statistics = sharding.put(task.dataset.statistics(), mesh, sharding.REPLICATED)
    recent: collections.deque[float] = collections.deque(maxlen=window)
    means, outcome, step, begun = [], "stuck", 0, time.process_time()
    while outcome == "stuck" and step < config.train.max_steps:
        index, mask = order.batch(step)
        batch = sharding.put(Batch(task.pixels[index], labels[index], index, mask), mesh, sharding.EXAMPLES)
        state, report = train_step(state, batch, rates, statistics, sharding.votes(False, mesh))
        recent.append(float(report.loss))
        step, mean = step + 1, float(np.mean(recent))
        if step % window == 0:
            means.append(round(mean, 4))
        if not math.isfinite(recent[-1]):
            outcome = "diverged"
        elif step >= window and mean < math.log(config.model.num_classes) and not log_lines.is_guessing(config, mean):
            outcome = "started"
    seconds = round(time.process_time() - begun, 1)
    return {**cell._asdict(), "seed": seed, "outcome": outcome, "step": step, "losses": means, "cpu_seconds": seconds}


def carry_out(task: Task, runs: list[tuple[Cell, int]], directory: Path, budget: float) -> list[dict[str, Any]]:
    """The results of `runs`, by `follow`. Those in `directory` already are kept; each new one is written at once.

    None is started once all have used `budget` hours of a core. Raises UserError if `directory` holds other runs, and
    Interrupted on a signal, with the run that was going on finished.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / RUNS
    head = {"data": task.dataset.fingerprint, "config": task.small.model_dump(mode="json", exclude={"data"})}
    lines: list[dict] = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else [head]
    if lines[0] != json.loads(json.dumps(head)):
        raise UserError(f"{path} holds runs on other data or of another config; give another --output")
    results = {(cell_of(line), line["seed"]): line for line in lines[1:]}
    with stop_signals() as asked:
        for run in runs:
            if run not in results and sum(line["cpu_seconds"] for line in results.values()) < 3600 * budget:
                results[run] = follow(*run, task)
                write_text(path, "".join(json.dumps(line) + "\n" for line in (head, *results.values())))
                print(f"{len(results)} of {len(runs)}: {_describe(results[run])}", flush=True)
            if asked():
                raise Interrupted(f"finished runs are kept in {directory}; repeat the command to continue")
    return [results[run] for run in runs if run in results]


def cell_of(result: dict[str, Any]) -> Cell:
    return Cell._make(result[key] for key in Cell._fields)


def _describe(result: dict[str, Any]) -> str:
    cell = cell_of(result)
    values = f"deviations {cell.deviation}, biases {cell.bias:g}, LRN {cell.lrn}, rate {cell.rate:g}, x{cell.finer}"
    return f"{values}, seed {result['seed']}: {result['outcome']} at step {result['step']}"
