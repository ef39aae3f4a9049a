"""The tables and the figure of the map of when training starts."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from tabulate import tabulate

from alexnet_jax.paper.report import WIDTH
from alexnet_jax.paper.studies import machines
from alexnet_jax.paper.studies.arms import Setting
from alexnet_jax.paper.studies.map_cells import BIASES, DEVIATIONS, LRNS, RATES
from alexnet_jax.paper.studies.map_runs import Task

Rows = list[dict[str, Any]]


def text(cells: Rows, rows: Rows, predictors: Rows, warned: Rows, results: Rows, task: Task, setting: Setting) -> str:
    """The tables in Markdown."""
    classes, train = task.small.model.num_classes, task.small.train
    hours = sum(result["cpu_seconds"] for result in results) / 3600
    recorded = [result for result in results if "environment" in result]
    made_on = f"; {len(recorded)} of them on {machines.in_words(recorded)}" if recorded else ""  # older ones lack it
    head = (
        f"Scale {setting.scale}, {setting.seeds} seeds: `alexnet reproduce map --scale {setting.scale} --seeds "
        f"{setting.seeds} --data DATA`. {len(results)} runs of up to {train.max_steps:,} steps of {train.batch_size} "
        f"of {len(task.labels):,} images; {hours:.2f} hours of cores{made_on}. Started: the mean "
        f"loss of {train.log_every_steps} steps is below guessing's."
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
    warnings = [list(map(str, row.values())) for row in warned]
    parts = (
        head,
        _table(overall, heads),
        _table(numbers, list(predictors[0])),
        "Cells that `alexnet facts --start` warns of, and others:",
        _table(warnings, list(warned[0])),
        _table(grid, columns),
    )
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
    figure, finers = Figure(figsize=(WIDTH, 6.5), layout="constrained"), sorted({cell["finer"] for cell in cells})
    panels = figure.subplots(len(finers), len(LRNS), sharex=True, sharey=True, squeeze=False)
    longest = max((math.log10(cell["steps"]) for cell in cells if cell["steps"]), default=3.0)
    shades = Normalize(min((math.log10(cell["steps"]) for cell in cells if cell["steps"]), default=2.0), longest)
    for row, finer in enumerate(finers):
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


def _tile(axes: Axes, place: tuple[int, int], cell: dict[str, Any], shades: Normalize) -> None:
    """A cell: dark and with many steps if it starts late, white if no seed starts; how many did, unless all or none."""
    x, y = place
    text, ink = ("inf" if cell["diverged"] == cell["runs"] else "-"), "black"
    colour: Any = "white"
    if cell["steps"]:
        shade = 1 - float(shades(math.log10(cell["steps"])))
        colour, ink = matplotlib.colormaps["cividis"](shade), "black" if shade > 0.5 else "white"
        text = f"{cell['steps']}" + ("" if cell["started"] == cell["runs"] else f"\n{cell['started']}/{cell['runs']}")
    axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=colour, edgecolor="#999", lw=0.5))
    axes.text(x, y, text, ha="center", va="center", fontsize=6.5, color=ink)
