"""Files of networks, read and written by their suffix. Format libraries are imported only when they are needed."""

import contextlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import FiniteFloat, TypeAdapter, ValidationError

from alexnet_jax.data import manifest
from alexnet_jax.data.files import replacing
from alexnet_jax.errors import UserError, reading
from alexnet_jax.inference.network import Network, open_workdir
from alexnet_jax.interop import foreign, identify, networks
from alexnet_jax.interop.foreign import PREPROCESSING, ForeignNetwork
from alexnet_jax.run import config_files, workdir

WEIGHTS = "model.safetensors"  # in the folders that `alexnet export` writes
READERS = {
    ".safetensors": "state_dicts:read_safetensors",
    ".pth": "state_dicts:read_pth",
    **dict.fromkeys((".pt", ".tar", ".ckpt", ".bin"), "state_dicts:read_pth"),  # .tar: of net.pth.tar
    ".onnx": "onnx_files:read",
    ".caffemodel": "caffe:read",
    ".msgpack": "state_dicts:read_msgpack",
}
WRITERS = {
    ".safetensors": "state_dicts:write_safetensors",
    ".pth": "state_dicts:write_pth",
    ".onnx": "onnx_files:write",
    ".stablehlo": "networks:write_stablehlo",
}


def read(path: Path) -> Network | ForeignNetwork:
    """Read a workdir, a folder that `alexnet export` wrote, or a file of this or of another program.

    Raises UserError if it is missing or holds no AlexNet, DataError if it is damaged.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist; give a workdir, or a file with weights")
    if (path / WEIGHTS).is_file() and not (path / workdir.CHECKPOINTS).exists():
        path /= WEIGHTS
    if path.is_dir():
        return open_workdir(path)
    with _function(path, READERS, "read") as read_file:
        network = read_file(path)
    if isinstance(network, Network):
        return network
    for layer in network.layers:
        if not layer.weight.size or layer.bias.shape != layer.weight.shape[:1]:
            shapes = f"weights {list(layer.weight.shape)} and biases {list(layer.bias.shape)}"
            raise UserError(f"{path}: {layer.name} has {shapes}, which make no layer; the file is damaged")
    return network.flattened()


def open_own(path: Path) -> Network:
    """As `read`, but raises UserError for another program's file, too."""
    network = read(path)
    if isinstance(network, ForeignNetwork):
        raise UserError(
            f"{path} was not written by `alexnet export`; make a workdir from it with `alexnet import {path} --workdir "
            "DIR --config CONFIG --pixels PIXELS`, and load that"
        )
    return network


def export(network: Network, path: Path) -> None:
    """Write a network, completely or not at all, in the format of its suffix. UserError if that cannot hold a layer.

    Its batch normalization, if any, is folded into kernels and biases.
    """
    with _function(path, WRITERS, "written") as write:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            write(temporary, networks.folded(network))


def imported(
    path: Path,
    config: str | None = None,
    pixels: str | None = None,
    mean: str | None = None,
    classes: Path | None = None,
) -> tuple[Network, list[list[str]]]:
    """Read a network from a file of this or of another program, and the table of `foreign.convert`, empty for our own.

    Another program's needs a `config`, which supplies what its file does not state, and a key of PREPROCESSING as
    `pixels`. It may have a `mean`, three numbers separated by commas, in place of the usual one, and `classes`: a file
    with a name on each line, or a folder of prepared data. Raises UserError if an argument is missing or superfluous,
    or if the network cannot be represented; DataError if the file is damaged.
    """
    network = read(path)
    if isinstance(network, Network):
        if config or pixels or mean or classes:
            raise UserError(f"{path} is self-describing; leave out --config, --pixels, --mean and --classes")
        return network, []
    identity = identify.identify(network)
    if not config or not pixels:
        raise UserError(
            f"{path} was written by another program: give its --config and its --pixels ({', '.join(PREPROCESSING)}). "
            f"It is {identify.verdict(identity)}. {identify.how(identity)}"
        )
    preprocessing = PREPROCESSING[pixels]
    if mean:
        numbers = TypeAdapter(tuple[FiniteFloat, FiniteFloat, FiniteFloat])
        try:
            preprocessing = preprocessing._replace(mean=numbers.validate_python(mean.split(",")))
        except ValidationError:
            raise UserError(f"--mean {mean} is not three numbers separated by commas") from None
    base = config_files.parse(config_files.load(config))
    names = _read_classes(classes) if classes else None
    advice = identify.advice(identity, config)
    try:
        converted, rows = foreign.convert(network, base, preprocessing, names)
    except UserError as error:
        raise (type(error)(f"{error}. {advice}") if advice else error) from None
    return converted, [*rows, *(["file", "", "", note] for note in [*network.notes, advice] if note)]


@contextlib.contextmanager
def _function(path: Path, functions: Mapping[str, str], verb: str) -> Iterator[Callable[..., Any]]:
    """The function for the suffix of `path`. UserError if there is none, or a library that it imports is missing."""
    if path.suffix not in functions:
        raise UserError(f"{path}: '{path.suffix}' files cannot be {verb}; give one of {', '.join(functions)}")
    with needing_libraries():
        yield pkgutil.resolve_name(f"alexnet_jax.interop.{functions[path.suffix]}")


@contextlib.contextmanager
def needing_libraries() -> Iterator[None]:
    """The absence of a library of a format becomes UserError."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = "torch" if error.name == "torch" else '"alexnet_jax[interop]"'
        raise UserError(f"{error.name} is not installed: pip install {package}") from None


def _read_classes(path: Path) -> list[str]:
    if path.is_dir():
        return manifest.read(path).classes
    with reading(f"{path} is not encoded in UTF-8", "; save it as UTF-8, with a name on each line", UserError):
        text = path.read_text(encoding="utf-8-sig")
    return [line.strip() for line in text.splitlines() if line.strip()]
