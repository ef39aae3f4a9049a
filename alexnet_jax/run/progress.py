"""What a run spends its time on, second by second, and the end of a run that makes no progress.

The ledger of a workdir, ledger.jsonl, holds lines of `Entry`, each about one start of the run: the last one of a start
says what its seconds went to. A line is written at every checkpoint, and whenever another hundredth of the start's time
has passed, so that a run that is killed leaves at most that much unbooked.
"""

import contextlib
import faulthandler
import io
import json
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pydantic

from alexnet_jax.errors import EXIT_STALLED, keeping, reading
from alexnet_jax.run import processes

LEDGER = "ledger.jsonl"
TICK = 0.25  # seconds at most between two looks of the watchdog, and of the thread that keeps the ledger
UNBOOKED = 0.01  # the share of a start's time that may pass without a line
REPEATED = ("training", "waiting for data", "validating")  # what the next start does again after a kill


class Entry(NamedTuple):
    """A line of the ledger."""

    started: float  # when the process started, seconds since 1970
    first: int  # the step that it went on from
    step: int  # the newest step it had begun
    seconds: dict[str, float]  # activity -> seconds so far


ENTRY = pydantic.TypeAdapter(Entry)


class Progress:
    """The activities of this process, one at a time. Calling it names the next one, which is progress."""

    def __init__(self, started: float):
        self.step = 0
        self._first: int | None = None
        self._started, self._started_at = started, time.time() - (time.monotonic() - started)
        self._activity, self._since = "importing", started
        self._seconds: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()  # of the seconds
        self._writing = threading.Lock()  # of the file: storage that hangs must not hold up who takes the other lock
        self._file: io.FileIO | None = None
        self._written = 0.0  # seconds since the start that the last line covers
        self._ticks = 0  # of the watchdog, since the last progress
        self._patient = False  # whether the activity may last however long

    def __call__(self, activity: str, patient: bool = False) -> None:
        with self._lock:
            self._book()
            self._activity, self._ticks, self._patient = activity, 0, patient

    def _book(self) -> None:
        now = time.monotonic()
        self._seconds[self._activity] += now - self._since
        self._since = now

    def total(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    @contextlib.contextmanager
    def ledger(self, directory: Path) -> Iterator[None]:
        """Keep the ledger of a workdir, in the first process, once the run has begun. Without one, the run goes on."""
        ended = threading.Event()
        if processes.is_first():
            with keeping(directory / LEDGER):
                file = (directory / LEDGER).open("ab+", buffering=0)
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)  # a line that a power cut has left unfinished
                self._file = file

        def keep() -> None:
            while not ended.wait(TICK):
                if self.total() - self._written > max(UNBOOKED * self._written, TICK):
                    self.write()

        if self._file:  # Not the watchdog's thread: where the storage hangs, that one must go on.
            threading.Thread(target=keep, name="ledger", daemon=True).start()
        try:
            yield
        finally:
            ended.set()
            self.write()
            with self._writing, contextlib.suppress(OSError):  # the thread may be writing
                kept, self._file = self._file, None
                if kept:
                    kept.close()

    def begin(self, step: int) -> None:
        """The run goes on from `step`."""
        self._first = self.step = step

    def write(self) -> None:
        """Write a line. A ledger that cannot be written must not end a run: whatever matters reports its own errors."""
        with self._writing, contextlib.suppress(OSError):
            with self._lock:
                self._book()
                seconds = {activity: round(value, 3) for activity, value in self._seconds.items()}
                step = self.step
            if self._file and self._first is not None:
                entry = Entry(self._started_at, self._first, step, seconds)
                line, size = f"{json.dumps(entry._asdict())}\n".encode(), self._file.seek(0, os.SEEK_END)
                if self._file.write(line) < len(line):  # the disk is full
                    self._file.truncate(size)
                self._written = sum(seconds.values())

    def tick(self, seconds: float, stall_seconds: int) -> None:
        """The watchdog's look, `seconds` after the last one: end the process if it has stalled.

        It counts its own looks: while the process is suspended (Ctrl-Z, `scontrol suspend`), there are none.
        """
        self._ticks += 1
        if stall_seconds and not self._patient and self._ticks * seconds > stall_seconds:
            faulthandler.dump_traceback(sys.stderr, all_threads=True)
            peers = ", or another process of the run has stopped" if processes.several() else ""
            processes.report(
                f"stalled: no progress for {stall_seconds} s (config.train.stall_seconds) while {self._activity}. The "
                f"stack of each thread is above. The storage may hang{peers}; once that is repaired, the same command "
                "resumes from the newest checkpoint"
            )
            os._exit(EXIT_STALLED)


@contextlib.contextmanager
def watched(stall_seconds: int, started: float | None = None) -> Iterator[Progress]:
    """Book what is done from the time.monotonic() `started` on; None: now.

    Ends the process with EXIT_STALLED after `stall_seconds` without progress; 0: never.
    """
    progress, ended = Progress(time.monotonic() if started is None else started), threading.Event()
    seconds = min(TICK, stall_seconds / 10) or TICK

    def watch() -> None:
        while not ended.wait(seconds):
            progress.tick(seconds, stall_seconds)

    threading.Thread(target=watch, name="watchdog", daemon=True).start()
    try:
        yield progress
    finally:
        ended.set()


def read(directory: Path) -> list[Entry]:
    """The lines of a workdir's ledger; none if it has none. Raises DataError if it is damaged."""
    path = directory / LEDGER
    with reading(f"{path} is damaged", "; without it, the run's times are unknown: delete it to go on"):
        content = path.read_bytes() if path.exists() else b""
        return [ENTRY.validate_json(line, strict=True) for line in content.split(b"\n")[:-1]]  # whole lines


def summary(entries: list[Entry]) -> dict[str, float]:
    """Seconds of a run by activity, in the order in which they first came. Their sum is the time since its first start.

    Among them "lost", the steps that a later start took again, and "down", between a start's last line and the next.
    """
    starts: dict[float, list[Entry]] = {}
    for entry in entries:
        starts.setdefault(entry.started, []).append(entry)
    seconds: dict[str, float] = defaultdict(float)
    lost, down, ended = 0.0, 0.0, None
    histories = list(starts.values())
    for number, lines in enumerate(histories):
        last = lines[-1].seconds
        down += max(lines[0].started - ended, 0) if ended is not None else 0
        ended = lines[0].started + sum(last.values())
        kept_until = min((later[0].first for later in histories[number + 1 :]), default=lines[-1].step)
        kept = next((line.seconds for line in reversed(lines) if line.step <= kept_until), {})
        for activity, value in last.items():
            again = value - kept.get(activity, 0.0) if activity in REPEATED else 0.0
            seconds[activity] += value - again
            lost += again
    return {**seconds, "lost": lost, "down": down} if starts else {}
