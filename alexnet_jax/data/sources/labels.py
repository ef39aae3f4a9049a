"""Files that say which class an image belongs to, and what classes are called."""

import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from alexnet_jax.data.sources.archives import Labelled, Listing
from alexnet_jax.errors import UserError, reading

WORDNET_ID = r"n\d{8}"


def labelled(images: Listing, lines: list[str], label_of: Mapping[str, int], file: str) -> Labelled:
    """The images with the labels that `lines` of the file called `file` give their names, with or without ending.

    A line has a name, then a class (its name or its number, the label), separated by a comma, a tab or a space; what
    follows is ignored, and so are lines of other images. Raises UserError if an image or a class is missing.
    """
    given = {}
    for line in lines:
        name, _, rest = line.partition(next((mark for mark in ",\t" if mark in line), " "))
        given[PurePosixPath(name.strip()).stem] = re.split("[,\t]", rest)[0].strip()
    labels = []
    for name, _ in images:
        value = given.get(PurePosixPath(name).stem)
        if value is None:
            raise UserError(f"{file} has no line for the image {name}; download both again")
        label = label_of.get(value, label_of.get(value.partition(" ")[0]))
        if label is None and value.isdecimal() and int(value) < len(label_of):
            label = int(value)
        if label is None:
            raise UserError(f"{file} gives the image {name} the class {value!r}, which has no training images")
        labels.append(label)
    return [(name, place, label) for (name, place), label in zip(images, labels, strict=True)]


def renamed(classes: list[str], file: Path) -> list[str]:
    """The classes with the names that a file gives them.

    It is LOC_synset_mapping.txt, imagenet_class_index.json, a JSON list of names, or a text with one name per line. If
    it has WordNet ids, these say which class a name is for, where the classes are such ids; else the order does.
    Raises UserError if it names too few classes.
    """
    with reading(
        f"{file} should be a JSON list or dict of names, or a text with a name per line", "; mend it", UserError
    ):
        text = file.read_text()
        named = json.loads(text) if file.suffix == ".json" else text.splitlines()
        named = [named[str(i)] for i in range(len(named))] if isinstance(named, dict) else named
        named = [" ".join(name) if isinstance(name, list) else str(name) for name in named]
    by_id = {name.partition(" ")[0]: name for name in named if re.match(rf"{WORDNET_ID}\b", name)}
    if any(re.fullmatch(WORDNET_ID, name) for name in classes) and by_id:
        missing = [name for name in classes if name not in by_id]
    else:
        by_id, missing = dict(zip(classes, named, strict=False)), classes[len(named) :]
    if missing:
        raise UserError(
            f"{file} has no name for {len(missing)} of the {len(classes)} classes, such as {missing[0]}; add it"
        )
    return [by_id[name] for name in classes]
