"""The processes of a run, on one host or on several: how they meet, and what they agree on.

`jax.distributed` joins them. Each holds its share of the mesh's devices and runs the same program; all must make the
same calls in the same order, or they wait for each other forever.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from alexnet_jax.errors import CommandError, LostPeer, UserError
from alexnet_jax.run import start_up

MESSAGE_BYTES = 4096


def start(coordinator_address: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Join the other processes. What is None is read from the environment: Slurm, Open MPI, Cloud TPU, GKE."""
    try:
        jax.distributed.initialize(coordinator_address, num_processes, process_id)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"cannot determine the processes of this run ({error}); give --coordinator_address=HOST:PORT, "
            "--num_processes and --process_id, or start them by Slurm, Open MPI, or on Cloud TPU or GKE"
        ) from None
    # Only the first process writes compiled programs. On hosts whose caches are their own it alone would find them when
    # the run is started again, and the others, compiling, would wait for its share of the search for the fastest
    # kernels. A folder that the user named is one that all share.
    if several() and os.environ.get("JAX_COMPILATION_CACHE_DIR") == start_up.own_cache():
        jax.config.update("jax_compilation_cache_dir", None)


def several() -> bool:
    """Whether the run has more than one process."""
    return jax.process_count() > 1


def is_first() -> bool:
    """Whether this is the process that writes logs and everything else that is written once."""
    return jax.process_index() == 0


def from_first(function: Callable[[], str | None]) -> str:
    """The result of `function`, which only the first process calls, in all processes; at most MESSAGE_BYTES."""
    text = (function() if is_first() else None) or ""
    if not several():
        return text
    message = np.frombuffer(text.encode()[:MESSAGE_BYTES].ljust(MESSAGE_BYTES, b"\0"), np.uint8)
    return bytes(multihost_utils.broadcast_one_to_all(message)).rstrip(b"\0").decode(errors="replace")


def require_same(what: str, value: object) -> None:
    """Raise UserError in all processes unless `value`, as JSON, is the same in all."""
    if not several():
        return
    text = json.dumps(value, sort_keys=True)
    first = from_first(lambda: text)
    equal = multihost_utils.process_allgather(np.array(first == text[:MESSAGE_BYTES]))
    if others := ", ".join(map(str, np.flatnonzero(~equal))):
        raise UserError(
            f"{what} must be the same in all processes, but that of process(es) {others} differs from process 0. Here, "
            f"in process {jax.process_index()}: {text[:500]}; in process 0: {first[:500]}"
        )


@contextlib.contextmanager
def detect_lost_peers() -> Iterator[None]:
    """Turn what JAX and Orbax raise when another process is gone into LostPeer."""
    try:
        yield
    except Exception as error:
        if not (several() and _is_of_lost_peer(error)):
            raise
        raise LostPeer(
            "this process can no longer reach the others, most likely because one has ended; see that one's messages. "
            f"To resume, start all of them again with the same command: {' '.join(str(error).split())[:300]}"
        ) from error


def _is_of_lost_peer(error: BaseException | None) -> bool:
    """Whether an error comes from the communication between processes."""
    if error is None or isinstance(error, CommandError) or "RESOURCE_EXHAUSTED" in str(error):  # out of memory
        return False
    if isinstance(error, ValueError) and "Gloo" in str(error):  # on CPUs, from reading what the collective computed
        return True
    # Orbax turns the error of a barrier into a TimeoutError.
    return isinstance(error, jax.errors.JaxRuntimeError) or _is_of_lost_peer(error.__cause__)


def report(text: str) -> None:
    """Print on stderr, with the number of this process if there are several."""
    print(f"process {jax.process_index()}: {text}" if several() else text, file=sys.stderr, flush=True)
