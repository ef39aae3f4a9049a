"""Write the network of a workdir to a file, in the format that its suffix names, or to a folder:

.safetensors   weights and config
.pth           weights and config, for PyTorch
.onnx          a program from stored pixels to probabilities
.stablehlo     a program with its weights, which JAX runs without this package
FOLDER/        for the Hugging Face Hub: .safetensors, .onnx, and a model card with the errors and the verification

All but .stablehlo can be opened by `alexnet_jax.load` and imported again, bit for bit. With --explorer, write a page
instead that shows the network at work, in any browser, from disk or a web host: alexnet export --explorer FOLDER/
--workdir DIR
"""

import argparse
import re
from pathlib import Path

from alexnet_jax.data import hub
from alexnet_jax.errors import UserError
from alexnet_jax.inference import network
from alexnet_jax.interop import files, model_card


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--workdir", type=Path, required=True, help="folder of a run")
    where = parser.add_mutually_exclusive_group(required=True).add_argument
    where("--output", metavar="FILE", help="its suffix is one of those above; or FOLDER/")
    where("--explorer", type=Path, metavar="FOLDER", help="write a page that shows the network at work")
    add("--data", help="with --explorer: folder of the prepared data, if it has moved since training")
    searched = "with --explorer: most training images to search for what units respond to, of which the folder holds "
    kept = "up to 500 whole; 0: the folder holds no images of the data (default: 2000)"
    add("--images", type=int, default=2000, metavar="N", help=searched + kept)
    add("--push", metavar="USER/NAME", help="push the folder to this model of the Hugging Face Hub, made if missing")
    add("--license", metavar="ID", help="of the weights, for the card, such as cc-by-nc-4.0")
    add("--dataset", metavar="ID", help="the Hub's name of the training data, for the card: ILSVRC/imagenet-1k")


def run(arguments: argparse.Namespace) -> None:
    stated = model_card.Stated(arguments.push, arguments.license, arguments.dataset)
    if arguments.explorer:
        if any(stated):
            raise UserError("--push, --license and --dataset are for folders of the Hub; leave them out")
        _write_explorer(arguments)
        return
    path = Path(arguments.output)
    if not arguments.output.endswith("/") and path.suffix and not path.is_dir():
        if any(stated):
            raise UserError(f"--push, --license and --dataset are for folders; give --output {path.stem}/")
        files.export(network.open_workdir(arguments.workdir), path)
        print(f"wrote {path}: {path.stat().st_size / 1e6:,.1f} MB")
        return
    if arguments.push and not re.fullmatch(r"[\w.-]+/[\w.-]+", arguments.push):
        raise UserError(f"--push {arguments.push} is not USER/NAME, a user or organization of the Hub and a model")
    model_card.export(arguments.workdir, path, stated)
    print(f"wrote {path}: {', '.join(model_card.FILES)}")
    if arguments.push:
        print(f"pushed {hub.push(path, arguments.push, model_card.FILES)}")


def _write_explorer(arguments: argparse.Namespace) -> None:
    if arguments.images < 0:
        raise UserError("--images must be 0, for none, or more")
    with files.needing_libraries():
        from alexnet_jax.explorer import folder
    written = folder.export(arguments.workdir, arguments.explorer, arguments.data, arguments.images)
    for note in written.notes:
        print(note)
    print(f"wrote {arguments.explorer}: {written.bytes / 1e6:,.1f} MB; open {arguments.explorer / 'index.html'}")
