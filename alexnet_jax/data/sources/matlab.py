"""Structs of numbers and texts in MATLAB files of version 5, such as those in the development kits.

SciPy's reader crashes the process on some damaged files. The format:
https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf
"""

import math
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

HEADER = 128  # bytes
BYTE_ORDERS = {b"IM": "<", b"MI": ">"}  # by how 0x4D49 was written
MATRIX, COMPRESSED = 14, 15  # types of elements
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16"}
STRUCT, CHAR = 2, 4  # classes of matrices
MAX_BYTES = 2**28  # of a variable after decompression


class _Matrix(NamedTuple):
    matrix_class: int
    shape: list[int]
    name: str
    rest: Iterator[tuple[int, bytes]]  # the elements after the name


def structs(content: bytes, name: str) -> list[dict[str, float | str | None]]:
    """The array of structs `name`, each as field -> value; None for values that are neither one number nor a text.

    Raises ValueError if the file is damaged or has no such array.
    """
    order = BYTE_ORDERS.get(content[HEADER - 2 : HEADER])
    if order is None:
        raise ValueError("not a MATLAB file of version 5")
    for kind, data in _elements(content[HEADER:], order):
        if kind == COMPRESSED:
            kind, data = _next(_elements(zlib.decompressobj().decompress(data, MAX_BYTES), order))
        if kind == MATRIX:
            matrix = _matrix(data, order)
            if matrix.name == name and matrix.matrix_class == STRUCT:
                return list(_structs(matrix, order))
    raise ValueError(f"it has no structs {name}")


def _elements(content: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Type and content of consecutive elements."""
    at = 0
    while at + 8 <= len(content):
        kind, size = struct.unpack_from(order + "II", content, at)
        start = at + 8
        if kind >> 16:  # a short element lies within its tag
            kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
        if start + size > len(content):
            raise ValueError(f"an element of {size:,} bytes is truncated")
        yield kind, content[start : start + size]
        at = start + size
        if kind != COMPRESSED:
            at += -at % 8


def _next(elements: Iterator[tuple[int, bytes]]) -> tuple[int, bytes]:
    element = next(elements, None)
    if element is None:
        raise ValueError("an element is missing")
    return element


def _matrix(content: bytes, order: str) -> _Matrix:
    rest = _elements(content, order)
    flags, shape, name = (_next(rest)[1] for _ in range(3))
    matrix_class = int(np.frombuffer(flags, order + "u4")[0]) & 0xFF
    return _Matrix(matrix_class, np.frombuffer(shape, order + "i4").tolist(), name.decode("latin-1"), rest)


def _structs(matrix: _Matrix, order: str) -> Iterator[dict[str, float | str | None]]:
    length = int(np.frombuffer(_next(matrix.rest)[1], order + "i4")[0])
    names = _next(matrix.rest)[1]
    if length <= 0 or not names or len(names) % length:
        raise ValueError(f"field names of {length} bytes each in {len(names)} bytes")
    fields = [names[i : i + length].split(b"\0")[0].decode("latin-1") for i in range(0, len(names), length)]
    for _ in range(math.prod(matrix.shape)):  # ends with the bytes, whatever shape is claimed
        yield {field: _value(_next(matrix.rest)[1], order) for field in fields}


def _value(content: bytes, order: str) -> float | str | None:
    if not content:
        return None
    matrix_class, shape, _, rest = _matrix(content, order)
    if matrix_class == CHAR and (math.prod(shape) == 0 or shape[0] == 1):
        kind, data = next(rest, (2, b""))
        codec = TEXTS[kind] + {"<": "-le", ">": "-be"}[order] * (TEXTS[kind] == "utf-16")
        return data.decode(codec)
    if matrix_class > CHAR and math.prod(shape) == 1:
        kind, data = _next(rest)
        return np.frombuffer(data, order + NUMBERS[kind])[0].item() if kind in NUMBERS else None
    return None
