"""The files of a study: its table, in Markdown and as JSON, the results of its runs, and its figures."""

import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from alexnet_jax.data.files import write_text
from alexnet_jax.paper.studies.trials import RUNS, recorded


def write(directory: Path, name: str, text: str, rows: list[dict[str, Any]], figures: dict[str, Figure]) -> list[Path]:
    """Write NAME.md, NAME.json, FIGURE.svg, and runs.json of all runs in the folder. Returns the files."""
    directory.mkdir(parents=True, exist_ok=True)
    runs = [json.dumps({"run": run, **result}) for run, result in sorted(recorded(directory).items())]
    texts = {
        f"{name}.md": text,
        f"{name}.json": json.dumps(rows, indent=2) + "\n",
        RUNS: "[\n" + ",\n".join(runs) + "\n]\n",
    }
    for file, content in texts.items():
        write_text(directory / file, content)
    for figure_name, figure in figures.items():
        figure.savefig(directory / f"{figure_name}.svg", metadata={"Date": None})
    return [directory / file for file in (*texts, *(f"{figure}.svg" for figure in figures))]
