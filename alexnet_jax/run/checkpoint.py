"""Checkpoints by Orbax: the training state and, beside it as JSON, the host's position and the config.

A checkpoint is written in the background, under a temporary name until it is complete. Arrays are stored as
[tower, ...] and restored onto any mesh.

Orbax keeps no checksums: it would restore flipped bytes without a word. So each array's checksum, taken on the devices
before it is written, is stored beside it, and nothing is restored whose checksum differs.
"""

import contextlib
import functools
import itertools
import json
import math
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
import orbax.checkpoint as ocp

from alexnet_jax.errors import DataError, LostPeer, StorageError, UserError
from alexnet_jax.optim import Validation
from alexnet_jax.run import checksums, processes

DAMAGED = "damaged"  # the folder, beside that of the checkpoints, that damaged ones are moved to
Checkpoints: TypeAlias = ocp.CheckpointManager


class Position(NamedTuple):
    """Where training stands on the host."""

    next_batch: int  # of the data, counted through all epochs
    validation: Validation
    log_bytes: int  # length of metrics.jsonl when the checkpoint was taken
    target_reached: bool = False  # whether `train.stop_error` has ended the run


class Restored(NamedTuple):
    state: Any
    position: Position
    warnings: list[str]  # about newer checkpoints that are damaged


@contextlib.contextmanager
def open_directory(directory: Path, keep: int, keep_every: int = 0) -> Iterator[Checkpoints]:
    """Open `directory`, and keep its newest `keep` checkpoints, and for good those of multiples of `keep_every` steps.

    Leaving waits for writes, or raises StorageError.
    """
    background = ocp.options.AsyncOptions(barrier_sync_fn=_barrier)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, keep_period=keep_every or None, cleanup_tmp_directories=True, async_options=background
    )
    checkpoints = ocp.CheckpointManager(directory.absolute(), options=options)
    try:
        yield checkpoints
        wait(checkpoints)
    except BaseException:
        if not processes.several():  # else this would wait for processes that may be gone
            with contextlib.suppress(Exception):  # an error is already on its way
                checkpoints.close()
        raise
    checkpoints.close()


def _barrier(*, key: str, timeout_ms: int) -> None:
    """Wait for the other processes, unless this one's write has failed: they wait where it never comes."""
    if threading.current_thread() is not threading.main_thread() and (error := sys.exc_info()[1]):
        raise error
    ocp.multihost.get_barrier_sync_fn()(key=key, timeout_ms=timeout_ms)


def open_for_reading(directory: Path) -> Checkpoints:
    """Open `directory` without changing it. Raises UserError if it is missing."""
    if not directory.is_dir():
        raise UserError(f"{directory} does not exist: nothing was trained there yet; train, or give another --workdir")
    return ocp.CheckpointManager(directory.absolute(), options=ocp.CheckpointManagerOptions(create=False))


def save(checkpoints: Checkpoints, step: int, state: Any, position: Position, run: dict) -> None:
    """Start writing the state, which may then be donated. Raises StorageError if this save or the last one fails.

    `run` says what it was computed with, as JSON: the config and the start of the run, as in run.json.
    """
    described = position._asdict() | {"validation": position.validation._asdict()}
    of_arrays = checksums.of_arrays(state)
    sums = {
        "state": of_arrays,
        "checksum": checksums.of_state(of_arrays),  # as in the log
        "position": checksums.of_json(described),
        "run": checksums.of_json(run),
    }
    with _storage(checkpoints):
        saved = checkpoints.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                position=ocp.args.JsonSave(described),
                sums=ocp.args.JsonSave(sums),
                run=ocp.args.JsonSave(run),
            ),
        )
    if not saved:
        newest = checkpoints.latest_step()
        raise StorageError(f"the checkpoint of step {step} was not saved: there already is one of step {newest}")


def check(checkpoints: Checkpoints) -> None:
    """Raise StorageError if a checkpoint could not be written in the background."""
    with _storage(checkpoints):
        checkpoints.check_for_errors()


def wait(checkpoints: Checkpoints) -> None:
    """Wait until all checkpoints are written. Raises StorageError if one cannot be."""
    with _storage(checkpoints):
        checkpoints.wait_until_finished()


@contextlib.contextmanager
def _storage(checkpoints: Checkpoints) -> Iterator[None]:
    try:
        with processes.detect_lost_peers():
            yield
    except LostPeer:
        raise
    except Exception as error:  # Orbax and TensorStore raise many kinds
        checkpoints.reload()
        steps = sorted(checkpoints.all_steps())
        newest = f"the newest one there is of step {steps[-1]}" if steps else "there is none yet"
        raise StorageError(
            f"a checkpoint could not be written to {checkpoints.directory}, and {newest}. Make room, or repair what "
            f"the error below says; the same command then resumes from there:\n  {' '.join(str(error).split())[:2000]}"
        ) from error


