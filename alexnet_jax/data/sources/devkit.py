"""The development kits of the ImageNet challenges: the numbers of the classes, the labels of the validation set."""

from pathlib import Path

import pydantic

from alexnet_jax.data.manifest import Count
from alexnet_jax.data.sources import matlab, tars
from alexnet_jax.errors import UserError


class Devkit(pydantic.BaseModel):
    classes: dict[Count, str]  # the kit's number of a class, from 1 -> WordNet id
    train_images: dict[str, Count]  # WordNet id -> number of training images
    validation: list[int]  # the kit's number of each image's class, in the order of the images' names


def read(path: Path, year: int) -> Devkit:
    """Read the kit at `path`, an archive or the folder unpacked from it. Raises UserError if it cannot be read."""
    meta, truth = names = ("data/meta.mat", f"data/ILSVRC{year}_validation_ground_truth.txt")
    try:
        files = tars.read_files(path, names)
        missing = [name for name in names if name not in files]
        if missing:
            raise UserError(f"{path} has no {' and no '.join(missing)}; is it the kit of this year?")
        synsets = matlab.structs(files[meta], "synsets")  # with children, one is a group of classes
        classes = {str(synset["WNID"]).strip(): synset for synset in synsets if synset["num_children"] == 0}
        return Devkit.model_validate(
            {
                "classes": {synset[f"ILSVRC{year}_ID"]: wnid for wnid, synset in classes.items()},
                "train_images": {wnid: synset["num_train_images"] for wnid, synset in classes.items()},
                "validation": numbers(files[truth], path),
            }
        )
    except UserError:
        raise
    except Exception as error:  # the readers can raise anything on bad bytes
        reason = " ".join(str(error).splitlines()[:3])
        raise UserError(f"the development kit {path} cannot be read ({reason}); download it again") from None


def numbers(content: bytes, path: Path) -> list[int]:
    """The numbers in a file of labels, one per line. `path` is for the message of the UserError."""
    try:
        return [int(line) for line in content.split()]
    except ValueError as error:
        raise UserError(f"the labels in {path} should be one number per line: {error}; download it again") from None
