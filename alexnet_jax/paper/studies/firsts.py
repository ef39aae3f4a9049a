"""The study of what a newcomer trains first: the error, time and steps of the configs that the documents start with,
and what the config cifar10 was chosen over.

Fine-tuning is compared with training from scratch on few images of classes that the first network has not seen. For it
the data lies beside DIR in two parts, each with half of the classes: DIR-first and DIR-second.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.data import manifest
from alexnet_jax.paper import report
from alexnet_jax.paper.studies import arms, judging, study_files, trials
from alexnet_jax.paper.studies.arms import Arm, Base, Setting
from alexnet_jax.paper.studies.claim_effects import compared, completed, errors
from alexnet_jax.paper.studies.trials import Results, Trial

IMAGES = 50  # of each class, to fine-tune on


class First(NamedTuple):
    name: str
    base: Base
    part: str = ""  # what the folder of its data adds to DIR
    images: int = 0  # of each class; 0: all
    start: str = ""  # the row whose network it continues
    changes: tuple[tuple[str, Any], ...] = ()  # (key of the config, value)
    against: str = ""  # the row that its error is compared with
    words: str = ""  # of a row of TRIED: what it changes


LONGER = (("train.epochs", 100), ("train.eval_every_epochs", 100), ("optim.schedule.boundaries_epochs", (70, 90)))
ROWS = (
    First("digits", "digits"),
    First("cifar10", "cifar10"),
    First("first-classes", "first_classes", "-first"),
    First("scratch", "few", "-second", IMAGES),
    First("finetune", "few", "-second", IMAGES, "first-classes", against="scratch"),
    First("finetune-longer", "few", "-second", IMAGES, "first-classes", LONGER, "scratch"),
    First("photos-half", "half"),
    First("photos-whole", "whole"),
)
CONV1 = (("model.conv1.init_std", 0.01), ("optim.layers.conv1.lr_multipliers", ((0, 1.0, 1.0),)))
TRIED = (  # what the config cifar10 was chosen over
    First("brief", "brief", words="the config cifar10, for fewer steps"),
    *(
        First(f"brief-{name}", "brief", changes=tuple(changes), against="brief", words=words)
        for name, words, *changes in (
            ("no_dropout", "no dropout", ("model.dropout_rate", 0.0)),
            ("dropout", "the paper's dropout, 0.5", ("model.dropout_rate", 0.5)),
            ("conv1", "conv1's start and rate as in the paper", *CONV1),
            ("pooling", "pooling without the last pixels", ("model.pool.ceil", False)),
            ("batch", "the paper's batches, 128", ("train.batch_size", 128)),
            ("noise", "colour noise by the paper's text", ("augment.colour_noise_scale", "eigenvalue")),
        )
    ),
)


def plan(setting: Setting, results: Results) -> list[Trial]:
    """Every row that the scale and the data allow, with each seed; a row that continues another's network after it."""
    tried = TRIED[:2] if setting.scale == "smoke" else TRIED
    able = [row for row in (*ROWS, *tried) if not _obstacle(setting, row)]
    wanted = [(row, seed) for row in able for seed in range(setting.seeds)]
    ready = [  # of runs that only runs.json has, there is no network to continue
        (row, seed)
        for row, seed in wanted
        if not row.start or (f"{row.start}/seed{seed}" in results and _first_network(setting, row, seed).exists())
    ]
    return [_trial(setting, row, seed) for row, seed in ready]


def _first_network(setting: Setting, row: First, seed: int) -> Path:
    return (setting.directory / row.start / f"seed{seed}").absolute()


def _on(setting: Setting, row: First) -> Setting:
    """The setting with the row's own data; the digits come with the program."""
    data = "" if row.base == "digits" or not setting.data else setting.data + row.part
    return setting._replace(data=data)


def _obstacle(setting: Setting, row: First) -> str:
    own = _on(setting, row)
    if row.part and own.data and not (Path(own.data) / manifest.NAME).is_file():
        return f"needs {Path(own.data).name} beside the data: see docs/reproduce.md, Fine-tuning"
    return arms.obstacle(own, Arm(row.base))


def _trial(setting: Setting, row: First, seed: int) -> Trial:
    return arms.trial(_on(setting, row), row.name, _arm(setting, row, seed), seed, views=(1,))


def _arm(setting: Setting, row: First, seed: int) -> Arm:
    own = _on(setting, row)
    changes = row.changes
    if row.images and own.data:
        changes += (("data.train_examples", row.images * len(manifest.read(Path(own.data)).classes)),)
    start = str(_first_network(setting, row, seed)) if row.start else ""
    return Arm(row.base, changes=changes, start=start)


def tables(setting: Setting) -> tuple[str, list[Path]]:
    """The table, Markdown, from the finished runs, and the files: firsts.md, firsts.json, runs.json."""
    results = trials.finished(lambda results: plan(setting, results), setting.directory)
    # Runs that continue another's network cannot be planned, and so not checked, where only runs.json has that network.
    continuing = {f"{row.name}/seed{seed}" for row in ROWS if row.start for seed in range(setting.seeds)}
    results = {name: run for name, run in trials.recorded(setting.directory).items() if name in continuing} | results
    rows = [{**row._asdict(), **_measured(setting, row, results)} for row in (*ROWS, *TRIED)]
    firsts, tried = rows[: len(ROWS)], rows[len(ROWS) :]
    judging.correct(firsts)
    judging.correct(tried)
    text = report.template("firsts.md.j2").render(
        setting=setting, rows=firsts, tried=tried, cost=trials.cost(results), images=IMAGES
    )
    return text, study_files.write(setting.directory, "firsts", text, rows, {})


def _measured(setting: Setting, row: First, results: Results) -> dict[str, Any]:
    found = completed(setting, row.name, results)
    if not found:
        unknown = dict.fromkeys(("minutes", "busy", "cores", "steps", "trained_on", "difference"), "-")
        return {**unknown, "p": None, "error": _obstacle(setting, row) or "no run has reached its end"}
    others = completed(setting, row.against, results)
    return {
        "minutes": f"{np.mean([result['wall_seconds'] for result in found]) / 60:.1f}",
        "busy": f"{np.mean([result['processor_seconds'] for result in found]) / 60:.1f}",
        "cores": ", ".join(sorted({str(result["environment"]["cores"]) for result in found})),
        "steps": f"{found[0]['steps']:,}",
        "trained_on": _described(setting, row),
        **compared(errors(found, "views1"), errors(others, "views1")),
    }


def _described(setting: Setting, row: First) -> str:
    """What a row is trained on; "-" for one that continues networks of which only runs.json is here."""
    seeds = (seed for seed in range(setting.seeds) if not row.start or _first_network(setting, row, seed).exists())
    seed = next(seeds, None)
    return "-" if seed is None else arms.describe(_on(setting, row), _arm(setting, row, seed))
