"""What a command sets up for its process, before JAX is imported. The library leaves such choices to its callers."""

import errno
import functools
import importlib.util
import io
import logging
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DEV = Path("/dev")
ACCELERATORS = "nvidia*", "dxg", "accel[0-9]*", "vfio/[0-9]*"  # not vfio/vfio and accel/, which are everywhere
COMPILERS = "libtpu", "jax_cuda12_plugin"
LARGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}  # a variable that is read when a program starts


class Output(io.FileIO):
    """Standard output or error that loses what nobody can read, where an OSError would end a run before it is saved.

    That is what a terminal would have shown that is gone; and, once a run is `ending`, what a pipe would have carried
    whose reader has ended: in `alexnet train | tee log`, Ctrl-C ends tee at once.
    """

    ending = False  # set by stopping.stop_signals

    def write(self, content: Any) -> int:
        try:
            return super().write(content)
        except OSError as error:
            if error.errno == errno.EIO or (Output.ending and error.errno == errno.EPIPE):
                return memoryview(content).nbytes
            raise


def own_cache() -> str | None:
    """This machine's folder for compiled programs, as processors differ; None for a user without a home folder."""
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # as in a container that runs under an unknown number
        return None
    return str(caches / "alexnet_jax" / platform.node())


@functools.cache  # once a process
def prepare_process() -> None:
    """Keep compiled programs for the next start, show JAX's warnings, and silence what nobody can use.

    Where there is no accelerator, JAX is kept from looking for one with the compilers of extras aot-gpu and aot-tpu,
    which would complain at length. Programs are kept in `own_cache`, unless JAX_COMPILATION_CACHE_DIR names another
    folder. JAX warns that it falls back to the CPU where it cannot use a GPU; `main` silences every log without a level
    of its own. After an error Orbax abandons asyncio tasks, which would print tracebacks of their own when they are
    garbage-collected later.
    """
    if only_compilers():
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if cache := os.environ.get("JAX_COMPILATION_CACHE_DIR") or own_cache():
        os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")  # JAX's own is 1: a run has many
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if type(stream) is io.TextIOWrapper:  # else a test captures it, or it is closed
            stream.flush()
            buffer = io.BufferedWriter(Output(stream.fileno(), "w", closefd=False))
            lines, through = stream.line_buffering, stream.write_through
            setattr(sys, name, io.TextIOWrapper(buffer, stream.encoding, stream.errors, None, lines, through))
    logging.getLogger("jax").setLevel(logging.WARNING)
    before = sys.unraisablehook
    sys.unraisablehook = lambda args: None if str(args.exc_value) == "Event loop is closed" else before(args)
    logging.getLogger("asyncio").addFilter(lambda record: "exception was never retrieved" not in record.getMessage())


def accelerators() -> list[Path]:
    """The files in /dev of GPUs and TPUs."""
    return [path for name in ACCELERATORS for path in DEV.glob(name)]


def only_compilers() -> bool:
    """Whether there are compilers for accelerators (extras aot-gpu and aot-tpu), but no accelerator."""
    return not accelerators() and any(importlib.util.find_spec(package) for package in COMPILERS)


def cores(variables: Mapping[str, str] = os.environ) -> int:
    """The cores that XLA takes this process to have: NPROC, or those that it may use."""
    if (given := variables.get("NPROC", "")).isdigit():
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shares(count: int) -> list[set[int]]:
    """The cores that this process may use, shared out among `count` processes; empty sets where none can be chosen."""
    own = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return [set(own[i::count] or own[i % max(len(own), 1) :][:1]) for i in range(count)]


def use_cores(cores: set[int]) -> None:
    """Keep this process, and so XLA, to these cores. To be called before JAX starts its backend."""
    if cores:
        os.sched_setaffinity(0, cores)


def set_cores(count: int) -> None:
    """Let XLA take this process to have `count` cores. To be called before JAX starts its backend.

    On CPUs the order of its sums depends on the number of its threads, which is that of cores or of devices, whichever
    is larger.
    """
    os.environ["NPROC"] = str(count)


def large_pages_for_children() -> None:
    """Let the programs that this process starts use large pages, unless its environment says otherwise."""
    os.environ.update(LARGE_PAGES | dict(os.environ))
