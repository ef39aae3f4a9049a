"""Checkpoints by Orbax: the training state and, beside it as JSON, the host's position and the config.

A checkpoint is written in the background, under a temporary name until it is whole. Arrays are stored as
[tower, ...] and restored onto whatever mesh asks for them.

Orbax keeps no checksums: it would restore flipped bytes without a word. So each array's sum, taken on the devices
before it is written, lies beside it, and nothing is restored that does not have it.
"""

import contextlib
import functools
import itertools
import json
import logging
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from alexnet_jax.errors import DataError, StorageError, UserError
from alexnet_jax.optim import Validation
from alexnet_jax.run import checksums, processes

DAMAGED = "damaged"  # the folder beside that of the checkpoints where unsound ones are put


class Position(NamedTuple):
    """Where training stands on the host."""

    next_batch: int  # of the data, counted through all epochs
    validation: Validation
    log_bytes: int  # length of metrics.jsonl when the checkpoint was taken


@contextlib.contextmanager
def open_directory(directory: Path, keep: int) -> Iterator[ocp.CheckpointManager]:
    """The checkpoints in `directory`, of which the newest `keep` stay. The end waits for what is being written.

    Raises StorageError if that cannot be written.
    """
    _leave_unheard()
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
    checkpoints = ocp.CheckpointManager(directory.absolute(), options=options)
    try:
        yield checkpoints
        wait(checkpoints)
    except BaseException:
        if not processes.several():  # else this would wait for those that may be gone
            with contextlib.suppress(Exception):  # what is wrong is on its way already
                checkpoints.close()
        raise
    checkpoints.close()


def save(checkpoints: ocp.CheckpointManager, step: int, state: Any, position: Position, config: dict) -> None:
    """Starts writing the state after `step` steps; the state may be donated as soon as this returns.

    Raises StorageError if this checkpoint or the one before it cannot be written.
    """
    described = position._asdict() | {"validation": position.validation._asdict()}
    taken = {
        "state": jax.tree.map(int, jax.device_get(checksums.of_devices(checksums.by_name(state)))),
        "position": checksums.of_json(described),
    }
    with _storage(checkpoints):
        saved = checkpoints.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                position=ocp.args.JsonSave(described),
                sums=ocp.args.JsonSave(taken),
                config=ocp.args.JsonSave(config),  # for people and other programs; the workdir has it too
            ),
        )
    if not saved:
        raise StorageError(
            f"the checkpoint of step {step} was not saved: one of step {checkpoints.latest_step()} is there already"
        )


def check(checkpoints: ocp.CheckpointManager) -> None:
    """Raises StorageError if a checkpoint could not be written in the background."""
    with _storage(checkpoints):
        checkpoints.check_for_errors()


def wait(checkpoints: ocp.CheckpointManager) -> None:
    """Until all checkpoints are written. Raises StorageError if one cannot be."""
    with _storage(checkpoints):
        checkpoints.wait_until_finished()


@contextlib.contextmanager
def _storage(checkpoints: ocp.CheckpointManager) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Orbax and TensorStore raise many kinds
        checkpoints.reload()
        there = sorted(checkpoints.all_steps())
        sound = f"the newest that is there is of step {there[-1]}" if there else "there is none yet"
        raise StorageError(
            f"a checkpoint could not be written to {checkpoints.directory}, and {sound}. Make room, or mend what is "
            f"told here; the same command then goes on from there:\n  {' '.join(str(error).split())[:2000]}"
        ) from error


def restore(checkpoints: ocp.CheckpointManager, abstract_state: Any) -> tuple[Any, Position, list[str]] | None:
    """The newest sound state, placed as `abstract_state` says, its position, and what to tell of unsound ones.

    None if there is no checkpoint. Unsound ones are put into the folder DAMAGED. Raises DataError if none is sound.
    """
    directory = Path(checkpoints.directory)
    step, damaged = _newest_sound(checkpoints, abstract_state)
    told = [f"the checkpoint of step {bad} is damaged: {problem}" for bad, problem in damaged.items()]
    if step is None:
        if told:
            raise DataError(
                "\n".join(told) + f"\nNo checkpoint in {directory} is sound: put one back from a copy, or give "
                "another --workdir to begin again"
            )
        return None
    restored = checkpoints.restore(
        step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state), position=ocp.args.JsonRestore())
    )
    described = restored.position
    if damaged:
        processes.of_first(functools.partial(_put_aside, directory, list(damaged)))
        checkpoints.reload()
        told.append(f"that of step {step} is sound and is used; the damaged are in {directory.parent / DAMAGED}")
    return restored.state, Position(**described | {"validation": Validation(**described["validation"])}), told


