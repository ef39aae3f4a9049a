"""NumPy's files, read without believing them: a header may claim any shape, and that there are pickles inside.

No more memory is taken than the file is long, and nothing in it is carried out.
"""

import io
import math
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import DTypeLike


class Header(NamedTuple):
    shape: tuple[int, ...]
    fortran: bool  # the first index runs fastest
    dtype: np.dtype


def header(file: IO[bytes]) -> Header:
    """The header of what `np.save` wrote. Raises ValueError if it is none, or that of Python objects."""
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("another version of the format")
        found = Header(*np.lib.format.read_array_header_1_0(file))
    except Exception as error:  # NumPy reads it as a Python literal, whose parser raises all sorts
        raise ValueError(f"no header of an array: {' '.join(str(error).split())[:200]}") from None
    if found.dtype.hasobject or not found.dtype.itemsize or min(found.shape, default=0) < 0:
        raise ValueError(f"no array of numbers: {found.dtype} {found.shape}")
    return found


def parsed(content: bytes) -> np.ndarray:
    """The array in what `np.save` wrote, not to be written to. Raises ValueError if it is damaged."""
    file = io.BytesIO(content)
    shape, fortran, dtype = header(file)
    needed, there = math.prod(shape) * dtype.itemsize, len(content) - file.tell()
    if needed != there:
        raise ValueError(f"{there:,} bytes, and {dtype} {shape} are {needed:,}")
    return np.ndarray(shape, dtype, content, file.tell(), order="F" if fortran else "C")


def load(path: Path, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """The array that `np.save` wrote to `path`. Raises ValueError if it is damaged or another one than said."""
    try:
        array = parsed(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"{path} holds {array.dtype} {array.shape} and should hold {np.dtype(dtype)} {shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{path} holds what is no number")
    return array


def zipped(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """Those of `names` that are among what `np.savez` wrote to `path`. Raises ValueError if it is damaged."""
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                return {name: parsed(archive.read(member)) for name, member in members(archive, names).items()}
        except Exception as error:  # zipfile raises all sorts on bad bytes
            raise ValueError(f"{path} cannot be read: {error or type(error).__name__}") from None


def members(archive: zipfile.ZipFile, names: Collection[str]) -> dict[str, zipfile.ZipInfo]:
    """Where arrays lie in a zip. Raises ValueError if one is packed: it could have any length."""
    found = {name: archive.NameToInfo[f"{name}.npy"] for name in names if f"{name}.npy" in archive.NameToInfo}
    if any(member.compress_type != zipfile.ZIP_STORED for member in found.values()):
        raise ValueError("its arrays are packed")
    return found
