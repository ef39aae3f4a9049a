"""The folder of one training run:

    config.json       the resolved config
    run.json          class names, fingerprint of the data, and the starts of the run: see starts.py
    statistics.npz    mean image and colour eigenvectors of the training set
    checkpoints/      see checkpoint.py
    metrics.jsonl     see writer.py, as for the TensorBoard events beside it
    evaluation.json   what `alexnet evaluate` measured last, if it was run; beside it what the other commands write
    ledger.jsonl      what the time went to: see progress.py
    verified.json     what `alexnet verify-run` found each time, if it was run: see checks.py
    lock              held by the run that is active here
    damaged/          checkpoints that turned out to be damaged, if any
    nonfinite/        the step at which training became unstable, if any: see nonfinite.py

With it a network can be evaluated, used and trained further without the command that made it.
"""

import contextlib
import fcntl
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pydantic
from flax.traverse_util import flatten_dict
from pydantic import AfterValidator, Field, NonNegativeInt

from alexnet_jax.data import files, statistics
from alexnet_jax.data.datasets import Dataset
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import DataError, UserError
from alexnet_jax.run import config_files, processes
from alexnet_jax.run_config import Config

CONFIG, RUN, STATISTICS, METRICS = "config.json", "run.json", "statistics.npz", "metrics.jsonl"
CHECKPOINTS, NONFINITE, LOCK = "checkpoints", "nonfinite", "lock"
EVALUATION = "evaluation.json"

# What may differ between a workdir and the command that resumes it: layout, length and logging, not the result.
MAY_CHANGE = (
    "mesh",
    *("data.directory", "data.threads", "data.prefetch_batches", "data.max_bad"),
    *("train.epochs", "train.max_steps", "train.log_every_steps", "train.eval_batch_size", "train.save_every_steps"),
    *("train.keep_checkpoints", "train.keep_every_steps", "train.stall_seconds", "train.wandb_project"),
)


class _Start(pydantic.BaseModel, strict=True):  # what the others read of it; starts.py writes more
    time: str
    step: NonNegativeInt
    devices: list[str]
    cores: int
    config: dict[Literal["data", "mesh", "train"], dict[str, Any]]


class RunFile(pydantic.BaseModel, strict=True):
    """The content of RUN."""

    classes: Annotated[list[str], Field(min_length=1)]
    data: str  # fingerprint
    starts: list[Annotated[dict, AfterValidator(lambda start: _Start.model_validate(start) and start)]]


class Workdir(NamedTuple):
    config: Config
    classes: list[str]
    statistics: Statistics


def prepare(directory: Path, config: Config, dataset: Dataset) -> RunFile:
    """Make `directory` the workdir of this run, or check that it is. Raises UserError if it is another run's."""
    known = (directory / CONFIG).exists()
    if not known and (directory / CHECKPOINTS).exists():
        raise UserError(f"{directory} has checkpoints but no {CONFIG}; put it back, or give another --workdir")
    run_file = require_same(directory, config, dataset) if known else None
    run_file = run_file or RunFile(classes=dataset.classes, data=dataset.fingerprint, starts=[])

    def write() -> None:
        if not known:
            np.savez(directory / STATISTICS, **dataset.statistics()._asdict())
            files.write_text(directory / RUN, run_file.model_dump_json(indent=2) + "\n")
        files.write_text(directory / CONFIG, config_files.to_json(config))  # last: with it the folder is a workdir

    with writable(directory):
        processes.from_first(write)
    return run_file


def add_start(directory: Path, run_file: RunFile, start: dict[str, Any]) -> None:
    """Record that the run is started once more."""
    run_file.starts.append(start)
    with writable(directory):
        processes.from_first(lambda: files.write_text(directory / RUN, run_file.model_dump_json(indent=2) + "\n"))


@contextlib.contextmanager
def writable(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"the workdir {directory} cannot be written ({error}); give another --workdir") from None


@contextlib.contextmanager
def lock(directory: Path) -> Iterator[None]:
    """Keep other runs out of the workdir, created if missing; UserError if one holds the lock, which dies with it.

    Raises UserError too if checkpoints cannot be written below the workdir's name.
    """
    try:
        str(directory.absolute()).encode()
    except UnicodeEncodeError:  # of which TensorStore makes a storage error at the first save
        raise UserError(f"the name of the workdir {directory} is not UTF-8; give another --workdir") from None
    if not processes.is_first():
        yield
        return
    with writable(directory):
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / LOCK).open("a+")
    with file:
        try:
            files.lock(file, directory)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"another run is active in {directory}: {file.read().strip() or 'unknown'}; wait for its end, stop it "
                f"(kill -TERM), or give another --workdir. If that machine has vanished, delete {file.name}"
            ) from None
        with writable(directory):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}\n")
            file.flush()
        yield


