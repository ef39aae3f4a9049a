"""Runs cases: python -m tests.fuzz.worker KIND SEED FIRST LAST HOME. Tells of each on stdout, a line of JSON.

A case that takes too much time is ended by the system, natively hung or not, and one that takes too much memory by
the limits; `cases` sees which it was. An audit hook sees every file that Python opens and every program it starts.
"""

import json
import os
import resource
import signal
import sys
import traceback
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.errors import UserError
from tests.fuzz.kinds import CASE, KINDS, OUTSIDE

SECONDS = 20  # of computing that a case may take
MEMORY = 2**31  # bytes that a case may take of what there is, beyond the 1.3 GB of the largest image allowed
ADDRESSES = 2**33  # bytes that a case may reserve
FILE = 2**28  # bytes of a file that it may write
PROGRAMS = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "socket.connect",
    "pickle.find_class",
)
CHANGES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Watch:
    """What cases did that they should not, as Python sees it: an audit hook."""

    def __init__(self, home: Path):
        self.seen: list[str] = []
        self._case, self._outside = home / CASE, home / OUTSIDE
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple) -> None:
        if event in PROGRAMS:
            self.seen.append(f"{event} {arguments[:2]!r}")
        elif event == "open":
            path, _, flags = arguments
            self._touched(event, path, bool(flags & WRITES))
        elif event in CHANGES:
            opened = arguments[-1]  # the folder that a path starts from, if it is no negative number
            folder = Path(f"/proc/self/fd/{opened}").readlink() if isinstance(opened, int) and opened >= 0 else Path()
            for path in arguments[: 2 if event in ("os.rename", "os.link") else 1]:
                self._touched(event, path, True, folder)

    def _touched(self, event: str, path: Any, writes: bool, folder: Path = Path()) -> None:
        if not isinstance(path, str | bytes):
            return
        real = Path(os.path.normpath(Path.cwd() / folder / os.fsdecode(path)))
        outside = writes and not real.is_relative_to(self._case) and not real.is_relative_to("/dev")
        if outside or real.is_relative_to(self._outside):
            self.seen.append(f"{event} {real}")


def listing(home: Path) -> list[tuple]:
    """What lies beside the folder of the case: code that is no Python writes unseen."""
    found: list[tuple] = []
    for top, folders, files in os.walk(home):
        if top == str(home):
            folders.remove(CASE)
        found += [(top, name, (Path(top) / name).lstat().st_mtime_ns) for name in files]
        found += [(top, name) for name in folders]
    return sorted(found)


def main() -> None:
    kind, seed, first, last, home = sys.argv[1], *map(int, sys.argv[2:5]), Path(sys.argv[5])
    told = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is printed is no report
    for name in (CASE, OUTSIDE):
        (home / name).mkdir(parents=True)
    os.fsync = lambda fd: None  # nothing here must outlast a power failure
    target = KINDS[kind](home)
    limit_everything()
    watch, before = Watch(home), listing(home)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps("ready"), file=told, flush=True)
    for case in range(first, last):
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.setitimer(signal.ITIMER_REAL, 6 * SECONDS)
        outcome, what = "accepted", ""
        try:
            outcome = "accepted" if target.run(generator(kind, seed, case)) else "refused"
        except UserError:
            outcome = "refused"
        except BaseException:  # whatever else comes out of it
            outcome, what = "finding", traceback.format_exc(limit=-6)
        signal.setitimer(signal.ITIMER_PROF, 0)
        if watch.seen or listing(home) != before:
            outcome, what = "finding", "outside: " + "; ".join(watch.seen or ["files were written"])
            watch.seen.clear()
            before = listing(home)
        taken = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * 1024
        if taken > MEMORY:
            outcome, what = "finding", f"{what}memory: {taken:,} bytes"
        print(json.dumps([case, outcome, what]), file=told, flush=True)
        if taken > MEMORY:
            return  # the peak stays; the next worker has one of its own


def generator(kind: str, seed: int, case: int) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(kind.encode()), seed, case])


def limit_everything() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESSES,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE, FILE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
