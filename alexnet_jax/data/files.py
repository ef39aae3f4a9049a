"""Files that are written whole or not at all; locks, and how many files may be open."""

import contextlib
import errno
import fcntl
import os
import resource
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from alexnet_jax.errors import UserError

OTHERS = 256  # files that the rest of the program may open

# What flock answers on storage without locks: Lustre mounted without -o flock, some network disks.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file to write, which replaces `path` at the end, durably. After an error, `path` is as before."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A temporary folder to fill, which replaces `path` at the end. After an error, `path` is as before."""
    path = path.resolve()
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as home:
        temporary = Path(home) / "new"
        temporary.mkdir()  # with the rights of any folder; `home` is for this user alone
        yield temporary
        if path.exists():
            path.rename(Path(home) / "old")
        temporary.rename(path)


def replace(temporary: Path, path: Path) -> None:
    """Rename a complete file durably: its content is on the disk before its name, and that when this returns."""
    _sync(temporary)
    temporary.replace(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():  # some network disks sync no folders
            raise
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text)


def lock(file: IO[str], directory: Path) -> None:
    """Lock a file of `directory` until it is closed or this process ends, however it does.

    Raises BlockingIOError if another process has locked it. Storage without locks is used with a warning.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        problem = f"warning: {directory} cannot be locked ({error.strerror}): let no other process use it"
        print(problem, file=sys.stderr, flush=True)


def allow_open(more: int) -> None:
    """Raise the limit by `more` open files: many systems allow 1024 unless asked. UserError if they permit no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = len(list(Path("/dev/fd").iterdir())) + more + OTHERS
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise UserError(f"{more} shards must be open at once, but the system allows {hard} files; raise `ulimit -n`")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
