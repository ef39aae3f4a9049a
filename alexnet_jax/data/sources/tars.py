"""Read tars by their headers, trusting none of them: a header may claim any length and any position.

Nothing is unpacked, so no name, link or device in a tar can touch the disk.
"""

import gzip
import io
import tarfile
from collections.abc import Collection, Iterator
from pathlib import Path

BLOCK = 512  # bytes; a tar is a sequence of such blocks and ends with empty ones
MAX_HEADER = 2**16  # bytes; tarfile searches long headers in quadratic time
MAX_BYTES = 2**28  # of a decompressed archive; the largest, CIFAR-10, has 185 MB


class _Window:
    """Bytes `start` to `end` of a file, for tarfile: it can neither allocate more memory than that nor leave them."""

    def __init__(self, file: io.BufferedIOBase, start: int, end: int):
        self._file, self._start, self._end = file, start, end
        self.tell = file.tell
        self.seek(start)

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._file.read(min(size, self._end - self.tell()))

    def seek(self, position: int) -> int:
        if not self._start <= position <= self._end:
            raise tarfile.ReadError("a file extends past the end of the archive")
        return self._file.seek(position)


def members(file: io.BufferedIOBase, start: int, end: int) -> Iterator[tarfile.TarInfo]:
    """The headers of the tar at bytes `start` to `end` of a file. The caller may read and seek in between.

    Raises ValueError if the tar is truncated or damaged.
    """
    window = _Window(file, start, end)
    try:
        with tarfile.open(fileobj=window, mode="r:") as tar:  # type: ignore[call-overload] # has all that it uses
            for member in tar:
                # A negative length leads back to an earlier header: tarfile would read on for ever.
                if member.size < 0 or member.offset_data + member.size > end:
                    raise tarfile.ReadError(f"{member.name} extends past the end of the archive")
                yield member
            # tarfile takes any header that it cannot read for the end, but a complete archive ends with an empty block.
            window.seek(min(tar.offset, end))
            last = window.read(BLOCK)
            if last != bytes(BLOCK):
                damage = "truncated" if len(last) < BLOCK else "damaged"
                raise tarfile.ReadError(f"{damage} at byte {tar.offset:,}, after {len(tar.getmembers())} files")
    except (tarfile.TarError, OverflowError, RecursionError) as error:  # the last for chained headers
        raise ValueError(str(error)) from None


def read_files(path: Path, names: Collection[str]) -> dict[str, bytes]:
    """The files `names` of a folder, or the regular files of a .tar.gz whose paths end with `names`, by name.

    Raises OSError, EOFError, ValueError or zlib.error if the archive is damaged or decompresses to over MAX_BYTES.
    """
    if path.is_dir():
        return {name: (path / name).read_bytes() for name in names if (path / name).is_file()}
    files = {}
    with gzip.open(path) as stream:
        for member in members(stream, 0, MAX_BYTES):
            wanted = [name for name in names if f"/{member.name}".endswith(f"/{name}")]
            if wanted and member.type == tarfile.REGTYPE:
                stream.seek(member.offset_data)
                files[wanted[0]] = stream.read(member.size)
        stream.seek(MAX_BYTES)  # or the end
        if stream.read(1):  # at the end, gzip compares its checksum
            raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
    return files
