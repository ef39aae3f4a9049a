"""Write a report on runs, DIR/report.html: alexnet report --workdir DIR [DIR ...]

It holds results, learning curves, and the paper's figures and tables for these runs: the architecture, the kernels of
conv1, predictions, nearest images, and what units respond to; and, for several runs or one that keeps checkpoints along
the way (train.keep_every_steps), how similar the representations of layers, runs, towers and steps are, which needs
rsatoolbox: pip install "alexnet_jax[features]". It is a single self-contained file. Results, curves and similarities
cover all runs; sections about a single network show the first run's.
"""

import argparse
import os
import urllib.parse
from pathlib import Path

from alexnet_jax.errors import UserError, check_writable
from alexnet_jax.paper import page
from alexnet_jax.paper.report import open_runs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=Path, required=True, nargs="+", metavar="DIR", help="folders of trained runs")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the page (default: report.html in the first DIR)")
    parser.add_argument("--data", help="folder of the first run's prepared data, if it has moved since training")
    link = "the first run's explorer, which `alexnet export --explorer` wrote, for a link to it"
    parser.add_argument("--explorer", type=Path, metavar="FOLDER", help=link)
    images = "evaluation images, drawn at random, on which representations are compared (default: %(default)s)"
    parser.add_argument("--images", type=int, default=page.IMAGES, metavar="N", help=images)


def run(arguments: argparse.Namespace) -> None:
    if arguments.images < 3:
        raise UserError(f"--images {arguments.images} is too few to compare representations; give 3 or more")
    output = arguments.output or arguments.workdir[0] / "report.html"
    explorer = arguments.explorer and arguments.explorer / "index.html"
    if explorer and not explorer.is_file():
        raise UserError(
            f"{arguments.explorer} is no explorer; make one by `alexnet export --explorer`, or leave it out"
        )
    link = explorer and urllib.parse.quote(os.path.relpath(explorer, output.parent))
    check_writable(output if output.exists() else output.parent, "give another file as --output")
    html = page.render(open_runs(arguments.workdir), arguments.data, arguments.images, link)
    output.write_text(html, encoding="utf-8")
    print(f"wrote {output}")
