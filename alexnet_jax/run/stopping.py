"""Stopping a run by a signal, after which all its processes stop at the same step."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax import Array
from jax.sharding import Mesh

from alexnet_jax import sharding
from alexnet_jax.run import processes, start_up

ASKS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
SIGNALS = (*ASKS, signal.SIGHUP)


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Catch SIGNALS: the function that this yields returns whether one came. A second one of ASKS ends the process.

    A SIGHUP does not: when a connection drops, the kernel, the shell and the login service may each send one, and a
    SIGTERM too. Where it is ignored, as under nohup, it stays so.
    """
    received: list[int] = []

    def handle(number: int, frame: Any) -> None:
        received.append(number)
        start_up.Output.ending = True
        with contextlib.suppress(OSError):  # the terminal may be gone
            os.write(2, b"\nstopping after this step, then saving")
            os.write(2, b"\n" if number == signal.SIGHUP else b"; once more ends at once, unsaved\n")
        if number in ASKS:
            for asks in ASKS:
                signal.signal(asks, signal.SIG_DFL)

    caught = SIGNALS if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN else ASKS
    before = {number: signal.signal(number, handle) for number in caught}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Stop:
    """Whether to stop. If one process is asked to, all must stop at the same step: they vote in every step."""

    def __init__(self, asked: Callable[[], bool], mesh: Mesh):
        self._asked, self._alone, self._agreed = asked, not processes.several(), False
        self._votes = {answer: sharding.votes(answer, mesh) for answer in (False, True)}
        self._count = jax.jit(lambda votes: votes.any())

    def vote(self) -> Array:
        """Whether this process was asked to stop, for `steps.make_train_step`. Give the result to `hear`."""
        return self._votes[not self._alone and self._asked()]

    def hear(self, stop: Any) -> None:
        """Record the outcome of a vote."""
        self._agreed = self._agreed or bool(stop)

    def __call__(self) -> bool:
        """Whether to stop: a single process if it was asked to, several once all have heard it."""
        self._agreed = self._agreed or (self._alone and self._asked())
        return self._agreed

    def now(self) -> bool:
        """Hold a vote and wait for its outcome. Only while no step is running."""
        if not self._alone:
            self.hear(self._count(self.vote()))
        return self()
