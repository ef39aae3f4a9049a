"""The page: its sections, each left out with the reason where what it needs is not at hand."""

import importlib.resources
from collections.abc import Callable

import jinja2

from alexnet_jax import errors
from alexnet_jax.paper import architecture, curves, examples, kernels, tables, units
from alexnet_jax.paper.figures import Details, Section, Text
from alexnet_jax.paper.images import Network, open_network
from alexnet_jax.paper.runs import Run
from alexnet_jax.run import config_files

OF_IMAGES: list[tuple[str, str, Callable[[Network], Section]]] = [
    ("figure4-left", "Figure 4, left: predictions", examples.figure4_left),
    ("figure4-right", "Figure 4, right: nearest images", examples.figure4_right),
    ("units", "What units of conv3 and conv5 respond to", units.respond),
]


def sections(runs: list[Run], data: str | None) -> list[Section]:
    """All sections. What shows one network shows that of the first run; `data` is the folder of its data, if given."""
    first = runs[0]
    return [
        curves.results(runs),
        curves.learning(runs),
        curves.figure1(runs),
        architecture.figure2(first.finished.config.model, first.name),
        kernels.figure3(runs),
        *_of_images(first, data),
        tables.tables(runs),
        _configs(runs),
    ]


def _of_images(run: Run, data: str | None) -> list[Section]:
    try:
        network = open_network(run, data)
    except errors.UserError as error:
        if data is not None:  # given for nothing else, so the user is to know
            raise
        return [Section(id_, title, [Text(f"Left out: {error}.")]) for id_, title, _ in OF_IMAGES]
    found = []
    for id_, title, make in OF_IMAGES:
        try:
            found.append(make(network))
        except errors.UserError as error:
            found.append(Section(id_, title, [Text(f"Left out: {error}.")]))
    return found


def _configs(runs: list[Run]) -> Section:
    texts = [Details(f"config.json of {run.name}", config_files.to_json(run.finished.config)) for run in runs]
    return Section("config", "Config", list(texts))


def render(runs: list[Run], data: str | None) -> str:
    """The page as HTML."""
    text = importlib.resources.files("alexnet_jax.paper").joinpath("report.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    first = runs[0]
    towers = first.finished.config.model.towers
    return environment.from_string(text).render(
        title=", ".join(run.name for run in runs),
        about=f"{first.name}: {towers} tower{'s' if towers > 1 else ''}, step {first.step:,}."
        + (" Where one network is shown, it is that of this run." if len(runs) > 1 else ""),
        sections=sections(runs, data),
    )
