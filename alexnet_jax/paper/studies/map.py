"""The map of when training starts, from runs of map_cells.py: its tables, figure, and what predicts it.

Beside each cell stand the signals of the full network at the start (signals.py), which need no training.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from alexnet_jax.data.datasets import given
from alexnet_jax.data.files import write_text
from alexnet_jax.inference.predictions import interval
from alexnet_jax.paper import signals
from alexnet_jax.paper.signals import Signal
from alexnet_jax.paper.studies import judging, map_cells, map_runs, map_tables
from alexnet_jax.paper.studies.arms import Setting
from alexnet_jax.paper.studies.map_cells import BIASES, DEVIATIONS, FINER, LRNS, RATES, Cell
from alexnet_jax.paper.studies.map_runs import Task
from alexnet_jax.run import starts

Start = tuple[str, float, str]  # deviation, bias, lrn: what the signals depend on
STARTS = "signals.json"


def draw(setting: Setting, jobs: int, budget: float) -> tuple[str, list[Path]]:
    """Train what is missing, and write the map to the setting's folder: its tables in Markdown, and the files written.

    Scale "smoke" trains two cells for some steps. `jobs` processes train at a time. Once runs have used `budget` hours
    of a core, no other is started, and the map is that of the finished ones.
    """
    scale, directory = setting.scale, setting.directory / "map"
    task = map_runs.open_task(setting.data, scale)
    classes = task.small.model.num_classes
    runs = map_cells.grid(setting.seeds, classes)
    if scale == "smoke":
        runs = [run for run in runs if run[0].finer == 1][:2]
    results = map_runs.carry_out(task, setting, runs, directory, jobs, budget)
    cells = aggregate(results)
    known = _signals(task, cells, directory, shrinks=scale == "smoke")
    by_classes = {classes * finer: some for finer in FINER if (some := [c for c in cells if c["finer"] == finer])}
    predictors = [
        {"classes": count, **judge(name, formula, some, known)}
        for count, some in by_classes.items()
        for name, formula in PREDICTORS.items()
    ]
    warned = [{"classes": count, **_warned(some, known, classes)} for count, some in by_classes.items()]
    text = map_tables.text(cells, margins(results), predictors, warned, results, task, setting)
    figure_file, table_file, json_file = (directory / f"map.{ending}" for ending in ("svg", "md", "json"))
    map_tables.figure(cells, classes).savefig(figure_file, metadata={"Date": None})
    write_text(table_file, text)
    content = {
        "cells": cells,
        "margins": margins(results),
        "predictors": predictors,
        "warned": warned,
        "packages": starts.packages(),
    }
    write_text(json_file, json.dumps(content, indent=1) + "\n")
    return text, [table_file, json_file, figure_file]


def aggregate(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each cell: runs, started, diverged, the interval of the share that started, and the steps they took.

    `steps` is their geometric mean, `steps_interval` its 95 % interval (Student's t of the logarithms); None if too few
    have started.
    """
    rows: dict[Cell, list[dict[str, Any]]] = {}
    for result in results:
        rows.setdefault(map_cells.cell_of(result), []).append(result)
    return [{**cell._asdict(), **_summary(several)} for cell, several in rows.items()]


