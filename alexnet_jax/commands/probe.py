"""Compare a trained network's features with histograms of oriented gradients (HOG) by linear classifiers:

    alexnet probe --workdir DIR --train_split train --eval_split test [--json FILE]

Logistic regression and a linear SVM are trained on the features of the last hidden layer, and a linear SVM on the HOG
of the same centre crops (9 orientations, cells of an eighth of the side in whole pixels, blocks of 2 x 2 cells). All
see the same images, at most --images of each split, drawn at random; all inputs are centred and scaled to a mean
square length of 1. C is chosen from 0.1, 1, 10, 100 and 1000 by the fewest errors on a fifth of the training images;
the classifier is then trained on all of them. Each error comes with its 95 % Wilson interval.
Needs scikit-image: pip install "alexnet_jax[features]".
"""

import argparse
import importlib.util
import json
from pathlib import Path

from tabulate import tabulate

from alexnet_jax.data.datasets import split_of
from alexnet_jax.errors import UserError
from alexnet_jax.inference import activations, network, probe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=Path, required=True, help="folder of the run")
    parser.add_argument("--train_split", help="split to train on (default: the config's)")
    parser.add_argument("--eval_split", help="split to count errors on (default: the config's)")
    most = "most images of each split (default: 10000)"
    parser.add_argument("--images", type=int, default=10_000, metavar="N", help=most)
    parser.add_argument("--data", help="folder of the prepared data, if it has moved since training")
    parser.add_argument("--layers", help="such as fc6, or conv5,fc6 (default: the last one before fc8)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table to FILE")


def run(arguments: argparse.Namespace) -> None:
    if importlib.util.find_spec("skimage") is None:
        raise UserError('the probe needs scikit-image for HOG: pip install "alexnet_jax[features]"')
    net = network.open_workdir(arguments.workdir)
    layers = ",".join(activations.layers_of(net.config, arguments.layers))
    train_split = arguments.train_split or net.config.data.train_split
    eval_split = arguments.eval_split or net.config.data.eval_split
    if train_split == eval_split:
        raise UserError(f"--train_split and --eval_split are both {train_split}; give two different splits")
    if arguments.images < 2 * probe.HELD_OUT:
        raise UserError(f"--images {arguments.images} is too few to train on; give {2 * probe.HELD_OUT} or more")
    dataset = net.dataset(arguments.data)
    train, test = (
        probe.examples(net, split_of(dataset, split, flag), layers, arguments.images)
        for split, flag in ((train_split, "--train_split"), (eval_split, "--eval_split"))
    )
    methods = probe.compare(layers, train, test)
    print(f"{len(train.labels)} images of {train_split} to train on, ", end="")
    print(f"{len(test.labels)} of {eval_split} to count errors on; step {net.step}")
    rows = [
        (
            row["method"],
            row["dimensions"],
            f"{row['top1_error']:.2%}",
            "{:.2%} .. {:.2%}".format(*row["interval"]),
            f"{row['C']:g}",
            "" if row["converged"] else "(not converged)",
        )
        for row in methods
    ]
    headers = ("method", "dimensions", "top-1 error", "95 % interval", "C", "")
    alignment = ("left", *["right"] * 4, "left")
    print(tabulate(rows, headers, tablefmt="plain", colalign=alignment, disable_numparse=True))
    if arguments.json:
        splits = {"train_split": train_split, "eval_split": eval_split}
        counts = {"train_images": len(train.labels), "eval_images": len(test.labels)}
        result = splits | counts | {"step": net.step, "layers": layers, "methods": methods}
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
