"""The development kits of the ImageNet challenges: the numbers of the classes, the labels of the validation set."""

from pathlib import Path
from typing import NamedTuple

from alexnet_jax.data.sources import matlab, tars
from alexnet_jax.errors import UserError


class Devkit(NamedTuple):
    classes: dict[int, str]  # the kit's number of a class, from 1 -> WordNet id
    train_images: dict[str, int]  # WordNet id -> number of training images
    validation: list[int]  # the kit's number of each image's class, in the order of the images' names


def read(path: Path, year: int) -> Devkit:
    """Read the kit at `path`, an archive or the folder unpacked from it. Raises UserError if it cannot be read."""
    meta, truth = names = ("data/meta.mat", f"data/ILSVRC{year}_validation_ground_truth.txt")
    kit = Devkit({}, {}, [])
    try:
        if path.is_dir():
            files = {name: (path / name).read_bytes() for name in names if (path / name).is_file()}
        else:
            files = tars.read_gzipped(path, names)
        missing = [name for name in names if name not in files]
        if missing:
            raise UserError(f"{path} has no {' and no '.join(missing)}; is it the kit of this year?")
        for synset in matlab.structs(files[meta], "synsets"):
            if synset["num_children"] == 0:  # the others are groups of classes
                wnid = str(synset["WNID"]).strip()
                kit.classes[_count(synset[f"ILSVRC{year}_ID"])] = wnid
                kit.train_images[wnid] = _count(synset["num_train_images"])
    except UserError:
        raise
    except Exception as error:  # the readers can raise anything on bad bytes
        reason = " ".join(str(error).split())
        raise UserError(f"the development kit {path} cannot be read ({reason}); download it again") from None
    return kit._replace(validation=numbers(files[truth], path))


def _count(number: float | str | None) -> int:
    if not isinstance(number, int | float) or not 0 <= number < 2**31:
        raise ValueError(f"{number!r} is not a count")
    return int(number)


def numbers(content: bytes, path: Path) -> list[int]:
    """The numbers in a file of labels, one per line. `path` is for the message of the UserError."""
    try:
        return [int(line) for line in content.split()]
    except ValueError as error:
        raise UserError(f"the labels in {path} should be one number per line: {error}; download it again") from None
