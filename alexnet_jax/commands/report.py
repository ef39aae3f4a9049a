"""A page about runs, DIR/report.html: alexnet report --workdir DIR [DIR ...]

Results, curves, and the paper's figures and tables, of what was trained here: the architecture, the kernels of
conv1, predictions, nearest images, what units respond to. One file that needs no other. Curves and results are of
all the runs; what shows one network shows that of the first.
"""

import argparse
from pathlib import Path

from alexnet_jax.paper import page, runs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workdir", type=Path, required=True, nargs="+", metavar="DIR", help="folders of runs of alexnet_jax.main"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="the page (default: report.html in the first DIR)")
    parser.add_argument("--data", help="folder of the first run's prepared data, if it has moved since training")


def run(arguments: argparse.Namespace) -> None:
    opened = runs.open_runs(arguments.workdir)
    output = arguments.output or arguments.workdir[0] / "report.html"
    output.write_text(page.render(opened, arguments.data), encoding="utf-8")
    print(f"wrote {output}")
