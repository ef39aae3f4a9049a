"""Measure speed: of the input, of preparation, of training steps; how they scale; what to expect of other hardware."""

import argparse

from alexnet_jax.bench import compile as compile_
from alexnet_jax.bench import input as input_
from alexnet_jax.bench import plan, prepare, results, scale, step, train

# A measurement is one module with add_arguments(parser) and run(arguments), and one entry here.
MEASUREMENTS = {
    "compile": compile_,
    "input": input_,
    "plan": plan,
    "prepare": prepare,
    "results": results,
    "scale": scale,
    "step": step,
    "train": train,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    measurements = parser.add_subparsers(required=True, metavar="|".join(MEASUREMENTS))
    for name, module in MEASUREMENTS.items():
        description = str(module.__doc__)
        subparser = measurements.add_parser(
            name,
            help=description.splitlines()[0],
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
