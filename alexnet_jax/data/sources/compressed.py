"""Files in a zip, and any bytes of a .gz, read in place by several threads at once."""

import functools
import os
import struct
import threading
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from alexnet_jax.data.images import CorruptImage

PIECE = 2**24  # bytes: so far apart are the places at which reading a .gz can start
KEPT = 16 + 2 * (os.cpu_count() or 1)  # pieces in memory
CHUNK = 2**13  # bytes read at once, which a state may keep
LOCAL_HEADER = 30  # bytes of a zip, before a name and an extra field
Result = TypeVar("Result")


def remembered(function: Callable[..., Result], entries: int) -> Callable[..., Result]:
    """`function` with its last `entries` results kept; threads that need the same one wait for the first of them."""

    @functools.lru_cache(entries)
    def cell(*key: object) -> tuple[threading.Lock, list[Result]]:
        return threading.Lock(), []

    def call(*key: object) -> Result:
        lock, result = cell(*key)
        with lock:
            if not result:
                result.append(function(*key))
            return result[0]

    return call


class Zipped(NamedTuple):
    """A file in a zip, stored or deflated."""

    path: Path
    offset: int  # of the file's local header
    stored: int  # bytes
    size: int
    crc: int
    method: int

    def read(self) -> bytes:
        with self.path.open("rb", buffering=0) as file:
            header = os.pread(file.fileno(), LOCAL_HEADER, self.offset)
            start = self.offset + LOCAL_HEADER + sum(struct.unpack("<HH", header[26:]))
            content = os.pread(file.fileno(), self.stored, start)
        try:
            if self.method == zipfile.ZIP_DEFLATED:
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, self.size)
        except zlib.error as error:
            raise CorruptImage(f"damaged in {self.path}: {error}") from None
        if len(content) != self.size or zlib.crc32(content) != self.crc:
            raise CorruptImage(f"damaged in {self.path}: its checksum differs")
        return content


def zipped(path: Path) -> dict[str, Zipped]:
    """The files in a zip by their full names. Damage may raise any Exception."""
    with zipfile.ZipFile(path) as archive:
        for each in archive.infolist():
            if each.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or each.flag_bits & 1:
                raise ValueError(f"{each.filename} is encrypted, or neither stored nor deflated")
        return {
            each.filename: Zipped(
                path, each.header_offset, each.compress_size, each.file_size, each.CRC, each.compress_type
            )
            for each in archive.infolist()
            if not each.is_dir()
        }


class Gunzipped:
    """A .gz as a file that is decompressed from several threads, each at the places that it needs.

    The first pass keeps the state of the decompressor, 50 KB, every PIECE bytes, to start from in later ones. Damage
    raises OSError.
    """

    def __init__(self, path: Path):
        self._path, self._position = path, 0
        self._states = [(0, zlib.decompressobj(zlib.MAX_WBITS + 16))]
        self._piece = remembered(self._decompressed, KEPT)

    def at(self, offset: int, size: int) -> bytes:
        """Bytes `offset` to `offset + size`, or to the end."""
        first, last = offset // PIECE, (offset + size - 1) // PIECE
        content = b"".join(map(self._piece, range(first, last + 1)))
        return content[offset - first * PIECE :][:size]

    def _decompressed(self, i: int) -> bytes:
        while i >= (known := len(self._states)):
            self._piece(known - 1)  # shows where the next one starts
            if known == len(self._states):
                return b""  # past the end
        position, state = self._states[i]
        state, parts, missing = state.copy(), [], PIECE
        with self._path.open("rb") as file:
            file.seek(position)
            rest = b""
            while missing and not state.eof:
                if not (rest := rest or file.read(CHUNK)):
                    raise OSError(f"{self._path} is truncated")
                try:
                    parts.append(state.decompress(rest, missing))
                except zlib.error as error:
                    raise OSError(f"{self._path} is damaged: {error}") from None
                missing -= len(parts[-1])
                rest = state.unconsumed_tail
            if not missing and i + 1 == len(self._states):
                self._states.append((file.tell() - len(rest), state))
        return b"".join(parts)

    def read(self, size: int) -> bytes:
        content = self.at(self._position, size)
        self._position += len(content)
        return content

    def seek(self, position: int) -> int:
        self._position = position
        return position

    def tell(self) -> int:
        return self._position
