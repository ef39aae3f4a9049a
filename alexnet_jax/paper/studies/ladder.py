"""The study of what came after 2012: the paper's network, and one change after the other; and questions beside it.

Errors are of the centre view, so that a change is not mixed with what ten views hide.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from alexnet_jax.paper import report
from alexnet_jax.paper.studies import arms, judging, study_files, trials
from alexnet_jax.paper.studies.arms import Arm, Setting
from alexnet_jax.paper.studies.claim_effects import compared, completed, errors
from alexnet_jax.paper.studies.trials import Results, Trial

DECAY = "optim.weights.weight_decay"


class Rung(NamedTuple):
    """A network, compared with another one."""

    name: str
    before: str  # the rung it is compared with; "": none
    words: str
    reference: str  # arXiv number
    variants: tuple[str, ...]  # those that it adds to the rung before
    question: str = ""  # what a row beside the ladder asks
    changes: tuple[tuple[str, float], ...] = ()


LADDER = (
    Rung("paper", "", "the paper", "", ("paper_start",)),
    Rung("he", "paper", "He start, zero biases", "1502.01852", ("he",)),
    Rung("grey_levels", "he", "conv1's start and rate for inputs of 0..255", "", ("grey_levels",)),
    Rung("no_lrn", "grey_levels", "no local response normalization", "1409.1556", ("no_lrn",)),
    Rung("batch_norm", "no_lrn", "batch normalization", "1502.03167", ("batch_norm",)),
    Rung("one_tower", "batch_norm", "one tower", "1404.5997", ("one_tower",)),
    Rung("cosine", "one_tower", "cosine schedule with warm-up", "1608.03983", ("cosine",)),
    Rung("label_smoothing", "cosine", "label smoothing", "1512.00567", ("label_smoothing",)),
    Rung("resized_crops", "label_smoothing", "random resized crops", "1409.4842", ("resized_crops",)),
    Rung("adamw", "resized_crops", "AdamW in place of momentum", "1711.05101", ("adamw",)),
    Rung("nesterov", "resized_crops", "or Nesterov's momentum", "1212.0901", ("nesterov",)),
    Rung("ema", "nesterov", "average of the weights", "1512.00567", ("ema=0.99",)),
)
QUESTIONS = (
    Rung("bias_one", "grey_levels", "biases of 1", "", ("bias=1",), "Biases of 0 or of 1?"),
    Rung("narrow", "grey_levels", "half the width", "", ("width=0.5",), "Width or depth?"),
    Rung("shallow", "grey_levels", "without conv4", "", ("without=conv4",), "Width or depth?"),
    Rung("decay", "grey_levels", "no dropout, ten times the weight decay", "", ("no_dropout",),
        "Dropout as weight decay?", ((DECAY, 0.005),),
    ),
    Rung("paper_adamw", "paper", "AdamW from the paper's start", "1711.05101", ("adamw",), "SGD or Adam?"),
)  # fmt: skip
ROWS = {rung.name: rung for rung in (*LADDER, *QUESTIONS)}


def arm(rung: Rung) -> Arm:
    """A rung adds to the variants of all rungs below it."""
    variants, below = rung.variants, rung.before
    while below:
        variants, below = ROWS[below].variants + variants, ROWS[below].before
    return Arm("network", variants, rung.changes)


def plan(setting: Setting, results: Results) -> list[Trial]:
    """Every rung with each seed, from the paper up; then the questions."""
    able = [rung for rung in ROWS.values() if not arms.obstacle(setting, arm(rung))]
    return [_trial(setting, rung, seed) for rung in able for seed in range(setting.seeds)]


def _trial(setting: Setting, rung: Rung, seed: int) -> Trial:
    return arms.trial(setting, f"ladder-{rung.name}", arm(rung), seed, views=(1,))


def tables(setting: Setting) -> tuple[str, list[Path]]:
    """The ladder's table, Markdown, from the finished runs, and the files: ladder.md, .json and .svg, runs.json.

    The figure also shows the ladders of other scales and data whose folders lie beside the setting's.
    """
    results = trials.finished(lambda results: plan(setting, results), setting.directory)
    rows = [_row(setting, rung, results) for rung in ROWS.values()]
    judging.correct(rows)
    text = report.template("ladder.md.j2").render(
        setting=setting, rows=rows, cost=trials.cost(results), trained_on=arms.describe(setting, Arm("network"))
    )
    files = [path for path in setting.directory.parent.glob("*/ladder.json") if path.parent != setting.directory]
    ladders = {setting.directory.name: rows} | {
        path.parent.name: json.loads(path.read_text()) for path in sorted(files)
    }
    return text, study_files.write(setting.directory, "ladder", text, rows, {"ladder": figure(ladders)})


def _row(setting: Setting, rung: Rung, results: Results) -> dict:
    row = {**rung._asdict(), "variants": "+".join(arm(rung).variants), "interval": None, "difference": "-", "p": None}
    own, before = (errors(completed(setting, f"ladder-{name}", results), "views1") for name in (rung.name, rung.before))
    if not own:
        return row | {"error": arms.obstacle(setting, arm(rung)) or "no run has reached its end"}
    return row | compared(own, before)


def figure(ladders: dict[str, list[dict]]) -> Figure:
    """The rungs' errors with their intervals, a line for each ladder: {scale and data: rows}."""
    drawn = Figure(figsize=(report.WIDTH, 4), layout="constrained")
    axes = drawn.subplots()
    for number, (name, rows) in enumerate(ladders.items()):
        intervals = [(rung, row["interval"]) for rung, row in enumerate(rows[: len(LADDER)]) if row["interval"]]
        if intervals:
            places = [rung + 0.1 * number for rung, _ in intervals]
            mean, low, high = np.transpose([interval for _, interval in intervals])
            axes.errorbar(places, mean, [mean - low, high - mean], fmt="o", capsize=3, color=f"C{number}", label=name)
    axes.set_xticks(range(len(LADDER)), [rung.name for rung in LADDER], rotation=30, ha="right")
    axes.set(ylabel="top-1 error, %", ylim=(0, None))
    axes.grid(alpha=0.3)
    if axes.containers:
        axes.legend()
    return drawn
