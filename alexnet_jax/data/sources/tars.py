"""Reading tars by their headers. Nothing in them is believed: a header may claim any length, and any place.

Nothing is unpacked, so that no name, link or device in a tar can touch the disk.
"""

import io
import tarfile
from collections.abc import Iterator

BLOCK = 512  # bytes; a tar is a row of such blocks and ends with empty ones
MAX_HEADER = 2**16  # bytes; tarfile searches long ones in quadratic time


class _Part:
    """A file up to `end`, as tarfile reads it: it is given no memory for what is not there, and led nowhere else."""

    def __init__(self, file: io.BufferedIOBase, start: int, end: int):
        self._file, self._start, self._end = file, start, end
        self.seek(start)

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._file.read(min(size, self._end - self.tell()))

    def seek(self, place: int) -> int:
        if not self._start <= place <= self._end:
            raise tarfile.ReadError("a file goes on behind the archive's end")
        return self._file.seek(place)

    def tell(self) -> int:
        return self._file.tell()


def members(file: io.BufferedIOBase, start: int, end: int) -> Iterator[tarfile.TarInfo]:
    """The headers of the tar at bytes `start` to `end` of a file, which may be read and moved in between.

    Raises ValueError if the tar is cut short or damaged.
    """
    part, count = _Part(file, start, end), 0
    try:
        with tarfile.open(fileobj=part, mode="r:") as tar:  # type: ignore[call-overload] # all that it uses is there
            for member in tar:
                # One of negative length leads back to where it was: tarfile would read it for ever.
                if member.size < 0 or member.offset_data + member.size > end:
                    raise tarfile.ReadError(f"{member.name} goes on behind the archive's end")
                yield member
                count += 1
        # To tarfile, any header it cannot read is the end. A whole archive ends with an empty block.
        last = b""
        if tar.offset + BLOCK <= end:
            part.seek(tar.offset)
            last = part.read(BLOCK)
        if len(last) < BLOCK or any(last):
            what = "cut short" if len(last) < BLOCK else "damaged"
            raise tarfile.ReadError(f"{what} at byte {tar.offset:,}, after {count} files")
    except (tarfile.TarError, OverflowError, RecursionError) as error:  # the last of headers in a chain
        raise ValueError(str(error)) from None
