"""Runs cases: python -m tests.fuzz.worker KIND SEED FIRST LAST HOME. Writes a line of JSON to stdout for each.

A case that takes too long is ended by a signal, even in native code, and one that takes too much memory by resource
limits; `cases` reports it. An audit hook watches every file that Python opens and every program that it starts.
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

SECONDS = 20  # CPU time of a case
MEMORY = 2**31  # resident bytes of a case; the largest image allowed takes 1.3 GB
ADDRESSES = 2**33  # address space of a case, bytes
FILE = 2**28  # largest file that a case may write, bytes
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
    """An audit hook that records what cases do and must not."""

    def __init__(self, home: Path):
        self.violations: list[str] = []
        self._case, self._outside = home / CASE, home / OUTSIDE
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple) -> None:
        if event in PROGRAMS:
            self.violations.append(f"{event} {arguments[:2]!r}")
        elif event == "open":
            path, _, flags = arguments
            self._check(event, path, bool(flags & WRITES))
        elif event in CHANGES:
            dir_fd = arguments[-1]  # relative paths start from this folder, unless it is negative
            folder = Path(f"/proc/self/fd/{dir_fd}").readlink() if isinstance(dir_fd, int) and dir_fd >= 0 else Path()
            for path in arguments[: 2 if event in ("os.rename", "os.link") else 1]:
                self._check(event, path, True, folder)

    def _check(self, event: str, path: Any, writes: bool, folder: Path = Path()) -> None:
        if not isinstance(path, str | bytes):
            return
        real = Path(os.path.normpath(Path.cwd() / folder / os.fsdecode(path)))
        outside = writes and not real.is_relative_to(self._case) and not real.is_relative_to("/dev")
        if outside or real.is_relative_to(self._outside):
            self.violations.append(f"{event} {real}")


def listing(home: Path) -> list[tuple]:
    """All files outside the case's folder, since audit hooks do not see what native code writes."""
    entries: list[tuple] = []
    for top, folders, files in os.walk(home):
        if top == str(home):
            folders.remove(CASE)
        entries += [(top, name, (Path(top) / name).lstat().st_mtime_ns) for name in files]
        entries += [(top, name) for name in folders]
    return sorted(entries)


def main() -> None:
    kind, seed, first, last, home = sys.argv[1], *map(int, sys.argv[2:5]), Path(sys.argv[5])
    report = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what readers print is not part of the report
    for name in (CASE, OUTSIDE):
        (home / name).mkdir(parents=True)
    os.fsync = lambda fd: None  # faster; nothing here needs to survive a power failure
    target = KINDS[kind](home)
    set_limits()
    watch, before = Watch(home), listing(home)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps("ready"), file=report, flush=True)
    for case in range(first, last):
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.setitimer(signal.ITIMER_REAL, 6 * SECONDS)
        outcome, description = "accepted", ""
        try:
            outcome = "accepted" if target.run(generator(kind, seed, case)) else "refused"
        except UserError:
            outcome = "refused"
        except BaseException:  # anything else is a finding
            outcome, description = "finding", traceback.format_exc(limit=-6)
        signal.setitimer(signal.ITIMER_PROF, 0)
        if watch.violations or listing(home) != before:
            outcome, description = "finding", "outside: " + "; ".join(watch.violations or ["files were written"])
            watch.violations.clear()
            before = listing(home)
        taken = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * 1024
        if taken > MEMORY:
            outcome, description = "finding", f"{description}memory: {taken:,} bytes"
        print(json.dumps([case, outcome, description]), file=report, flush=True)
        if taken > MEMORY:
            return  # the peak never falls again, so a new worker continues


def generator(kind: str, seed: int, case: int) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(kind.encode()), seed, case])


def set_limits() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESSES,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE, FILE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
