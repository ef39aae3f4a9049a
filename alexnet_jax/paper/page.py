"""The report as one HTML page. A section that lacks what it needs says why it is left out."""

import functools
from collections.abc import Callable, Sequence

import jinja2

from alexnet_jax.errors import UserError
from alexnet_jax.paper import architecture, curves, examples, images, kernels, tables, units
from alexnet_jax.paper.figures import Block, Details, Section
from alexnet_jax.paper.runs import ReportedRun
from alexnet_jax.run import config_files


def render(runs: list[ReportedRun], data: str | None) -> str:
    """Render the page as HTML. Sections about a single network show the first run's, with the data in folder `data`.

    Raises UserError if `data` is given and cannot be opened.
    """
    loader = jinja2.PackageLoader("alexnet_jax", "paper")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    name, network, *_ = runs[0]
    towers = network.config.model.towers
    return environment.get_template("report.html.j2").render(
        title=", ".join(run.name for run in runs),
        about=f"{name}: {towers} tower{'s' if towers > 1 else ''}, step {network.step:,}."
        + (" Sections about a single network show this run's." if len(runs) > 1 else ""),
        sections=_sections(runs, data),
    )


def _sections(runs: list[ReportedRun], data: str | None) -> list[Section]:
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
    ]
    sections = []
    for id_, title, make in contents:
        try:
            sections.append(Section(id_, title, make()))
        except UserError as error:
            sections.append(Section(id_, title, [f"Left out: {error}."]))
    configs = [Details(f"config.json of {run.name}", config_files.to_json(run.network.config)) for run in runs]
    return [*sections, Section("config", "Config", configs)]
