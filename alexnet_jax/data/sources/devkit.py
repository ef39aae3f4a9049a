"""The development kits of the ImageNet challenges: the numbers of the classes, the labels of the validation set.

A part of a kit is a MATLAB file of version 5. SciPy's reader of these crashes the process on some damaged files, so the
one here reads structs of numbers and texts. The format: https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf
"""

import io
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import pydantic

from alexnet_jax.data.manifest import Count
from alexnet_jax.data.sources import archives
from alexnet_jax.errors import UserError, reading

HEADER = 128  # bytes
BYTE_ORDERS = {b"IM": "<", b"MI": ">"}  # by how 0x4D49 was written
MATRIX, COMPRESSED = 14, 15  # types of elements
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16"}
STRUCT, CHAR = 2, 4  # classes of matrices
MAX_BYTES = 2**28  # of a variable after decompression


class Devkit(pydantic.BaseModel):
    classes: dict[Count, str]  # the kit's number of a class, from 1 -> WordNet id
    train_images: dict[str, Count]  # WordNet id -> number of training images
    validation: list[int]  # the kit's number of each image's class, in the order of the images' names


def read(path: Path, year: int) -> Devkit:
    """Read the kit at `path`, an archive or the folder unpacked from it. Raises UserError if it cannot be read."""
    meta, truth = names = ("data/meta.mat", f"data/ILSVRC{year}_validation_ground_truth.txt")
    with reading(f"the development kit {path} cannot be read", "; download it again", UserError):
        files = archives.read_files(path, names)
        missing = [name for name in names if name not in files]
        if missing:
            raise UserError(f"{path} has no {' and no '.join(missing)}; is it the kit of this year?")
        synsets = _structs(files[meta], "synsets")  # with children, one is a group of classes
        classes = {str(synset["WNID"]).strip(): synset for synset in synsets if synset["num_children"] == 0}
        return Devkit.model_validate(
            {
                "classes": {synset[f"ILSVRC{year}_ID"]: wnid for wnid, synset in classes.items()},
                "train_images": {wnid: synset["num_train_images"] for wnid, synset in classes.items()},
                "validation": numbers(files[truth], path),
            }
        )


def numbers(content: bytes, path: Path) -> list[int]:
    """The numbers in a file of labels, one per line. `path` is for the message of the UserError."""
    with reading(f"the labels in {path} should be one number per line", "; download it again", UserError):
        return [int(line) for line in content.split()]


def _structs(content: bytes, name: str) -> list[dict[str, float | str | None]]:
    """The array of structs `name`, each as field -> number, text or None (other). Damage may raise any Exception."""
    order = BYTE_ORDERS.get(content[HEADER - 2 : HEADER])
    if order is None:
        raise ValueError("not a MATLAB file of version 5")
    file = io.BytesIO(content)
    file.seek(HEADER)
    while file.tell() < len(content):
        kind, data = _element(file, order)
        if kind == COMPRESSED:
            kind, data = _element(io.BytesIO(zlib.decompressobj().decompress(data, MAX_BYTES)), order)
        if kind == MATRIX:
            matrix_class, shape, matrix_name, rest = _matrix(data, order)
            if matrix_class == STRUCT and matrix_name == name:
                fields = _field_names(rest, order)
                # Ends with the bytes, whatever shape is claimed.
                return [{f: _value(_element(rest, order)[1], order) for f in fields} for _ in range(math.prod(shape))]
    raise ValueError(f"it has no structs {name}")


def _element(file: io.BytesIO, order: str) -> tuple[int, bytes]:
    tag = file.read(8)
    if len(tag) < 8:
        raise ValueError("an element is missing")
    kind, size = struct.unpack(order + "II", tag)
    if kind >> 16:  # a short element lies within its tag
        kind, size = kind & 0xFFFF, kind >> 16
        content = tag[4 : 4 + size]
    else:
        content = file.read(size)
        if kind != COMPRESSED:
            file.seek(-size % 8, io.SEEK_CUR)
    if len(content) < size:
        raise ValueError(f"an element of {size:,} bytes is truncated")
    return kind, content


def _matrix(content: bytes, order: str) -> tuple[int, list[int], str, io.BytesIO]:
    """Class, shape and name of a matrix, and the rest of its elements."""
    rest = io.BytesIO(content)
    flags, shape, name = (_element(rest, order)[1] for _ in range(3))
    matrix_class = int(np.frombuffer(flags, order + "u4")[0]) & 0xFF
    return matrix_class, np.frombuffer(shape, order + "i4").tolist(), name.decode("latin-1"), rest


def _field_names(rest: io.BytesIO, order: str) -> list[str]:
    length = int(np.frombuffer(_element(rest, order)[1], order + "i4")[0])
    names = _element(rest, order)[1]
    if length <= 0 or not names or len(names) % length:
        raise ValueError(f"field names of {length} bytes each in {len(names)} bytes")
    return [names[i : i + length].split(b"\0")[0].decode("latin-1") for i in range(0, len(names), length)]


def _value(content: bytes, order: str) -> float | str | None:
    if not content:
        return None
    matrix_class, shape, _, rest = _matrix(content, order)
    count = math.prod(shape)
    if matrix_class == CHAR and count == 0:
        return ""
    if matrix_class == CHAR and shape[0] == 1:
        kind, data = _element(rest, order)
        return data.decode(TEXTS[kind] + {"<": "-le", ">": "-be"}[order] * (TEXTS[kind] == "utf-16"))
    if matrix_class > CHAR and count == 1:
        kind, data = _element(rest, order)
        return np.frombuffer(data, order + NUMBERS[kind])[0].item() if kind in NUMBERS else None
    return None
