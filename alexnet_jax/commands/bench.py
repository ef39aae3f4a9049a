"""Measure speed: of the input pipeline, of preparation, of training steps, and how they scale over devices."""

import argparse

from alexnet_jax.bench import input as input_
from alexnet_jax.bench import prepare, results, scale, step, train

# A measurement is one module with add_arguments(parser) and run(arguments), and one line here.
MEASUREMENTS = {"input": input_, "prepare": prepare, "results": results, "scale": scale, "step": step, "train": train}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar="|".join(MEASUREMENTS))
    for name, module in MEASUREMENTS.items():
        about = module.__doc__ or ""
        command = commands.add_parser(
            name,
            help=about.splitlines()[0],
            description=about,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
