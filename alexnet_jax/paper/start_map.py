"""The map of when training starts, from runs of training_start.py: its tables, figure, and what predicts it.

Beside each cell stand the signals of the full network at the start (signals.py), which need no training.
"""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from scipy import stats
from tabulate import tabulate

from alexnet_jax.data.datasets import given
from alexnet_jax.data.files import write_text
from alexnet_jax.inference.predictions import interval
from alexnet_jax.paper import signals, training_start
from alexnet_jax.paper.report import WIDTH
from alexnet_jax.paper.signals import Signal
from alexnet_jax.paper.training_start import BIASES, DEVIATIONS, FINER, LRNS, RATES, Cell, Task
from alexnet_jax.run import starts

Start = tuple[str, float, str]  # deviation, bias, lrn: what the signals depend on
STARTS = "signals.json"


def draw(scale: str, data: str, directory: Path, seeds: int, budget: float = math.inf) -> tuple[str, list[Path]]:
    """Train what is missing in `directory`, and write the map there: its tables in Markdown, and the files written.

    `data` is a folder of prepared images; "": handwritten digits. Scale "smoke" trains two cells for some steps. Once
    runs have used `budget` hours of a core, no other is started, and the map is that of the finished ones.
    """
    task = training_start.open_task(data, scale)
    runs = training_start.grid(seeds)
    if scale == "smoke":
        runs = [run for run in runs if run[0].finer == 1][:2]
    results = training_start.carry_out(task, runs, directory, budget)
    cells = aggregate(results)
    known = _signals(task, cells, directory, shrinks=scale == "smoke")
    predictors = [judge(name, formula, cells, known) for name, formula in PREDICTORS.items()]
    text = _text(cells, margins(results), predictors, results, task)
    figure_file, table_file, json_file = (directory / f"map.{ending}" for ending in ("svg", "md", "json"))
    figure(cells, task.small.model.num_classes).savefig(figure_file, metadata={"Date": None})
    write_text(table_file, text)
    content = {"cells": cells, "margins": margins(results), "predictors": predictors, "packages": starts.packages()}
    write_text(json_file, json.dumps(content, indent=1) + "\n")
    return text, [table_file, json_file, figure_file]