def _summary(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    logs = [math.log(result["step"]) for result in results if result["outcome"] == "started"]
    diverged = sum(result["outcome"] == "diverged" for result in results)
    row = {"runs": len(results), "started": len(logs), "diverged": diverged}
    row |= {"share_interval": interval(len(logs), len(results)), "steps": None, "steps_interval": None}
    if logs:
        row["steps"] = round(math.exp(np.mean(logs)))
    if len(logs) > 2 and np.ptp(logs):
        row["steps_interval"] = [round(math.exp(min(bound, 20.0))) for bound in judging.mean(logs)[1:3]]
    return row


def margins(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each value of each property of cells, over all the runs that have it."""
    levels = zip(Cell._fields, (DEVIATIONS, BIASES, LRNS, sorted(RATES), FINER), strict=True)
    rows = []
    for key, values in levels:
        for value in values:
            if several := [result for result in results if result[key] == value]:
                rows.append({"property": key, "value": value, **_summary(several)})
    return rows


def _signals(task: Task, cells: list[dict[str, Any]], directory: Path, shrinks: bool) -> dict[Start, list[Signal]]:
    """Those of the full network for each start of `cells`, for training images; of the small one if it `shrinks`."""
    path = directory / STARTS
    lines = json.loads(path.read_text()) if path.exists() else []
    known = {tuple(line["start"]): [Signal(*signal) for signal in line["signals"]] for line in lines}
    for start in dict.fromkeys(_start(cell) for cell in cells):
        if start not in known:
            cell = Cell(*start, map_cells.RATES[0], max(cell["finer"] for cell in cells))
            config = map_cells.full_config(cell, task.small.model.num_classes)
            config = map_cells.shrunk(config, task.small) if shrinks else config
            chosen = np.arange(signals.MAX_IMAGES) * len(task.labels) // signals.MAX_IMAGES
            pixels, _ = signals.some(given(list(task.pixels[chosen]), config.data.size))
            labels = map_runs.finer_labels(task, cell.finer)[chosen]
            known[start] = signals.at_start(config, pixels, labels)
            lines = [{"start": key, "signals": value} for key, value in known.items()]
            write_text(path, json.dumps(lines, indent=1) + "\n")
            print(f"signals of the full network: {', '.join(map(str, start))}", flush=True)
    return known


def _start(cell: dict[str, Any]) -> Start:
    return cell["deviation"], cell["bias"], cell["lrn"]


def _steps_of_fc8(signal: list[Signal], rate: float, finer: int) -> float:
    """How fast fc8 alone learns: the rate times the sum of squares, over fc7's units, that tells images apart."""
    hidden = signal[-2]
    return rate * hidden.units * hidden.variation**2 / finer


PREDICTORS: dict[str, Callable[[list[Signal], float, int], float]] = {
    "share of fc7": lambda signal, rate, finer: signal[-2].share,
    "variation of the logits": lambda signal, rate, finer: signal[-1].variation,
    "rate x gradient/kernel of conv1": lambda signal, rate, finer: rate * signal[0].gradient,
    "rate x smallest gradient/kernel": lambda signal, rate, finer: rate * min(s.gradient for s in signal),
    "rate x squared variation of fc7 / classes": _steps_of_fc8,
}


def judge(
    name: str, formula: Callable, cells: list[dict[str, Any]], known: dict[Start, list[Signal]]
) -> dict[str, Any]:
    """How well a number known before training predicts whether most runs of a cell start.

    rank: Spearman's correlation with the share of runs that start. lowest, highest: the bounds between which cells are
    predicted to start, fitted to all of them; accuracy: of bounds that are fitted to all other cells, for each cell;
    always: that of one answer for all.
    """
    predicted = np.array([formula(known[_start(cell)], cell["rate"], cell["finer"]) for cell in cells])
    shares = np.array([cell["started"] / cell["runs"] for cell in cells])
    row = dict.fromkeys(("rank", "lowest", "highest", "accuracy", "always"))
    row = {"predictor": name, "cells": len(cells), **row}
    if len(set(shares)) < 2:  # nothing to predict
        return row
    truth, values = shares > 0.5, np.unique(predicted)
    low, high = (bound.ravel() for bound in np.meshgrid(values, values))
    right = ((predicted >= low[:, None]) & (predicted <= high[:, None])) == truth  # [bounds, cells]
    best = right[
        np.argmax(right.sum(axis=1)[:, None] - right, axis=0), np.arange(len(cells))
    ]  # without the cell itself
    bounds = int(right.sum(axis=1).argmax())
    return row | {
        "rank": float(stats.spearmanr(predicted, shares).statistic),
        "lowest": float(low[bounds]),
        "highest": float(high[bounds]),
        "accuracy": float(best.mean()),
        "always": float(max(truth.mean(), 1 - truth.mean())),
    }


def _warned(cells: list[dict[str, Any]], known: dict[Start, list[Signal]], classes: int) -> dict[str, int]:
    """How many cells `facts --start` warns of, how many of these start in most runs, and the same of the others."""
    counts = {"warned": 0, "of these start": 0, "not warned": 0, "of those start": 0}
    for cell in cells:
        config = map_cells.full_config(map_cells.cell_of(cell), classes)
        warned = bool(signals.remarks(config, known[_start(cell)]))
        counts["warned" if warned else "not warned"] += 1
        counts["of these start" if warned else "of those start"] += cell["started"] > cell["runs"] / 2
    return counts
