"""Write the network of a workdir to a file, in the format that its suffix names:

.safetensors   weights and config
.pth           weights and config, for PyTorch
.onnx          a program from stored pixels to probabilities
.stablehlo     a program with its weights, which JAX runs without this package

All but .stablehlo can be opened by `alexnet_jax.load` and imported again, bit for bit.
"""

import argparse
from pathlib import Path

from alexnet_jax.inference import network
from alexnet_jax.interop import files


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=Path, required=True, help="folder of a run")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="its suffix is one of those above")


def run(arguments: argparse.Namespace) -> None:
    path = arguments.output
    files.export(network.open_workdir(arguments.workdir), path)
    print(f"wrote {path}: {path.stat().st_size / 1e6:,.1f} MB")
