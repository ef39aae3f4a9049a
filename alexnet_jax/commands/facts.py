"""Compare a config with the paper: parameters, neurons, arithmetic and traffic between the towers, layer by layer.

Our numbers are computed from the config and the shapes of the network; only --images makes parameters.
"""

import argparse
from pathlib import Path

from alexnet_jax.paper.facts import MAX_IMAGES, read, signal_at_start, statements, table
from alexnet_jax.run import config_files


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", default="paper", help="a config file, or a name (default: paper)")
    parser.add_argument(
        "--images", type=Path, help=f"measure the signal at the start of {MAX_IMAGES} images in a folder"
    )


def run(arguments: argparse.Namespace) -> None:
    config = config_files.parse(config_files.load(arguments.config))
    print(f"{arguments.config}, for one image; link bytes are those forward, and there are as many backward\n")
    _print(table(config), "<" + ">" * 7)
    print()
    _print([("", "here", "the paper"), *statements(config)], "<><")
    if arguments.images:
        images = read(arguments.images, config.data.size)
        std, magnitude = signal_at_start(config, images, config.seed)
        print(
            f"\nlogits of {len(images)} images at the start: std {std:.2g} over the images, mean size {magnitude:.2g}"
        )


def _print(rows: list[tuple[str, ...]] | list[tuple[str, str, str]], sides: str) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)]
        print("  ".join(cells).rstrip())
