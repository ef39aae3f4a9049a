"""Write the features of images to a netCDF file, or find the most similar images in such a file (paper 6.1):

    alexnet features IMAGE... --workdir DIR [DIR ...] --output FILE.nc
    alexnet features --split val --workdir DIR --layers all --pool mean --steps all --output FILE.nc
    alexnet features IMAGE... --workdir DIR --neighbours 6 --of FILE.nc

Features are the outputs of layers for the centre crop, after all that follows a layer (activation, normalization,
pooling) and without dropout, in float32; those of fc8 are logits. The file holds features [network, presentation,
neuroid] with the coordinates run and step; stimulus_id, example and, for a split, label; layer, tower, y, x and
channel. `xarray.open_dataarray` reads it. Neighbours are exact, by Euclidean distance.
"""

import argparse
import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from alexnet_jax.data.datasets import given, split_of
from alexnet_jax.data.records import Images
from alexnet_jax.errors import UserError
from alexnet_jax.inference import activations, feature_store, network
from alexnet_jax.inference.network import Bad, Network
from alexnet_jax.run import workdir


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("images", nargs="*", type=Path, metavar="IMAGE", help="file, or folder of files at any depth")
    add("--split", help="split of the first run's data, instead of IMAGEs")
    add("--data", help="folder of the prepared data, if it has moved since training")
    add("--workdir", type=Path, required=True, nargs="+", metavar="DIR", help="folders of runs")
    add(
        "--steps",
        help="0 (the untrained network) or steps of checkpoints, such as 0,1000, or all (default: the newest)",
    )
    add("--layers", help="such as conv1,fc6, or all (default: the last one before fc8, or those of the file --of)")
    pools = "features of convolutional layers: each, or the mean or the largest of each map (default: none)"
    add("--pool", choices=activations.POOLS, help=pools)
    add("--output", type=Path, metavar="FILE", help="write the features to FILE.nc")
    add("--neighbours", type=int, metavar="K", help="print the K nearest images of the file --of")
    add("--of", type=Path, metavar="FILE", dest="index", help="file that --output wrote")


def run(arguments: argparse.Namespace) -> None:
    _check(arguments)
    networks = _networks(arguments.workdir, arguments.steps)
    name, net = next(networks)
    images: Images = (
        split_of(net.dataset(arguments.data), arguments.split, "--split")
        if arguments.split
        else given(arguments.images, net.config.data.size)
    )
    if arguments.index:
        bad = _print_neighbours(arguments, net, images)
    else:
        options = arguments.layers, arguments.pool or "none", bool(arguments.split)
        chosen = itertools.chain([(name, net)], networks)
        shape, bad = feature_store.save(arguments.output, chosen, images, *options)
        print("wrote {}: {} network(s), {} images, {} units".format(arguments.output, *shape))
    if bad and not arguments.split:
        listed = feature_store.listed(bad, images)
        raise UserError(f"{len(bad)} of {len(images.labels)} images cannot be read: {listed}")
    for i, problem in sorted(bad.items()):
        print(f"bad record: image {i}, {images.name(i)}, {problem}; it is left out", file=sys.stderr)


def _networks(directories: list[Path], steps: str | None) -> Iterator[tuple[str, Network]]:
    """Open each run at each step, one by one, with the name of the run. Looks for all of them first."""
    wanted = [
        (name, directory, step)
        for name, directory in zip(workdir.names(directories), directories, strict=True)
        for step in _steps(directory, steps)
    ]
    return ((name, network.open_workdir(directory, step)) for name, directory, step in wanted)


def _steps(directory: Path, steps: str | None) -> list[int] | list[None]:
    workdir.open_finished(directory)
    if steps is None:
        return [None]
    if steps != "all":
        return [int(step) for step in steps.split(",")]
    if not (saved := workdir.saved_steps(directory)):
        raise UserError(f"--steps all: {directory} holds no checkpoints; give another --workdir, or --steps 0")
    return saved


def _print_neighbours(arguments: argparse.Namespace, net: Network, images: Images) -> Bad:
    """Print the images of the file --of that are nearest to each image. Returns those that cannot be read."""
    saved, bad, max_bad = feature_store.open_saved(arguments.index), Bad(), None if arguments.split else 1.0
    layers = activations.layers_of(net.config, arguments.layers or ",".join(saved.layers))
    if net.identity not in saved.networks or not {*layers} <= {*saved.layers}:
        raise UserError(
            f"{arguments.index} has no features of {', '.join(layers)} of {arguments.workdir[0]} at step {net.step}; "
            "write them with --output"
        )
    if arguments.neighbours > len(saved.names):
        raise UserError(f"{arguments.index} holds only {len(saved.names)} images; give no more as --neighbours")
    queries = (
        (images.name(i), vector)
        for example, _, _, vectors in net.over(images, net.features_step(",".join(layers), saved.pool), max_bad, bad)
        for i, vector in zip(example.tolist(), vectors, strict=True)
    )
    number = saved.networks.index(net.identity)
    for name, nearest in feature_store.neighbours(queries, lambda: saved.blocks(number, layers), arguments.neighbours):
        print(name)
        for i, distance in nearest:
            print(f"  {distance:12.6g}  {saved.names[i]}{f'  ({saved.labels[i]})' if saved.labels else ''}")
    return bad


def _check(arguments: argparse.Namespace) -> None:
    if bool(arguments.images) == bool(arguments.split):
        raise UserError("give either images (files or folders), before --workdir, or --split NAME, a split of the data")
    if arguments.data and not arguments.split:
        raise UserError("--data gives the folder of --split's data; leave it out, or give --split instead of images")
    if not re.fullmatch(r"all|\d+(,\d+)*", arguments.steps or "all"):
        raise UserError(
            f"--steps {arguments.steps} are no steps; give numbers separated by commas, such as 0,1000, or all"
        )
    if bool(arguments.output) == (arguments.neighbours is not None):
        raise UserError("give either --output FILE.nc, to write features, or --neighbours K --of FILE.nc")
    if bool(arguments.index) != (arguments.neighbours is not None):
        raise UserError("--neighbours K and --of FILE.nc go together; give both")
    if arguments.neighbours is not None and arguments.neighbours < 1:
        raise UserError(f"--neighbours {arguments.neighbours} is too few; give 1 or more")
    if arguments.index and (len(arguments.workdir) > 1 or not (arguments.steps or "0").isdecimal()):
        raise UserError("--neighbours takes one network; give one --workdir and at most one of --steps")
    if arguments.index and arguments.pool:
        raise UserError("--pool is that of the file --of; leave it out")
    feature_store.check_path(arguments.output or arguments.index)
