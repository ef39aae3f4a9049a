"""Compare a config with the paper: parameters, neurons, arithmetic and traffic between the towers, layer by layer.

Our numbers are computed from the config and the shapes of the network. --compare prints instead, as a table in
Markdown, all in which several configs differ; --start, how much of its images the network hands on before training, and
what gradients come back, layer by layer (see docs/stuck.md).
"""

import argparse
from pathlib import Path

from tabulate import tabulate

from alexnet_jax.paper import facts, signals
from alexnet_jax.run import config_files, workdir
from alexnet_jax.run_config import Config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", default="paper", help="a config file, or the name of one (default: paper)")
    parser.add_argument("--workdir", type=Path, help="take the config of this run instead")
    about = f"images for --start: {facts.MAX_IMAGES} below this folder (default: training images, else digits)"
    parser.add_argument("--images", type=Path, metavar="DIR", help=about)
    parser.add_argument("--start", action="store_true", help="measure signals and gradients at the start of training")
    about = "configs to compare with each other, such as paper variants:caffe"
    parser.add_argument("--compare", nargs="+", metavar="CONFIG", help=about)


def run(arguments: argparse.Namespace) -> None:
    if arguments.compare:
        configs = {name: config_files.parse(config_files.load(name)) for name in arguments.compare}
        print(tabulate(facts.comparison(configs), ("", *configs), "github", disable_numparse=True))
        return
    if arguments.workdir:
        config, name = workdir.open_finished(arguments.workdir).config, str(arguments.workdir)
    else:
        config, name = config_files.parse(config_files.load(arguments.config)), arguments.config
    if arguments.start or arguments.images:
        print(_start(config, name, arguments.images))
        return
    print(f"{name}, for one image; link bytes are forward, and there are as many backward\n")
    sides = ("left", *["right"] * (len(facts.HEAD) - 1))
    print(tabulate(facts.table(config), facts.HEAD, "plain", intfmt=",", missingval="-", colalign=sides), end="\n\n")
    rows = facts.statements(config)
    print(tabulate(rows, ("", "here", "the paper"), "plain", disable_numparse=True, colalign=("left", "right", "left")))


def _start(config: Config, name: str, directory: Path | None) -> str:
    """The table of --start and what it says, as text."""
    pixels, labels, source = signals.images(config, directory)
    found = signals.at_start(config, pixels, labels)
    table = tabulate([signal.row for signal in found], signals.HEAD, "plain", disable_numparse=True)
    remarks = signals.remarks(config, found) or ["nothing in it is known to keep training from starting"]
    return f"{name} before training, for {len(pixels)} images ({source})\n\n{table}\n\n" + "\n".join(remarks)
