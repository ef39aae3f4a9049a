"""Make a workdir from the weights in a file: .safetensors, .pth, .onnx, .caffemodel or .msgpack (Flax).

Files and folders that `alexnet export` wrote need only --workdir, and come back bit for bit. For another program's
network, --config supplies what its file does not state, such as strides, and --pixels says what it expects of images.
"""

import argparse
from pathlib import Path

from tabulate import tabulate

from alexnet_jax.interop import files, foreign, networks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="the weights, or a folder that `alexnet export` wrote")
    add("--workdir", type=Path, required=True, help="the workdir to make")
    add("--config", help="for another program's network, such as variants:caffe or variants:one_weird_trick")
    pixels = "what it expects: RGB in 0..255, torchvision's or CIFAR's normalization, or Caffe's BGR minus its mean"
    add("--pixels", choices=foreign.PREPROCESSING, help=pixels)
    add("--mean", help="R,G,B or B,G,R, in the network's order and scale, instead of the usual mean")
    add("--classes", type=Path, help="file with a class name on each line, or folder of prepared data")


def run(arguments: argparse.Namespace) -> None:
    network, rows = files.imported(
        arguments.file, arguments.config, arguments.pixels, arguments.mean, arguments.classes
    )
    networks.to_workdir(network, arguments.workdir)
    if rows:
        print(tabulate(rows, ("here", "there", "shape", "what was done"), disable_numparse=True))
    count, towers = networks.parameters(network), network.config.model.towers
    print(f"{arguments.workdir}: {count:,} parameters, {len(network.classes)} classes, {towers} tower(s)")
