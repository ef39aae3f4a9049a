"""When a run ends before its end: on a signal, at one step boundary in all processes; and when nothing moves."""

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax import Array
from jax.sharding import Mesh

from alexnet_jax import sharding
from alexnet_jax.errors import EXIT_STALLED
from alexnet_jax.run import processes

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Within, SIGNALS only make the given function return True. A second one ends the process at once."""
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        received.append(number)
        os.write(2, b"\nstopping after this step and saving; once more ends at once, unsaved\n")
        for known in before:
            signal.signal(known, signal.SIG_DFL)

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Stop:
    """Whether to stop. What one process is asked to, all must do at the same step: so they vote, in every step."""

    def __init__(self, asked: Callable[[], bool], mesh: Mesh):
        self._asked, self._alone, self.agreed = asked, not processes.several(), False
        self._votes = {answer: sharding.votes(answer, mesh) for answer in (False, True)}
        self._count = jax.jit(lambda votes: votes.any())

    def vote(self) -> Array:
        """What this process has been asked, for `steps.make_train_step`; its result comes back by `hear`."""
        return self._votes[not self._alone and self._asked()]

    def hear(self, stop: Any) -> None:
        """What all have said in a step."""
        self.agreed = self.agreed or bool(stop)

    def __call__(self) -> bool:
        """Alone, whether this process has been asked; else whether all have heard it."""
        self.agreed = self.agreed or (self._alone and self._asked())
        return self.agreed

    def now(self) -> bool:
        """As `__call__`, but asks all processes and waits for them: only while no step is running."""
        if not self._alone:
            self.hear(self._count(self.vote()))
        return self()


@contextlib.contextmanager
def watchdog(seconds: int) -> Iterator[Callable[[str], None]]:
    """Ends the process with EXIT_STALLED and the stacks of its threads once nothing has moved for `seconds`; 0: never.

    Within, the given function says that something has moved, and what is done next.
    """
    last, at = "starting", time.monotonic()
    ended = threading.Event()

    def moved(doing: str) -> None:
        nonlocal last, at
        last, at = doing, time.monotonic()

    def watch() -> None:
        while not ended.wait(min(1.0, seconds / 10)):
            if time.monotonic() - at > seconds:
                faulthandler.dump_traceback(sys.stderr, all_threads=True)
                peers = ", or another process of the run has stopped" if processes.several() else ""
                processes.tell(
                    f"stalled: nothing has moved for {seconds} s (config.train.stall_seconds), last {last}. Above is "
                    f"where each thread is. The storage may hang{peers}; once mended, the same command goes on from "
                    "the newest checkpoint"
                )
                os._exit(EXIT_STALLED)

    thread = threading.Thread(target=watch, name="watchdog", daemon=True)
    if seconds:
        thread.start()
    try:
        yield moved
    finally:
        ended.set()
