"""Compare a config with the paper: parameters, neurons, arithmetic and traffic between the towers, layer by layer.

Our numbers are computed from the config and the shapes of the network; only --images initializes parameters.
--compare prints instead, as a table in Markdown, all in which several configs differ.
"""

import argparse
from pathlib import Path

from tabulate import tabulate

from alexnet_jax.paper import facts
from alexnet_jax.run import config_files


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", default="paper", help="a config file, or the name of one (default: paper)")
    about = f"also measure how well the untrained network distinguishes {facts.MAX_IMAGES} images of this folder"
    parser.add_argument("--images", type=Path, metavar="DIR", help=about)
    about = "configs to compare with each other, such as paper variants:caffe"
    parser.add_argument("--compare", nargs="+", metavar="CONFIG", help=about)


def run(arguments: argparse.Namespace) -> None:
    if arguments.compare:
        configs = {name: config_files.parse(config_files.load(name)) for name in arguments.compare}
        print(tabulate(facts.comparison(configs), ("", *configs), "github", disable_numparse=True))
        return
    config = config_files.parse(config_files.load(arguments.config))
    print(f"{arguments.config}, for one image; link bytes are forward, and there are as many backward\n")
    sides = ("left", *["right"] * (len(facts.HEAD) - 1))
    print(tabulate(facts.table(config), facts.HEAD, "plain", intfmt=",", missingval="-", colalign=sides), end="\n\n")
    rows = facts.statements(config)
    print(tabulate(rows, ("", "here", "the paper"), "plain", disable_numparse=True, colalign=("left", "right", "left")))
    if arguments.images:
        images = facts.read(arguments.images, config.data.size)
        std, magnitude = facts.signal_at_start(config, images, config.seed)
        print(f"\nlogits of {len(images)} images at the start: ", end="")
        print(f"std over the images {std:.2g}, magnitude {magnitude:.2g}")
