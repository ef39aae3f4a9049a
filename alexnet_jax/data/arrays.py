"""Read NumPy files whose headers may lie: in no more memory than the file is long, and without executing pickles."""

import io
import math
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO

import numpy as np


def header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """The shape, whether the first index varies fastest, and the type that `np.save` wrote; or ValueError."""
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("unknown version of the format")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    except Exception as error:  # NumPy parses it as a Python literal, which can raise anything
        raise ValueError(f"invalid array header: {' '.join(str(error).split())[:200]}") from None
    if dtype.hasobject or not dtype.itemsize or min(shape, default=0) < 0:
        raise ValueError(f"not an array of numbers: {dtype} {shape}")
    return shape, fortran, dtype


def parsed(content: bytes) -> np.ndarray:
    """The read-only array that `np.save` wrote as `content`. Raises ValueError if it is damaged."""
    file = io.BytesIO(content)
    shape, fortran, dtype = header(file)
    needed, available = math.prod(shape) * dtype.itemsize, len(content) - file.tell()
    if needed != available:
        raise ValueError(f"{available:,} bytes of data, but {dtype} {shape} takes {needed:,}")
    return np.ndarray(shape, dtype, content, file.tell(), order="F" if fortran else "C")


def zipped(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """Those of the arrays `names` that `np.savez` wrote to `path`. Raises ValueError if the file is damaged."""
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                return {name: parsed(archive.read(member)) for name, member in members(archive, names).items()}
        except Exception as error:  # zipfile can raise anything on bad bytes
            raise ValueError(f"{path} cannot be read: {error or type(error).__name__}") from None


def members(archive: zipfile.ZipFile, names: Collection[str]) -> dict[str, zipfile.ZipInfo]:
    """Array name -> its member of a zip. Raises ValueError if one is compressed: it could expand to any length."""
    stored = {name: archive.NameToInfo[f"{name}.npy"] for name in names if f"{name}.npy" in archive.NameToInfo}
    if any(member.compress_type != zipfile.ZIP_STORED for member in stored.values()):
        raise ValueError("its arrays are compressed")
    return stored
