"""The runs of the map: cells trained until they have left the loss of guessing, or their steps are over."""

import collections
import contextlib
import functools
import json
import math
import multiprocessing
import os
import time
from collections.abc import Iterable
from multiprocessing.connection import Connection, wait
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
from alexnet_jax.paper.studies import machines
from alexnet_jax.paper.studies.arms import SCALES, Setting
from alexnet_jax.paper.studies.map_cells import BIASES, DEVIATIONS, RATES, Cell, cell_of, full_config, shrunk
from alexnet_jax.run import config_files, log_lines, run_data, start_up
from alexnet_jax.run.stopping import stop_signals
from alexnet_jax.run_config import Config

RUNS = "runs.jsonl"


class Task(NamedTuple):
    """What all cells are trained on, and for how long."""

    small: Config  # of the network that is trained: sizes, data, batch, steps; its start is the cell's
    pixels: np.ndarray  # [N, H, W, 3] uint8
    labels: np.ndarray  # [N] int32
    dataset: Dataset


def open_task(data: str, scale: str) -> Task:
    """Read the images that cells are trained on: those of a prepared folder, or if `data` is "", handwritten digits.

    Scale "full" trains the full network itself, "smoke" the small one for some steps.
    """
    values = config_files.load(SCALES[scale]["start"])
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
    result = {**cell._asdict(), "seed": seed, "outcome": outcome, "step": step, "losses": means}
    return {**result, "cpu_seconds": seconds, "environment": machines.here()}


def carry_out(
    task: Task, setting: Setting, runs: list[tuple[Cell, int]], directory: Path, jobs: int, budget: float
) -> list[dict[str, Any]]:
    """The results of `runs`, by `follow` in `jobs` processes, each on its share of the cores.

    Those in `directory` already are kept; each new one is written at once. None is started once all have used `budget`
    hours of a core. Raises UserError if `directory` holds other runs, and Interrupted on a signal, with the runs that
    were going on finished.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / RUNS
    head = {"data": task.dataset.fingerprint, "config": task.small.model_dump(mode="json", exclude={"data"})}
    lines: list[dict] = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else [head]
    if lines[0] != json.loads(json.dumps(head)):
        raise UserError(f"{path} holds runs on other data or of another config; give another --output")
    results = {(cell_of(line), line["seed"]): line for line in lines[1:]}
    left = [run for run in runs if run not in results]
    free, idle, busy = start_up.shares(jobs), list[Connection](), list[Connection]()
    with stop_signals() as asked, contextlib.ExitStack() as workers:
        while True:
            while left and (idle or free) and not asked() and _hours(results.values()) < budget:
                busy.append(idle.pop() if idle else workers.enter_context(_worker(free.pop(), setting)))
                busy[-1].send(left.pop(0))
            if not busy:
                break
            ready = wait(busy)
            for worker in [worker for worker in busy if worker in ready]:
                busy.remove(worker)
                idle.append(worker)
                result = _received(worker)
                results[cell_of(result), result["seed"]] = result
                write_text(path, "".join(json.dumps(line) + "\n" for line in (head, *results.values())))
                print(f"{len(results)} of {len(runs)}: {_describe(result)}", flush=True)
        if asked():
            raise Interrupted(f"finished runs are kept in {directory}; repeat the command to continue")
    return [results[run] for run in runs if run in results]


def _worker(cores: set[int], setting: Setting) -> Connection:
    """Start a process that answers each (cell, seed) with its result, until the connection is closed."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    start_up.large_pages_for_children()
    context.Process(target=_work, args=(theirs, cores, setting)).start()
    theirs.close()
    return ours


def _work(asked: Connection, cores: set[int], setting: Setting) -> None:
    os.setpgrp()  # Ctrl-C reaches the command alone
    start_up.use_cores(cores)
    task = open_task(setting.data, setting.scale)
    with contextlib.suppress(EOFError):
        while True:
            cell, seed = asked.recv()
            asked.send(follow(cell, seed, task))


def _received(worker: Connection) -> dict[str, Any]:
    try:
        return worker.recv()
    except (EOFError, OSError):
        raise UserError(
            "a process that trained a cell has ended; see above, and repeat the command to continue"
        ) from None


def _hours(results: Iterable[dict[str, Any]]) -> float:
    return sum(result["cpu_seconds"] for result in results) / 3600


def _describe(result: dict[str, Any]) -> str:
    cell = cell_of(result)
    values = f"deviations {cell.deviation}, biases {cell.bias:g}, LRN {cell.lrn}, rate {cell.rate:g}, x{cell.finer}"
    return f"{values}, seed {result['seed']}: {result['outcome']} at step {result['step']}"
