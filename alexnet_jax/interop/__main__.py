"""Weights of other programs in, and networks out.

    python -m alexnet_jax.interop import FILE --workdir DIR [--config CONFIG --pixels caffe|torchvision]
    python -m alexnet_jax.interop export --workdir DIR --output FILE

What FILE is its ending tells:

    .safetensors   weights and config, ours; or another program's state dict
    .pth, .pt      the same, of PyTorch; only weights are loaded, never code
    .onnx          from stored pixels to probabilities, ours; or another program's AlexNet
    .caffemodel    of Caffe (in only)
    .stablehlo     a program with its weights, which JAX runs without this package (out only)

Files that this program wrote need no other flags, and come back bit for bit.
"""

import argparse
import contextlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path

from alexnet_jax import config_files, errors
from alexnet_jax.errors import UserError
from alexnet_jax.interop import files, networks, programs
from alexnet_jax.interop.chains import PIXELS, Chain, Pixels, network


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m alexnet_jax.interop", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="import|export")
    into = commands.add_parser("import", help="make a workdir of a file")
    into.add_argument("file", type=Path, metavar="FILE")
    into.add_argument("--workdir", type=Path, required=True, help="to make; then evaluate, predict, finetune with it")
    into.add_argument("--config", help="of another program's network: what its file does not say, such as strides")
    into.add_argument(
        "--pixels", choices=PIXELS, help="what it wants to see: rgb is 0..255; caffe is BGR; each with its usual mean"
    )
    into.add_argument("--mean", help="R,G,B or B,G,R, in the network's order and scale, instead of the usual mean")
    into.add_argument("--classes", type=Path, help="file with a class name a line, or folder of prepared data")
    into.set_defaults(run=import_)
    out = commands.add_parser("export", help="write the network of a workdir to a file")
    out.add_argument("--workdir", type=Path, required=True, help="folder of a run of alexnet_jax.main")
    out.add_argument("--output", type=Path, required=True, metavar="FILE", help="see above for the endings")
    out.set_defaults(run=export)
    arguments = parser.parse_args()
    sys.exit(errors.exit_code(lambda: arguments.run(arguments)))


def import_(arguments: argparse.Namespace) -> None:
    found = _read(arguments.file, arguments.config)
    if isinstance(found, Chain):
        if not arguments.config or not arguments.pixels:
            raise UserError(
                f"{arguments.file} is of another program: give its --config (configs/variants/caffe.py for Caffe's, "
                "configs/variants/one_weird_trick.py for torchvision's) and its --pixels (rgb, caffe or torchvision)"
            )
        classes = files.read_classes(arguments.classes) if arguments.classes else None
        base = config_files.parse(config_files.load(arguments.config))
        found, rows = network(found, base, _pixels(arguments.pixels, arguments.mean), classes)
        _print_table([["here", "there", "shape", "what was done"], *rows])
    elif arguments.config or arguments.pixels or arguments.mean or arguments.classes:
        raise UserError(f"{arguments.file} says itself what it is; leave out --config, --pixels, --mean and --classes")
    networks.to_workdir(found, arguments.workdir)
    count = sum(leaf.size for layer in found.params.values() for leaf in layer.values())
    print(
        f"{arguments.workdir}: {count:,} parameters, {len(found.classes)} classes, {found.config.model.towers} tower(s)"
    )


def export(arguments: argparse.Namespace) -> None:
    path, suffix = arguments.output, arguments.output.suffix
    if suffix not in WRITERS:
        raise UserError(f"{path}: nothing is written to files that end in '{suffix}'; give {', '.join(WRITERS)}")
    found = networks.of_workdir(arguments.workdir)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")  # a file is whole or not there
    try:
        with _installed():
            WRITERS[suffix](temporary, found)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    print(f"wrote {path}: {path.stat().st_size / 1e6:,.1f} MB")


def _write_onnx(path: Path, found: networks.Network) -> None:
    from alexnet_jax.interop import onnx_out

    onnx_out.write(path, found)


WRITERS = {
    ".safetensors": files.write_safetensors,
    ".pth": files.write_pth,
    ".onnx": _write_onnx,
    ".stablehlo": programs.write,
}


def _read(path: Path, config: str | None) -> networks.Network | Chain:
    with _installed():
        if path.suffix == ".safetensors":
            return files.read_safetensors(path)
        if path.suffix in (".pth", ".pt"):
            return files.read_pth(path)
        if path.suffix == ".onnx":
            from alexnet_jax.interop import onnx_in

            return onnx_in.read(path)
        if path.suffix == ".caffemodel":
            from alexnet_jax.interop import caffe

            return caffe.read(path, config_files.parse(config_files.load(config)).model.image_size if config else 0)
    raise UserError(f"{path}: what ends in '{path.suffix}' is not read; give .safetensors, .pth, .onnx or .caffemodel")


@contextlib.contextmanager
def _installed() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(f'{error.name} is not installed: pip install "alexnet_jax[interop]"') from None


def _pixels(name: str, mean: str | None) -> Pixels:
    if mean is None:
        return PIXELS[name]
    try:
        first, second, third = (float(part) for part in mean.split(","))
        if not math.isfinite(first + second + third):
            raise ValueError
    except ValueError:
        raise UserError(f"--mean {mean} is no three numbers with commas between them") from None
    return PIXELS[name]._replace(mean=(first, second, third))


def _print_table(rows: list[list[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]).rstrip())


if __name__ == "__main__":
    main()
