"""The processes of a run, on one host or on several: how they meet, and what they agree on.

JAX's own engine (`jax.distributed`) joins them. Each holds its share of the mesh's devices and runs the same program;
all go through the same calls in the same order, or they would wait for each other for ever.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from alexnet_jax.errors import EXIT_INTERRUPTED, EXIT_OK, LostPeer, UserError

MESSAGE_BYTES = 4096


def start(coordinator_address: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Joins the other processes. What is None is found from the environment: Slurm, Open MPI, Cloud TPU, GKE."""
    try:
        jax.distributed.initialize(coordinator_address, num_processes, process_id)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"the processes of this run are not known ({error}); give --coordinator_address=HOST:PORT, "
            "--num_processes and --process_id, or start them by Slurm, Open MPI, or on Cloud TPU or GKE"
        ) from None


def several() -> bool:
    return jax.process_count() > 1


def is_first() -> bool:
    """Whether this is the process that writes logs and what else is written once."""
    return jax.process_index() == 0


def of_first(function: Callable[[], str]) -> str:
    """The result of `function`, which only the first process calls."""
    said = function() if is_first() else ""
    if not several():
        return said
    message = np.zeros(MESSAGE_BYTES, np.uint8)
    encoded = np.frombuffer(said.encode()[:MESSAGE_BYTES], np.uint8)
    message[: len(encoded)] = encoded
    return bytes(multihost_utils.broadcast_one_to_all(message)).rstrip(b"\0").decode(errors="replace")


def require_same(what: str, here: object) -> None:
    """Raises UserError, in all processes, unless `here`, as JSON, is the same in all."""
    text = json.dumps(here, sort_keys=True)
    first = of_first(lambda: text)
    equal = multihost_utils.process_allgather(np.array(first == text[:MESSAGE_BYTES])) if several() else np.array(True)
    if not np.all(equal):
        others = ", ".join(str(i) for i in np.flatnonzero(~np.asarray(equal)))
        raise UserError(
            f"{what} must be the same in all processes; that of process(es) {others} is not that of process 0. Here, "
            f"in process {jax.process_index()}: {text[:500]}; in process 0: {first[:500]}"
        )


@contextlib.contextmanager
def peers_told() -> Iterator[None]:
    """Raises what JAX says when another process is gone as LostPeer."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not several():
            raise
        raise LostPeer(
            "this process can no longer reach the others, most likely as one has ended: see what that one told. Start "
            f"all again with the same command, to go on: {' '.join(str(error).split())[:300]}"
        ) from error


def tell(text: str) -> None:
    """On stderr, with the process's number if there are several."""
    print(f"process {jax.process_index()}: {text}" if several() else text, file=sys.stderr, flush=True)


def leave(code: int) -> NoReturn:
    """Ends the process with an exit code: together with the others or, after an error, at once, as they may be gone."""
    sys.stdout.flush()
    sys.stderr.flush()
    if several() and code not in (EXIT_OK, EXIT_INTERRUPTED):
        os._exit(code)
    sys.exit(code)
