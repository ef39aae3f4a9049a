"""Structs of numbers and texts in MATLAB files of version 5, such as those in the development kits.

SciPy's reader crashes the process on some damaged files. The format:
https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf
"""

import io
import math
import struct
import zlib

import numpy as np

HEADER = 128  # bytes
BYTE_ORDERS = {b"IM": "<", b"MI": ">"}  # by how 0x4D49 was written
MATRIX, COMPRESSED = 14, 15  # types of elements
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16"}
STRUCT, CHAR = 2, 4  # classes of matrices
MAX_BYTES = 2**28  # of a variable after decompression


def structs(content: bytes, name: str) -> list[dict[str, float | str | None]]:
    """The array of structs `name`, each as field -> value; None for values that are neither one number nor a text.

    A damaged file may raise any Exception, one without this array raises ValueError.
    """
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
    """Read the type and the content of the next element."""
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
