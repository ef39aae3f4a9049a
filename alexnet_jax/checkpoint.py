"""Checkpoints by Orbax: the training state and, beside it as JSON, the host's position and the config.

A checkpoint is written in the background, under a temporary name until it is whole. Arrays are stored as
[tower, ...] and restored onto whatever mesh asks for them.
"""

from pathlib import Path
from typing import Any, NamedTuple

import orbax.checkpoint as ocp

from alexnet_jax.errors import UserError
from alexnet_jax.optim import Validation


class Position(NamedTuple):
    """Where training stands on the host."""

    next_batch: int  # of the data, counted through all epochs
    validation: Validation
    log_bytes: int  # length of metrics.jsonl when the checkpoint was taken


def open_directory(directory: Path, keep: int) -> ocp.CheckpointManager:
    """The checkpoints in `directory`, of which the newest `keep` stay. Close it when done: that waits for writes."""
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True)
    return ocp.CheckpointManager(directory.absolute(), options=options)


def save(checkpoints: ocp.CheckpointManager, step: int, state: Any, position: Position, config: dict) -> None:
    """Starts writing the state after `step` steps; the state may be donated as soon as this returns."""
    described = position._asdict() | {"validation": position.validation._asdict()}
    saved = checkpoints.save(
        step,
        args=ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            position=ocp.args.JsonSave(described),
            config=ocp.args.JsonSave(config),  # for people and other programs; the workdir has it too
        ),
    )
    if not saved:
        raise RuntimeError(
            f"the checkpoint of step {step} was not saved: one of step {checkpoints.latest_step()} is there"
        )


def restore(checkpoints: ocp.CheckpointManager, abstract_state: Any) -> tuple[Any, Position] | None:
    """The newest state, placed as `abstract_state` says, and its position; None if there is none."""
    step = checkpoints.latest_step()
    if step is None:
        return None
    restored = checkpoints.restore(
        step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state), position=ocp.args.JsonRestore())
    )
    described = restored.position
    return restored.state, Position(**described | {"validation": Validation(**described["validation"])})


def restore_params(directory: Path, abstract_params: Any) -> tuple[int, Any]:
    """The step of the newest checkpoint in `directory` and its parameters, without the momentum."""
    if not directory.is_dir():
        raise UserError(
            f"{directory} does not exist: nothing was trained there yet; train first, or give another --workdir"
        )
    with ocp.CheckpointManager(directory.absolute(), options=ocp.CheckpointManagerOptions(create=False)) as checkpoints:
        step = checkpoints.latest_step()
        if step is None:
            raise UserError(f"{directory} holds no finished checkpoint; train on, or give another --workdir")
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