def restore(checkpoints: Checkpoints, abstract_state: Any) -> Restored | None:
    """The newest intact checkpoint, its state placed as `abstract_state` says; None if there is no checkpoint.

    Damaged newer ones are moved to the folder DAMAGED. Raises DataError if there are only damaged ones.
    """
    directory = Path(checkpoints.directory)
    step, damaged = _newest_intact(checkpoints, sum(leaf.size for leaf in jax.tree.leaves(abstract_state)))
    warnings = [f"the checkpoint of step {bad} is damaged: {problem}" for bad, problem in damaged.items()]
    if step is None and warnings:
        raise DataError(
            "\n".join(warnings) + f"\nNo checkpoint in {directory} is intact: put one back from a copy, or give "
            "another --workdir to start again"
        )
    if step is None:
        return None
    restored = _restored(checkpoints, step, abstract_state)
    if damaged:
        processes.from_first(functools.partial(_move_aside, directory, list(damaged)))
        checkpoints.reload()
        aside = directory.parent / DAMAGED
        warnings.append(f"the checkpoint of step {step} is intact and is used; damaged ones were moved to {aside}")
    return restored._replace(warnings=warnings)


def restore_step(checkpoints: Checkpoints, step: int, abstract_state: Any) -> Restored:
    """The checkpoint of `step`. Raises DataError if it is damaged."""
    path = Path(checkpoints.directory) / str(step)
    if problem := _problem(path, sum(leaf.size for leaf in jax.tree.leaves(abstract_state))):
        raise DataError(f"the checkpoint of step {step} is damaged: {problem}")
    return _restored(checkpoints, step, abstract_state)


def _restored(checkpoints: Checkpoints, step: int, abstract_state: Any) -> Restored:
    arguments = ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state), position=ocp.args.JsonRestore())
    restored = checkpoints.restore(step, args=arguments)
    validation = Validation(**restored.position["validation"])
    return Restored(restored.state, Position(**restored.position | {"validation": validation}), [])


def restore_params(directory: Path, abstract_params: Any, only: int | None = None) -> tuple[int, Any]:
    """The step and `TrainState.eval_params` of the newest intact checkpoint, or of that of `only`; or UserError."""
    with open_for_reading(directory) as checkpoints:
        step, damaged = _newest_intact(checkpoints, math.inf, only)
        for bad, problem in damaged.items():
            processes.report(f"warning: the checkpoint of step {bad} is damaged and is not used: {problem}")
        if step is None:
            raise UserError(f"{directory} holds no complete, intact checkpoint; train on, or give another --workdir")
        sums = json.loads((directory / str(step) / "sums/metadata").read_text())["state"]
        kind = "average" if any(name.startswith("average/") for name in sums) else "params"
        wanted = {kind: abstract_params}
        restore_args = ocp.checkpoint_utils.construct_restore_args(wanted)
        arguments = ocp.args.PyTreeRestore(wanted, restore_args=restore_args, partial_restore=True)
        return step, checkpoints.restore(step, args=ocp.args.Composite(state=arguments)).state[kind]


def _newest_intact(checkpoints: Checkpoints, most: float, only: int | None = None) -> tuple[int | None, dict[int, str]]:
    """The step of the newest intact checkpoint, if there is one, and step -> problem of the newer ones.

    A checkpoint of more numbers than `most` is damaged, and is not even read.
    """
    damaged: dict[int, str] = {}
    for step in sorted(checkpoints.all_steps() if only is None else [only], reverse=True):
        path = Path(checkpoints.directory) / str(step)
        if not (problem := processes.from_first(functools.partial(_problem, path, most))):
            return step, damaged
        damaged[step] = problem
    return None, damaged


def _move_aside(directory: Path, steps: list[int]) -> None:
    aside = directory.parent / DAMAGED
    aside.mkdir(exist_ok=True)
    for step in steps:
        names = (aside / f"{step}{suffix}" for suffix in itertools.chain([""], (f".{i}" for i in itertools.count(1))))
        (directory / str(step)).rename(next(name for name in names if not name.exists()))


def _problem(directory: Path, numbers: float) -> str:
    """What is wrong with a checkpoint, in a line; "" if it is intact. Reads all of it, in this process alone."""
    try:
        return _difference(directory, numbers)
    except Exception as error:  # Orbax, TensorStore and json raise many kinds, and a bare Exception
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _difference(directory: Path, numbers: float) -> str:
    """What differs from what was written, or ""; raises whatever the readers raise."""
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(), active_processes={jax.process_index()}, barrier_sync_key_prefix="verify"
    )
    names = ("sums", "position", "run")
    sums, *others = (json.loads((directory / name / "metadata").read_text()) for name in names)
    for name, content in zip(names[1:], others, strict=True):
        if checksums.of_json(content) != sums[name]:
            return f"{name}/metadata has changed since it was written"
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as reader:
        stored = handler.metadata(directory / "state").tree
        claimed = sum(math.prod(array.shape) for array in jax.tree.leaves(stored))
        if claimed > numbers:
            return f"it claims to hold {claimed:,} numbers, and the state of this config has {numbers:,}"
        on_host = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), stored)
        state = reader.restore(directory / "state", args=ocp.args.PyTreeRestore(restore_args=on_host))
    leaves, expected = checksums.by_name(state), sums["state"]
    if checksums.of_state(expected) != sums["checksum"]:
        return "its checksum has changed since it was written"
    changed = [name for name, leaf in leaves.items() if checksums.on_host(leaf) != expected.pop(name)]
    if changed or expected:
        return f"{', '.join(changed) or 'an array'} has changed since it was written"
    return ""
