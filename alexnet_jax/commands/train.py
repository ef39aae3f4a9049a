"""Train the network that a config describes. Parsed by main.py, with absl; here only for shell completion."""

import argparse

from absl import flags

from alexnet_jax import main


def add_arguments(parser: argparse.ArgumentParser) -> None:
    for flag in flags.FLAGS.flags_by_module_dict()[main.__name__]:
        parser.add_argument(f"--{flag.name}", help=flag.help)
