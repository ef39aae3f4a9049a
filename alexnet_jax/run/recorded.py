"""What a run has written, to be compared with what it leads to: its log and its checkpoints."""

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from alexnet_jax.errors import EXIT_DATA_ERROR, DataError, UserError
from alexnet_jax.run import checkpoint, checksums, workdir
from alexnet_jax.run.checkpoint import Checkpoints, Position
from alexnet_jax.run.writer import Writer
from alexnet_jax.run_config import Config

NOT_OF_THE_NUMBERS = ("images_per_s", "data_wait", "bad_records")  # they depend on the machine, or on when it started


class Different(UserError):
    """The run does not hold what its steps lead to."""

    prefix, code = "not verified", EXIT_DATA_ERROR


class Stretch(NamedTuple):
    first: int  # a checkpoint, or 0
    last: int


class OtherData(Different):
    """The data given for the check are not those of the run: which says nothing about the run."""


class Run(NamedTuple):
    """A workdir as it is checked; nothing is written to it."""

    directory: Path
    config: Config
    run_file: workdir.RunFile
    checkpoints: Checkpoints

    @property
    def saved(self) -> list[int]:
        return workdir.saved_steps(self.directory)

    def saved_with(self, step: int) -> dict[str, Any]:
        """The config of a checkpoint, and its start if it is not of an imported network. DataError if damaged."""
        try:
            saved = json.loads((self.directory / workdir.CHECKPOINTS / str(step) / "run/metadata").read_text())
            return {"config": saved["config"], "start": saved.get("start")}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataError(f"the checkpoint of step {step} is damaged: {error}") from None


class Record(Writer):
    """A writer that compares with what a run wrote in a stretch instead of writing."""

    def __init__(self, run: Run, stretch: Stretch, position: Position):
        log = run.directory / workdir.METRICS
        before = log.read_bytes()[: position.log_bytes] if log.exists() else b""
        if len(before) < position.log_bytes or before[-1:] not in (b"", b"\n"):
            raise Different(f"{log} is not the log that the checkpoint of step {stretch.first} was saved with")
        lines = workdir.read_metrics(run.directory)[before.count(b"\n") :]
        self.lines = list(itertools.takewhile(lambda line: line["step"] <= stretch.last, lines))
        if any(line["step"] <= stretch.last for line in lines[len(self.lines) :]):
            raise Different(f"{log} has lines out of the order of their steps")
        self.compared = Counter[str]()  # numbers of lines, by phase
        self.checkpoints: list[int] = []  # those that were compared
        self._run, self._stretch, self._sound = run, stretch, stretch.first
        self._bar = tqdm(total=stretch.last - stretch.first, unit="step", disable=None)

    def validated(self, last: int) -> bool:
        """Whether no validation of the steps up to `last` is left."""
        return all(line["phase"] != "validation" or line["step"] > last for line in self.lines)

    @property
    def log_bytes(self) -> int:
        return 0

    def scalars(self, step: int, phase: str, values: dict[str, float], checksum: str) -> None:
        if not self.lines:
            raise self.different(step, f"the log lacks the line of step {step} ({phase})")
        there, here = self.lines.pop(0), {"step": step, "phase": phase, **values, "checksum": checksum}
        for key in dict.fromkeys((*here, *there)):
            if key not in NOT_OF_THE_NUMBERS and there.get(key) != here.get(key):
                raise self.different(step, f"{key} ({phase}) is {there.get(key)} in the log and {here.get(key)} here")
        self.compared[phase] += 1
        self._sound = step

    def checkpoint(self, state: Any, position: Position) -> None:
        step = position.next_batch
        if step not in self._run.saved or step > self._stretch.last:
            return
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        try:
            there = checkpoint.restore_step(self._run.checkpoints, step, abstract)
        except DataError as error:
            raise self.different(step, str(error)) from None
        for (name, a), b in zip(checksums.by_name(there.state).items(), jax.tree.leaves(state), strict=True):
            if np.asarray(a).tobytes() != np.asarray(b).tobytes():
                raise self.different(step, f"{name} in the checkpoint of step {step} has other numbers here")
        if there.position.validation.step != position.validation.step:  # it was saved before the validation
            position = position._replace(validation=there.position.validation)
        if (stored := there.position._replace(log_bytes=0)) != position:
            raise self.different(step, f"the checkpoint of step {step} has {stored}, and here it is {position}")
        self.checkpoints.append(step)
        self._sound = step

    def end(self) -> None:
        """Raise Different if something that the run has written in the stretch has not been compared."""
        if self.lines:
            line = self.lines[0]
            raise self.different(line["step"], f"the log has a line ({line['phase']}) that the run does not write")
        first, last = self._stretch
        if others := [step for step in self._run.saved if first < step <= last and step not in self.checkpoints]:
            raise self.different(others[0], "there is a checkpoint that the run does not save")

    def different(self, step: int, what: str) -> Different:
        """The error to raise for a difference at `step`."""
        since = f"steps up to {self._sound} are the same" if self._sound else "no step before was compared"
        return Different(f"step {step}: {what}; {since}")

    def advance(self) -> None:
        self._bar.update()

    def message(self, text: str) -> None: ...

    def warning(self, text: str) -> None: ...

    def parameters(self, *_: Any) -> None: ...

    def progress(self, *_: Any) -> None: ...

    def close(self) -> None:
        self._bar.close()
