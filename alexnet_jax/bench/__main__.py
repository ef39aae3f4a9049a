"""Measures speed: python -m alexnet_jax.bench input --data DIR"""

import argparse
import sys

from alexnet_jax import errors
from alexnet_jax.bench import input as input_
from alexnet_jax.bench import prepare, results, scale, step, train

# A measurement is one module with add_arguments(parser) and run(arguments), and one line here.
MEASUREMENTS = {"input": input_, "prepare": prepare, "results": results, "scale": scale, "step": step, "train": train}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m alexnet_jax.bench", description=__doc__)
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
    arguments = parser.parse_args()
    sys.exit(errors.exit_code(lambda: arguments.run(arguments)))


if __name__ == "__main__":
    main()
