"""Extract feature vectors of images into a file, or find the images in such a file that are most similar (paper 6.1):

    alexnet features --workdir DIR IMAGE... --output FILE.npz
    alexnet features --workdir DIR --split train --output FILE.npz
    alexnet features --workdir DIR IMAGE... --neighbours 6 --of FILE.npz

A vector is the output of the last hidden layer for the centre crop, after the activation and without dropout, with all
towers side by side, in float32. A .npz file holds the arrays names, vectors and, for a split, labels; a .parquet file
the columns name, vector and label. Neighbours are exact, by Euclidean distance.
"""

import argparse
import sys
from pathlib import Path

from alexnet_jax.data.datasets import given, split_of
from alexnet_jax.data.records import Images
from alexnet_jax.errors import UserError
from alexnet_jax.inference import activations, feature_store, network


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=Path, required=True, help="folder of the run")
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE", help="file, or folder of files at any depth")
    parser.add_argument("--split", help="split of the run's data, instead of IMAGEs")
    parser.add_argument("--data", help="folder of the prepared data, if it has moved since training")
    parser.add_argument("--layer", help="such as fc6 (default: the last one before fc8, or that of the file --of)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the vectors to FILE.npz or FILE.parquet")
    parser.add_argument("--neighbours", type=int, metavar="K", help="print the K nearest vectors in the file --of")
    parser.add_argument("--of", type=Path, metavar="FILE", dest="index", help="file that --output wrote")


def run(arguments: argparse.Namespace) -> None:
    _check(arguments)
    saved = feature_store.open_saved(arguments.index) if arguments.index else None
    net = network.open_workdir(arguments.workdir)
    layer = activations.layer_of(net.config, arguments.layer or (saved.about.layer if saved else None))
    about = feature_store.About(layer, net.identity, net.classes)
    images: Images = (
        split_of(net.dataset(arguments.data), arguments.split, "--split")
        if arguments.split
        else given(arguments.images, net.config.data.size)
    )
    bad, max_bad = dict[int, str](), None if arguments.split else 1.0
    parts = (
        feature_store.Named([images.name(i) for i in index.tolist()], label if arguments.split else None, vectors)
        for index, _, label, vectors in net.over(images, net.features_step(layer), max_bad, bad)
    )
    if saved:
        if (saved.about.network, saved.about.layer) != (about.network, about.layer):
            raise UserError(
                f"the vectors in {arguments.index} come from {saved.about.layer} of another network, or from another "
                f"layer than {about.layer} of {arguments.workdir} as it is now, so distances would mean nothing; write "
                "them again with --output"
            )
        if arguments.neighbours > len(saved.names):
            raise UserError(f"{arguments.index} holds only {len(saved.names)} vectors; give no more as --neighbours")
        for name, neighbours in feature_store.neighbours(parts, saved, arguments.neighbours):
            print(name)
            for i, distance in neighbours:
                label = "" if saved.labels is None else f"  ({saved.about.classes[saved.labels[i]]})"
                print(f"  {distance:12.6g}  {saved.names[i]}{label}")
    elif count := feature_store.save(arguments.output, parts, about):
        print(f"wrote {arguments.output}: {count} vectors of {layer}, step {net.step}")
    if bad and not arguments.split:
        listed = "; ".join(f"{images.name(i)}: {problem}" for i, problem in sorted(bad.items()))
        raise UserError(f"{len(bad)} of {len(images.labels)} images cannot be read: {listed}")
    for i, problem in sorted(bad.items()):
        print(f"bad record: image {i}, {images.name(i)}, {problem}; it is left out", file=sys.stderr)


def _check(arguments: argparse.Namespace) -> None:
    if bool(arguments.images) == bool(arguments.split):
        raise UserError("give either images (files or folders) or --split NAME, a split of the run's data")
    if arguments.data and not arguments.split:
        raise UserError("--data gives the folder of --split's data; leave it out, or give --split instead of images")
    if bool(arguments.output) == (arguments.neighbours is not None):
        raise UserError("give either --output FILE.npz, to write the vectors, or --neighbours K --of FILE.npz")
    if bool(arguments.index) != (arguments.neighbours is not None):
        raise UserError("--neighbours K and --of FILE.npz go together; give both")
    if arguments.neighbours is not None and arguments.neighbours < 1:
        raise UserError(f"--neighbours {arguments.neighbours} is too few; give 1 or more")
    if arguments.output:
        feature_store.check_suffix(arguments.output)
