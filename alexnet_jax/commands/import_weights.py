"""Make a run from the weights in a file: .safetensors, .pth, .onnx, or .caffemodel.

Files that `alexnet export` wrote need only --workdir, and come back bit for bit. For the network of another program
--config says what its file does not, such as strides, and --pixels what it expects to see.
"""

import argparse
from pathlib import Path

from tabulate import tabulate

from alexnet_jax.interop import chains, files, networks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument(
        "--workdir", type=Path, required=True, help="the run to make"
    )
    parser.add_argument("--config", help="of another program's network; variants:caffe or variants:one_weird_trick")
    parser.add_argument(
        "--pixels", choices=chains.PIXELS, help="what it expects: rgb is 0..255; caffe is BGR; each with its usual mean"
    )
    parser.add_argument("--mean", help="R,G,B or B,G,R, in the network's order and scale, instead of the usual mean")
    parser.add_argument("--classes", type=Path, help="file with a class name on each line, or folder of prepared data")


def run(arguments: argparse.Namespace) -> None:
    imported, rows = files.imported(
        arguments.file, arguments.config, arguments.pixels, arguments.mean, arguments.classes
    )
    networks.to_workdir(imported, arguments.workdir)
    if rows:
        print(tabulate(rows, ("here", "there", "shape", "what was done"), disable_numparse=True))
    count = sum(leaf.size for layer in imported.params.values() for leaf in layer.values())
    towers = imported.config.model.towers
    print(f"{arguments.workdir}: {count:,} parameters, {len(imported.classes)} classes, {towers} tower(s)")
