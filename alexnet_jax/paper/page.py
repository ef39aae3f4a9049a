"""The report as one HTML page. A section that lacks what it needs says why it is left out."""

import functools
import importlib.resources
from collections.abc import Callable, Sequence

import jinja2

from alexnet_jax.errors import UserError
from alexnet_jax.paper import architecture, curves, examples, images, kernels, tables, units
from alexnet_jax.paper.figures import Block, Details, Section
from alexnet_jax.paper.runs import ReportedRun
from alexnet_jax.run import config_files


def sections(runs: list[ReportedRun], data: str | None) -> list[Section]:
    """Make all sections. Those about a single network show the first run's; `data` is the folder of its data, if given.

    Raises UserError if `data` is given and cannot be opened.
    """
    name, network, *_ = runs[0]
    splits = functools.cache(lambda: images.open_splits(network, data))
    if data is not None:
        splits()
    contents: list[tuple[str, str, Callable[[], Sequence[Block]]]] = [
        ("results", "Results", lambda: curves.results(runs)),
        ("learning", "Learning curves", lambda: curves.learning(runs)),
        ("figure1", "Figure 1: training error rate", lambda: curves.figure1(runs)),
        ("figure2", "Figure 2: the architecture", lambda: architecture.figure2(network.config.model, name)),
        ("figure3", "Figure 3: the kernels of conv1", lambda: kernels.figure3(runs)),
        ("figure4-left", "Figure 4, left: predictions", lambda: examples.figure4_left(network, splits())),
        ("figure4-right", "Figure 4, right: nearest images", lambda: examples.figure4_right(network, splits())),
        ("units", "What units of conv3 and conv5 respond to", lambda: units.patches(network, splits())),
        ("tables", "Tables 1 and 2", lambda: tables.tables(runs)),
        ("config", "Config", lambda: _configs(runs)),
    ]
    return [Section(id_, title, _or_reason(make)) for id_, title, make in contents]


def _or_reason(make: Callable[[], Sequence[Block]]) -> Sequence[Block]:
    try:
        return make()
    except UserError as error:
        return [f"Left out: {error}."]


def _configs(runs: list[ReportedRun]) -> list[Block]:
    return [Details(f"config.json of {run.name}", config_files.to_json(run.network.config)) for run in runs]


def render(runs: list[ReportedRun], data: str | None) -> str:
    """Render the page as HTML; arguments and errors as for `sections`."""
    text = importlib.resources.files("alexnet_jax.paper").joinpath("report.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    first = runs[0]
    towers = first.network.config.model.towers
    return environment.from_string(text).render(
        title=", ".join(run.name for run in runs),
        about=f"{first.name}: {towers} tower{'s' if towers > 1 else ''}, step {first.network.step:,}."
        + (" Sections about a single network show this run's." if len(runs) > 1 else ""),
        sections=sections(runs, data),
    )
