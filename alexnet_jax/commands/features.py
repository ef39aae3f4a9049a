"""Vectors that a trained network makes of images, kept in a file or compared with those of one (paper 6.1):

    alexnet features --workdir DIR IMAGE... --output FILE.npz
    alexnet features --workdir DIR --split train --output FILE.npz
    alexnet features --workdir DIR IMAGE... --neighbours 6 --of FILE.npz

A vector is the output of the last hidden layer for the centre crop: after its activation, without dropout, all
towers side by side, float32. vectors.py describes the files. Neighbours are exact, by Euclidean distance.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from alexnet_jax.data.datasets import split_of
from alexnet_jax.data.files import Files, below
from alexnet_jax.data.records import Images
from alexnet_jax.errors import UserError
from alexnet_jax.inference import feature_store, features
from alexnet_jax.run import workdir

QUERIES = 1024  # images whose neighbours are sought in one pass over the file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=Path, required=True, help="folder of a run of alexnet_jax.main")
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE", help="a file, or a folder with files below it")
    parser.add_argument("--split", help="of the run's own data, instead of IMAGEs")
    parser.add_argument("--data", help="folder of the prepared data, if it has moved since training")
    parser.add_argument("--layer", help="such as fc6 (default: the last before fc8, or that of the file --of)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="to write: FILE.npz or FILE.parquet")
    parser.add_argument("--neighbours", type=int, metavar="K", help="print the K nearest vectors of the file --of")
    parser.add_argument("--of", type=Path, metavar="FILE", help="that --output wrote")


def run(arguments: argparse.Namespace) -> None:
    _check(arguments)
    saved = feature_store.open_saved(arguments.of) if arguments.of else None
    network = features.open_network(arguments.workdir, arguments.layer or (saved.about.layer if saved else None))
    config = network.finished.config
    about = feature_store.About(network.layer, network.identity, network.finished.classes)
    images: Images
    if arguments.split:
        images = split_of(workdir.open_data(network.finished, arguments.data), arguments.split, "--split")
    else:
        images = Files(below(arguments.images), config.data.size)
    bad: dict[int, str] = {}
    parts = features.of_images(network, images, config.data.max_bad if arguments.split else 1.0, bad)
    named = (_named(images, part, labelled=bool(arguments.split)) for part in parts)
    if saved:
        _fits(saved, about, arguments)
        _print_neighbours(named, saved, arguments.neighbours)
    elif count := feature_store.save(arguments.output, named, about):
        print(f"wrote {arguments.output}: {count} vectors of {network.layer}, step {network.step}")
    if bad and not arguments.split:
        listed = "; ".join(f"{images.name(i)}: {what}" for i, what in sorted(bad.items()))
        raise UserError(f"{len(bad)} of {len(images.labels)} images cannot be read: {listed}")
    for i, what in sorted(bad.items()):
        print(f"bad record: image {i}, {images.name(i)}, {what}; it is left out", file=sys.stderr)


def _check(arguments: argparse.Namespace) -> None:
    if bool(arguments.images) == bool(arguments.split):
        raise UserError("give either images, files or folders, or --split NAME of the run's own data")
    if arguments.data and not arguments.split:
        raise UserError("--data says where the data of --split is; leave it out, or give --split instead of images")
    if bool(arguments.output) == (arguments.neighbours is not None):
        raise UserError("give either --output FILE.npz, to keep the vectors, or --neighbours K --of FILE.npz")
    if bool(arguments.of) != (arguments.neighbours is not None):
        raise UserError("--neighbours K and --of FILE.npz go together; give both")
    if arguments.neighbours is not None and arguments.neighbours < 1:
        raise UserError(f"--neighbours {arguments.neighbours} is too few; give 1 or more")
    if arguments.output:
        feature_store.check_suffix(arguments.output)


def _fits(saved: feature_store.Saved, about: feature_store.About, arguments: argparse.Namespace) -> None:
    if (saved.about.network, saved.about.layer) != (about.network, about.layer):
        raise UserError(
            f"the vectors in {arguments.of} are of {saved.about.layer} of another network or layer than {about.layer} "
            f"of {arguments.workdir} as it is now; distances would mean nothing. Write them again with --output"
        )
    if arguments.neighbours > len(saved.names):
        raise UserError(f"{arguments.of} holds {len(saved.names)} vectors; give no more as --neighbours")


def _named(images: Images, part: features.Part, labelled: bool) -> feature_store.Named:
    names = [images.name(i) for i in part.places.tolist()]
    return feature_store.Named(names, images.labels[part.places] if labelled else None, part.features)


def _print_neighbours(parts: Iterator[feature_store.Named], saved: feature_store.Saved, count: int) -> None:
    """Each image's name, and below it distance, name and, where there are labels, class of its neighbours."""
    singles = ((name, vector) for part in parts for name, vector in zip(part.names, part.vectors, strict=True))
    while some := list(itertools.islice(singles, QUERIES)):
        places, distances = feature_store.nearest(np.stack([vector for _, vector in some]), saved.blocks(), count)
        for (name, _), row, apart in zip(some, places.tolist(), distances.tolist(), strict=True):
            print(name)
            for place, distance in zip(row, apart, strict=True):
                label = "" if saved.labels is None else f"  ({saved.about.classes[saved.labels[place]]})"
                print(f"  {distance:12.6g}  {saved.names[place]}{label}")
