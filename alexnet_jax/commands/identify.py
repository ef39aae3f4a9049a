"""Say which AlexNet a file or a workdir holds, what the file leaves open, and whether the weights look trained.

The answer is certain only where shapes and what the file says leave no other known network; nothing is run. In the
table, `edge` and `smooth` are standard scores: above 6, weights are not independent, as they are before training.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from tabulate import tabulate

from alexnet_jax.errors import DataError, UserError
from alexnet_jax.interop import files, identify

HEAD = ("layer", "shape", "stride, padding, what follows", "deviation", "start", "edge", "smooth", "bias", "looks")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = "the network: .caffemodel, .onnx, .pth, .safetensors or .msgpack (Flax), or a workdir"
    parser.add_argument("file", type=Path, metavar="FILE", help=what)
    parser.add_argument("--json", action="store_true", help="print an object instead of text")


def run(arguments: argparse.Namespace) -> None:
    try:
        opened = files.read(arguments.file)
    except DataError:
        raise
    except UserError as error:
        raise UserError(f"no AlexNet that can be read: {error}") from None
    identity = identify.identify(opened)
    sentence, looks = identify.looks(identity)
    layers, maps = [], 3
    for layer, look in zip(identity.network.layers, looks, strict=True):
        groups = maps // layer.weight.shape[1] if layer.weight.ndim == 4 else 1
        shape = {"layer": layer.name, "shape": layer.weight.shape, "groups": groups}
        layers.append(shape | layer.settings | look._asdict())
        maps = len(layer.weight)
    answer: dict[str, Any] = {
        "file": str(opened.path),
        "network": identify.verdict(identity),
        "certain": len(identity.known) == 1,
        "candidates": [known.name for known in identity.known],
        "differences": identity.differences,
        "trained": sentence,
        "notes": identity.network.notes + identify.remarks(identity, looks),
        "ask": identify.questions(identity),
        "import": identify.commands(identity),
        "layers": layers,
    }
    print(json.dumps(answer, indent=2) if arguments.json else _text(answer, identify.how(identity)))


def _text(answer: dict[str, Any], how: str) -> str:
    lines = [f"{answer['file']}: {answer['network']}", f"Trained? {answer['trained']}"]
    lines += [f"Note: {note}" for note in answer["notes"]]
    lines += [f"Not in the file: {question}" for question in answer["ask"]]
    table = tabulate([_row(**layer) for layer in answer["layers"]], HEAD, disable_numparse=True)
    return "\n".join([*lines, how, "", table])


def _row(
    layer: str, shape: tuple[int, ...], groups: int, verdict: str, then: tuple[str, ...] | None = None, **values: Any
) -> list:
    stated = [str(values[key]) for key in ("stride", "padding") if key in values]
    follows = ", ".join([*stated, *then]) if then is not None else "?"
    scores = (f"{values[key]:.1f}" for key in ("edge", "smoothness"))
    bias = "differ" if values["bias"] is None else f"{values['bias']:g}"
    size = "x".join(map(str, shape)) + (f" in {groups} groups" if groups > 1 else "")
    return [layer, size, follows, f"{values['std']:.4g}", values["start"], *scores, bias, verdict]
