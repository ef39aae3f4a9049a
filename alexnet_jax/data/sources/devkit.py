"""The development kits of the ImageNet challenges: the numbers of the classes, the labels of the validation set."""

import gzip
import tarfile
from pathlib import Path
from typing import NamedTuple

from alexnet_jax.data.sources import matlab, tars
from alexnet_jax.errors import UserError

MAX_KIT = 2**28  # bytes that it is unpacked; the largest file that is needed has one million


class Devkit(NamedTuple):
    classes: dict[int, str]  # the kit's number of a class, from 1 -> WordNet id
    train_images: dict[str, int]  # WordNet id -> how many
    validation: list[int]  # the kit's number of each image's class, in the order of the images' names


def read(path: Path, year: int) -> Devkit:
    """The kit in `path`, an archive or the folder unpacked from it. Raises UserError if it cannot be read."""
    truth = f"ILSVRC{year}_validation_ground_truth.txt"
    try:
        content = _files(path, ("meta.mat", truth))
        synsets = matlab.structs(content["meta.mat"], "synsets")
        leaves = [of for of in synsets if of["num_children"] == 0]  # the others are groups of classes
        classes = {_count(of[f"ILSVRC{year}_ID"]): str(of["WNID"]).strip() for of in leaves}
        train_images = {str(of["WNID"]).strip(): _count(of["num_train_images"]) for of in leaves}
    except UserError:
        raise
    except Exception as error:  # readers raise all sorts on bad bytes
        reason = " ".join(str(error).split())
        raise UserError(f"the development kit {path} cannot be read ({reason}); download it again") from None
    return Devkit(classes, train_images, numbers(content[truth], path))


def _count(number: float | str | None) -> int:
    if not isinstance(number, int | float) or not 0 <= number < 2**31:
        raise ValueError(f"{number!r} is no count")
    return int(number)


def numbers(content: bytes, path: Path) -> list[int]:
    """The numbers in a file of labels, one a line."""
    try:
        return [int(line) for line in content.split()]
    except ValueError as error:
        raise UserError(f"the labels in {path} should be one number a line: {error}") from None


def _files(path: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    """The files of the kit's folder data/, by name."""
    found: dict[str, bytes] = {}
    if path.is_dir():
        found = {name: (path / "data" / name).read_bytes() for name in names if (path / "data" / name).is_file()}
    else:
        with gzip.open(path) as stream:
            for member in tars.members(stream, 0, MAX_KIT):
                folder, _, name = member.name.rpartition("/")
                if name in names and folder.endswith("data") and member.type == tarfile.REGTYPE:
                    stream.seek(member.offset_data)
                    found[name] = stream.read(member.size)
    missing = set(names) - set(found)
    if missing:
        raise UserError(f"{path} has no data/{' and no data/'.join(sorted(missing))}; is it the kit of this year?")
    return found
