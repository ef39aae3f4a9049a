"""Real processes for commands, forked from one that has imported what all of them import.

Starting Python with JAX takes two seconds of CPU time, and the tests start hundreds of commands. A forked process has
its own arguments, environment, working directory, output, signals and exit code, and starts its own JAX backend: the
process that it is forked from never does. Tests of the start itself use `subprocess`.
"""

import atexit
import contextlib
import functools
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

IMPORTED = (
    *("alexnet_jax.training", "alexnet_jax.inference.network", "alexnet_jax.interop.files", "alexnet_jax.paper.page"),
    *("alexnet_jax.data.packing", "alexnet_jax.data.verification", "alexnet_jax.configs.digits"),
)


class Process:
    """A forked process, with the interface of `subprocess.Popen` for text."""

    def __init__(self, *arguments: str, cwd: Path, env: Mapping[str, str], stdin: IO | None = None):
        """Start `python ARGUMENTS`, which begin with -m MODULE or -c PROGRAM."""
        self.args = list(arguments)
        self.returncode: int | None = None
        (out, out_end), (messages, messages_end), (status, status_end) = os.pipe(), os.pipe(), os.pipe()
        request = json.dumps({"argv": self.args, "cwd": str(cwd), "env": dict(env)}).encode()
        with Path(os.devnull).open() as nothing:
            socket.send_fds(_server(), [request], [(stdin or nothing).fileno(), out_end, messages_end, status_end])
        for end in (out_end, messages_end, status_end):
            os.close(end)
        self.stdout, self.stderr, self._status = map(os.fdopen, (out, messages, status))
        self.pid = int(self._status.readline())

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while the process runs."""
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            with self._status:
                self.returncode = os.waitstatus_to_exitcode(int(self._status.readline()))
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        end = time.monotonic() + (timeout or float("inf"))
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            time.sleep(0.005)
        assert self.returncode is not None
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What is left of the output and of the messages, once both and the process have ended."""
        texts = ["", ""]

        def read(i: int, stream: IO[str]) -> None:
            with stream:
                texts[i] = stream.read()

        streams = [(i, stream) for i, stream in enumerate((self.stdout, self.stderr)) if not stream.closed]
        threads = [threading.Thread(target=read, args=each, daemon=True) for each in streams]
        for thread in threads:
            thread.start()
        end = time.monotonic() + (timeout or float("inf"))
        for thread in threads:
            thread.join(None if timeout is None else max(0.0, end - time.monotonic()))
        if any(thread.is_alive() for thread in threads):
            raise subprocess.TimeoutExpired(self.args, timeout or 0, texts[0], texts[1])
        self.wait(timeout)
        return texts[0], texts[1]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@functools.cache
def _server() -> socket.socket:
    """The connection to the process that forks, which is started at first use and ends with this one."""
    from tests.runs import ROOT, environment

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", "tests.forks", str(theirs.fileno())]
    server = subprocess.Popen(
        command, cwd=ROOT, env=environment(), pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
    )
    atexit.register(server.wait)
    atexit.register(ours.close)  # before that
    theirs.close()
    return ours


def _serve(connection: socket.socket) -> None:
    """Fork a process for each request. Returns in the forked ones, and when the connection is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in IMPORTED:
        __import__(name)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # waits for the parents below, which nobody else does
    while True:
        request, descriptors, _, _ = socket.recv_fds(connection, 2**20, 4)
        if not request:
            return
        if os.fork() == 0:
            connection.close()
            *standard, status = descriptors
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            if pid := os.fork():  # the parent, which reports how the process ended
                os.write(status, f"{pid}\n".encode())
                for descriptor in (*standard, 0, 1, 2):
                    os.close(descriptor)
                os.write(status, f"{os.waitpid(pid, 0)[1]}\n".encode())
                os._exit(0)
            os.close(status)
            for number, descriptor in enumerate(standard):
                os.dup2(descriptor, number)
                os.close(descriptor)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            _run(**json.loads(request))
            return
        for descriptor in descriptors:
            os.close(descriptor)


def _run(argv: list[str], cwd: str, env: dict[str, str]) -> None:
    """Do what `python ARGV` does."""
    kind, program, *_ = argv
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv[:], sys.path[0] = argv[1:], cwd
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    if kind == "-m":
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        exec(program, {"__name__": "__main__"})


if __name__ == "__main__":
    with contextlib.closing(socket.socket(fileno=int(sys.argv[1]))) as opened:
        _serve(opened)