def restore_params(directory: Path, abstract_params: Any) -> tuple[int, Any]:
    """The step of the newest sound checkpoint in `directory` and its parameters, without the momentum."""
    if not directory.is_dir():
        raise UserError(
            f"{directory} does not exist: nothing was trained there yet; train first, or give another --workdir"
        )
    _leave_unheard()
    options = ocp.CheckpointManagerOptions(create=False)
    with ocp.CheckpointManager(directory.absolute(), options=options) as checkpoints:
        step, damaged = _newest_sound(checkpoints, None)
        for bad, problem in damaged.items():
            processes.tell(f"warning: the checkpoint of step {bad} is not used, it is damaged: {problem}")
        if step is None:
            raise UserError(f"{directory} holds no finished, sound checkpoint; train on, or give another --workdir")
        wanted = {"params": abstract_params}
        restored = checkpoints.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeRestore(
                    wanted,
                    restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
                    partial_restore=True,
                )
            ),
        )
    return step, restored.state["params"]


def _newest_sound(checkpoints: ocp.CheckpointManager, expected: Any | None) -> tuple[int | None, dict[int, str]]:
    """The step of the newest sound checkpoint, if there is one, and what is wrong with those that are newer.

    What holds more numbers than the state `expected`, if that is given, is not even read.
    """
    damaged: dict[int, str] = {}
    numbers = sum(leaf.size for leaf in jax.tree.leaves(expected)) if expected else None
    for step in sorted(checkpoints.all_steps(), reverse=True):
        problem = processes.of_first(functools.partial(_problem, Path(checkpoints.directory) / str(step), numbers))
        if not problem:
            return step, damaged
        damaged[step] = problem
    return None, damaged


def _put_aside(directory: Path, steps: list[int]) -> str:
    aside = directory.parent / DAMAGED
    aside.mkdir(exist_ok=True)
    for step in steps:
        names = (aside / f"{step}{again}" for again in itertools.chain([""], (f".{i}" for i in itertools.count(1))))
        (directory / str(step)).rename(next(name for name in names if not name.exists()))
    return ""


def _problem(directory: Path, numbers: int | None) -> str:
    """What is wrong with a checkpoint, in a line; "" if it is sound. Reads it whole, in this process alone.

    One of more than so many numbers is not read, if they are given.
    """
    try:
        return _difference(directory, numbers)
    except Exception as error:  # Orbax, TensorStore and json raise many kinds, and a bare Exception
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


@functools.cache  # once is enough
def _leave_unheard() -> None:
    """The tasks that Orbax leaves behind after an error print no traces of their own when they are cleared, later."""
    before = sys.unraisablehook
    sys.unraisablehook = lambda args: None if str(args.exc_value) == "Event loop is closed" else before(args)
    logging.getLogger("asyncio").addFilter(lambda record: "exception was never retrieved" not in record.getMessage())


def _difference(directory: Path, numbers: int | None) -> str:
    """What is not as it was written; raises whatever its readers raise."""
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(), active_processes={jax.process_index()}, barrier_sync_key_prefix="verify"
    )
    taken, described = (json.loads((directory / name / "metadata").read_text()) for name in ("sums", "position"))
    if checksums.of_json(described) != taken["position"]:
        return "position/metadata has changed since it was written"
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as reader:
        stored = handler.metadata(directory / "state").tree
        claimed = sum(math.prod(array.shape) for array in jax.tree.leaves(stored))
        if numbers is not None and claimed > numbers:
            return f"it claims to hold {claimed:,} numbers, and the state of this config has {numbers:,}"
        on_host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), stored)
        state = reader.restore(directory / "state", args=ocp.args.PyTreeRestore(restore_args=on_host))
    changed = [
        name for name, leaf in checksums.by_name(state).items() if checksums.of_host(leaf) != taken["state"].pop(name)
    ]
    if changed or taken["state"]:
        return f"{', '.join(changed) or 'an array'} has changed since it was written"
    return ""
