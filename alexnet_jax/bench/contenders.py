"""Contenders: programs that do the same work, each in a process of its own, timed in turn.

So none suffers from what another leaves behind: memory that it keeps, threads that spin, settings of its process. All
stay loaded, and sleep until their turn. With each turn comes what other processes and other virtual machines took of
the cores meanwhile.
"""

import contextlib
import os
import resource
import signal
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from alexnet_jax.errors import UserError
from alexnet_jax.run import start_up

ENVIRONMENT = {  # of every contender, unless the caller has set the variable
    **start_up.LARGE_PAGES,  # as in launch/environment.sh
    "OMP_WAIT_POLICY": "passive",  # PyTorch's threads sleep at barriers: spinning doubles its time on a busy machine
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # all share one GPU
}
WARM_UP = 2  # steps


class Program(NamedTuple):
    """What a contender runs."""

    step: Callable[[], Any]  # begins a step
    wait: Callable[[Any], object]  # waits until the step that returned this is done
    memory: Callable[[], int]  # the most bytes in use so far
    ahead: int = 1  # steps to begin before waiting
    about: Any = None  # what else there is to report, which can be pickled


class Turn(NamedTuple):
    """What was measured in one turn."""

    steps_per_s: float
    cores: float  # that the process kept busy
    elsewhere: float  # the share of all cores' time that other processes, or other virtual machines, took


class Failed(UserError):
    """A contender cannot run; the message says why."""


class Contender:
    """A process that runs the program which `make(*arguments)` returns there. Raises Failed if it cannot."""

    def __init__(self, make: Callable[..., Program], *arguments: Any):
        added = {name: value for name, value in ENVIRONMENT.items() if name not in os.environ}
        context = get_context("spawn")  # GLIBC_TUNABLES is read when a program starts
        self._connection, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, make, arguments))
        os.environ.update(added)
        self._process.start()
        for name in added:
            del os.environ[name]
        there.close()
        self.about = self._answer()

    def turn(self, seconds: float) -> tuple[Turn, int]:
        """Run steps for about `seconds`. Returns what was measured, and the most bytes in use so far."""
        self._connection.send(seconds)
        return self._answer()

    def _answer(self) -> Any:
        try:
            answer = self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            raise Failed(f"its process ended with exit code {self._process.exitcode}") from None
        if isinstance(answer, Failed):
            raise answer
        return answer

    def close(self) -> None:
        self._connection.close()
        self._process.join()


def _serve(connection: Connection, make: Callable[..., Program], arguments: tuple) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller ends, and with it the connection
    start_up.prepare_process()
    try:
        program = make(*arguments)
        for _ in range(WARM_UP):
            program.wait(program.step())
        connection.send(program.about)
        with contextlib.suppress(EOFError):
            while True:
                connection.send((_timed(program, connection.recv()), program.memory()))
    except Exception as error:  # of any library, such as no memory or no compiler
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        connection.send(Failed(kind + str(error).partition("\n")[0][:500]))


def _timed(program: Program, seconds: float) -> Turn:
    program.wait(program.step())  # what slept is awake
    steps, start, own, others = 0, time.perf_counter(), _own_seconds(), _busy_seconds()
    while (elapsed := time.perf_counter() - start) < seconds or not steps:
        for _ in range(program.ahead):
            done = program.step()
        program.wait(done)
        steps += program.ahead
    own, others = _own_seconds() - own, _busy_seconds() - others
    elsewhere = (others - own) / elapsed / (os.cpu_count() or 1)
    elsewhere = min(1.0, max(0.0, elsewhere))  # the clock of others ticks only 100 times a second
    return Turn(steps / elapsed, own / elapsed, elsewhere)


def _own_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _busy_seconds() -> float:
    """Seconds that all cores have worked, for anyone, or were withheld by the host of a virtual machine."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _, _, irq, softirq, steal = map(int, stat.read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def ahead(platform: str) -> int:
    """Steps to begin before waiting: on accelerators several, since training does not wait after each either."""
    return 1 if platform == "cpu" else 8


def resident() -> int:
    """The most bytes of memory that this process has had."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