def aggregate(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each cell: runs, started, diverged, the interval of the share that started, and the steps they took.

    `steps` is their geometric mean, `steps_interval` its 95 % interval (Student's t of the logarithms); None if too few
    have started.
    """
    rows: dict[Cell, list[dict[str, Any]]] = {}
    for result in results:
        rows.setdefault(training_start.cell_of(result), []).append(result)
    return [{**cell._asdict(), **_summary(several)} for cell, several in rows.items()]


def _summary(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    logs = [math.log(result["step"]) for result in results if result["outcome"] == "started"]
    diverged = sum(result["outcome"] == "diverged" for result in results)
    row = {"runs": len(results), "started": len(logs), "diverged": diverged}
    row |= {"share_interval": interval(len(logs), len(results)), "steps": None, "steps_interval": None}
    if logs:
        row["steps"] = round(math.exp(np.mean(logs)))
    if len(logs) > 2 and np.ptp(logs):
        bounds = stats.ttest_1samp(logs, 0).confidence_interval(0.95)
        row["steps_interval"] = [round(math.exp(min(bound, 20.0))) for bound in bounds]
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
            cell = Cell(*start, training_start.RATES[0], max(FINER))
            config = training_start.full_config(cell, task.small.model.num_classes)
            config = training_start.shrunk(config, task.small) if shrinks else config
            chosen = np.arange(signals.MAX_IMAGES) * len(task.labels) // signals.MAX_IMAGES
            pixels, _ = signals.some(given(list(task.pixels[chosen]), config.data.size))
            labels = training_start.finer_labels(task, cell.finer)[chosen]
            known[start] = signals.at_start(config, pixels, labels)
            lines = [{"start": key, "signals": value} for key, value in known.items()]
            write_text(path, json.dumps(lines, indent=1) + "\n")
            print(f"signals of the full network: {', '.join(map(str, start))}", flush=True)
    return known


def _start(cell: dict[str, Any]) -> Start:
    return cell["deviation"], cell["bias"], cell["lrn"]


# --- What predicts whether a cell starts ---


def _steps_of_fc8(signal: list[Signal], rate: float, finer: int) -> float:
    """The inverse of the steps in which fc8 alone would learn, in units of classes: rate x what tells images apart."""
    hidden = signal[-2]
    return rate * hidden.units * hidden.variation**2 / finer


PREDICTORS: dict[str, Callable[[list[Signal], float, int], float]] = {
    "share of fc7's response that tells images apart": lambda signal, rate, finer: signal[-2].share,
    "variation of the logits": lambda signal, rate, finer: signal[-1].variation,
    "learning rate x smallest gradient / kernel": lambda signal, rate, finer: rate * min(s.gradient for s in signal),
    "learning rate x squared variation of fc7 / classes": _steps_of_fc8,
}


def judge(
    name: str, formula: Callable, cells: list[dict[str, Any]], known: dict[Start, list[Signal]]
) -> dict[str, Any]:
    """How well a number known before training predicts, over the cells without a run that diverged.

    rank: Spearman's correlation with the share of runs that start; accuracy: of the best threshold, "starts if above",
    for whether most runs of a cell start, beside `always`, that of the better of saying yes or no always.
    """
    sound = [cell for cell in cells if not cell["diverged"]]
    predicted = np.array([formula(known[_start(cell)], cell["rate"], cell["finer"]) for cell in sound])
    shares = np.array([cell["started"] / cell["runs"] for cell in sound])
    row = {"predictor": name, "cells": len(sound), "rank": None, "threshold": None, "accuracy": None, "always": None}
    if len(set(shares)) < 2:  # nothing to predict
        return row
    starts_, thresholds = shares > 0.5, np.unique(predicted)
    accuracies = [float(((predicted >= threshold) == starts_).mean()) for threshold in thresholds]
    best = int(np.argmax(accuracies))
    always = float(max(starts_.mean(), 1 - starts_.mean()))
    rank = float(stats.spearmanr(predicted, shares).statistic)
    return row | {"rank": rank, "threshold": float(thresholds[best]), "accuracy": accuracies[best], "always": always}


# --- Tables and figure ---


def _text(cells, rows, predictors, results, task: Task) -> str:
    """The tables in Markdown."""
    classes, train = task.small.model.num_classes, task.small.train
    hours = sum(result["cpu_seconds"] for result in results) / 3600
    head = (
        f"{len(results)} runs of up to {train.max_steps:,} steps of {train.batch_size} of {len(task.labels):,} "
        f"images; {hours:.2f} core-hours. Started: the mean loss of {train.log_every_steps} steps is below guessing's."
    )
    names = {"finer": "classes", "lrn": "LRN", "rate": "learning rate", "bias": "biases", "deviation": "deviation"}
    values = {"finer": lambda value: f"{classes * value:,}"}
    overall = [
        (
            names[row["property"]],
            values.get(row["property"], str)(row["value"]),
            _share(row),
            _interval(row),
            _steps(row),
        )
        for row in rows
    ]
    rates = sorted(RATES)
    table: dict[tuple, dict[float, str]] = {}
    for cell in cells:
        key = (cell["deviation"], f"{cell['bias']:g}", cell["lrn"], f"{classes * cell['finer']:,}")
        table.setdefault(key, {})[cell["rate"]] = f"{_share(cell)}{_steps(cell) and ': ' + _steps(cell)}"
    grid = [(*key, *(entries.get(rate, "-") for rate in rates)) for key, entries in sorted(table.items())]
    numbers = [[_number(value) for value in row.values()] for row in predictors]
    heads = ("", "value", "started", "95 % interval", "steps")
    columns = ("deviation", "biases", "LRN", "classes", *(f"rate {rate:g}" for rate in rates))
    parts = (head, _table(overall, heads), _table(numbers, list(predictors[0])), _table(grid, columns))
    return "\n\n".join(parts) + "\n"


def _table(rows: Iterable[Sequence[str]], heads: Sequence[str]) -> str:
    return tabulate(rows, heads, "github", disable_numparse=True)


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:.2g}" if isinstance(value, float) else str(value)


def _share(row: dict[str, Any]) -> str:
    return f"{row['started']} of {row['runs']}" + (f" ({row['diverged']} diverged)" if row["diverged"] else "")


def _interval(row: dict[str, Any]) -> str:
    return "{:.0%} to {:.0%}".format(*row["share_interval"])


def _steps(row: dict[str, Any]) -> str:
    if row["steps"] is None:
        return ""
    return f"{row['steps']:,}" + (
        "" if row["steps_interval"] is None else " [{:,}, {:,}]".format(*row["steps_interval"])
    )


def figure(cells: list[dict[str, Any]], classes: int) -> Figure:
    """Small multiples: the steps to the start by deviation and biases against learning rate, LRN and classes."""
    rates, starts_ = sorted(RATES), [(deviation, bias) for deviation in DEVIATIONS for bias in BIASES]
    figure = Figure(figsize=(WIDTH, 6.5), layout="constrained")
    panels = figure.subplots(len(FINER), len(LRNS), sharex=True, sharey=True)
    longest = max((math.log10(cell["steps"]) for cell in cells if cell["steps"]), default=3.0)
    shades = Normalize(min((math.log10(cell["steps"]) for cell in cells if cell["steps"]), default=2.0), longest)
    for row, finer in enumerate(FINER):
        for column, lrn in enumerate(LRNS):
            axes = panels[row, column]
            axes.set_title(f"{classes * finer:,} classes, LRN {lrn}", fontsize=8)
            axes.set(xlim=(-0.5, len(rates) - 0.5), ylim=(len(starts_) - 0.5, -0.5))
            axes.set_xticks(range(len(rates)), [f"{rate:g}" for rate in rates], fontsize=7)
            axes.set_yticks(
                range(len(starts_)), [f"{deviation}, bias {bias:g}" for deviation, bias in starts_], fontsize=7
            )
            for cell in cells:
                if (cell["finer"], cell["lrn"]) == (finer, lrn):
                    place = rates.index(cell["rate"]), starts_.index((cell["deviation"], cell["bias"]))
                    _tile(axes, place, cell, shades)
    figure.supxlabel("learning rate", fontsize=8)
    return figure


def _tile(axes, place: tuple[int, int], cell: dict[str, Any], shades: Normalize) -> None:
    """A cell: dark and with many steps if it starts late, white if no seed starts; how many did, unless all or none."""
    import matplotlib

    x, y = place
    text, ink = ("inf" if cell["diverged"] == cell["runs"] else "-"), "black"
    colour: Any = "white"
    if cell["steps"]:
        shade = 1 - float(shades(math.log10(cell["steps"])))
        colour, ink = matplotlib.colormaps["cividis"](shade), "black" if shade > 0.5 else "white"
        text = f"{cell['steps']}" + ("" if cell["started"] == cell["runs"] else f"\n{cell['started']}/{cell['runs']}")
    axes.add_patch(matplotlib.patches.Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor="#999", lw=0.5))
    axes.text(x, y, text, ha="center", va="center", fontsize=6.5, color=ink)