def require_idle(directory: Path) -> None:
    """Raise UserError if a run is active in a workdir."""
    with contextlib.suppress(FileNotFoundError), (directory / LOCK).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"a run is active in {directory}: {file.read().strip()}; wait for its end") from None
        except OSError:  # storage without locks
            pass


def require_same(directory: Path, config: Config, dataset: Dataset) -> RunFile:
    """The content of RUN. Raises UserError if the workdir belongs to another config or other data."""
    different = differences(_config(directory), config)
    run_file = read_run_file(directory)
    if run_file.data != dataset.fingerprint:
        different.append(f"the data: {run_file.data[:12]} -> {dataset.fingerprint[:12]} (fingerprints)")
    if different:
        raise UserError(
            f"{directory} belongs to a run with another config; give another --workdir, or the same config again. "
            f"Then -> now: {'; '.join(different)}"
        )
    return run_file


def open_finished(directory: Path) -> Workdir:
    """What `prepare` wrote. Raises UserError if `directory` is not a workdir, DataError if it is damaged."""
    if not (directory / CONFIG).is_file():
        raise UserError(f"{directory} is not a workdir: it has no {CONFIG}; give the --workdir of a training run")
    config, classes = _config(directory), read_run_file(directory).classes
    with _intact(directory / STATISTICS):
        read_statistics = statistics.read(directory / STATISTICS, config.data.size)
    return Workdir(config, classes, read_statistics)


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """The lines of METRICS; none if nothing was logged yet. Raises DataError if the file is damaged."""
    path = directory / METRICS
    with _intact(path):
        content = path.read_bytes() if path.exists() else b""
        lines = [json.loads(line) for line in content.split(b"\n")[:-1]]  # but one that a power cut left unfinished
        if not all(isinstance(line, dict) and type(line.get("step")) is int and "phase" in line for line in lines):
            raise ValueError("a line has no step or no phase")
        return lines


def saved_steps(directory: Path) -> list[int]:
    """The steps of the checkpoints in a workdir."""
    return sorted(int(path.name) for path in (directory / CHECKPOINTS).glob("*") if path.name.isdigit())


def names(directories: list[Path]) -> list[str]:
    """Names for runs: those of their folders, or their paths where some folders have the same name."""
    short = [directory.resolve().name for directory in directories]
    return short if len(set(short)) == len(short) else [str(directory) for directory in directories]


def read_evaluation(directory: Path) -> dict[str, Any] | None:
    """The content of EVALUATION, if it was written. Raises DataError if the file is damaged."""
    path = directory / EVALUATION
    with _intact(path):
        return json.loads(path.read_text()) if path.exists() else None


def differences(old: Config, new: Config) -> list[str]:
    """The keys, beyond MAY_CHANGE, in which two configs differ, each as `key: old -> new`."""
    a, b = flattened(old), flattened(new)
    keys = [key for key in sorted(a | b) if a.get(key) != b.get(key)]
    return [f"{key}: {a.get(key)} -> {b.get(key)}" for key in keys if not may_change(key)]


def may_change(key: str) -> bool:
    """Whether starts of one run may differ in a key of the config: whether it, or its section, is in MAY_CHANGE."""
    return f"{key}.".startswith(tuple(f"{name}." for name in MAY_CHANGE))


def flat_config(directory: Path) -> dict[str, Any]:
    """The config of a workdir as `section.key` -> value. Raises DataError if it is damaged."""
    return flattened(_config(directory))


def flattened(config: Config) -> dict[str, Any]:
    """A config as `section.key` -> value."""
    return flatten_dict(config.model_dump(), sep=".")


def _config(directory: Path) -> Config:
    with _intact(directory / CONFIG):
        return config_files.from_json((directory / CONFIG).read_text())


def read_run_file(directory: Path) -> RunFile:
    """The content of RUN. Raises DataError if it is damaged."""
    with _intact(directory / RUN):
        return RunFile.model_validate(json.loads((directory / RUN).read_text()))


@contextlib.contextmanager
def _intact(path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, RecursionError, FileNotFoundError) as error:
        what = " ".join(str(error).split())[:300]
        raise DataError(f"{path} is damaged: {what}; put it back from a copy, or train in another --workdir") from None
