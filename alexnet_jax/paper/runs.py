"""Runs as the page needs them."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alexnet_jax import sharding, steps
from alexnet_jax.run import checkpoint, workdir


class Run(NamedTuple):
    name: str
    directory: Path
    finished: workdir.Workdir
    step: int  # of the newest checkpoint
    conv1: np.ndarray  # its kernels: [tower, k, k, 3, F], or [tower, H, W, 3 * k * k, F] if they are not shared
    lines: list[dict]  # of metrics.jsonl
    evaluation: dict | None  # of evaluation.json


def open_runs(directories: list[Path]) -> list[Run]:
    """The runs, each under the shortest name that no other one has. Raises UserError if one is no run."""
    short = [directory.resolve().name for directory in directories]
    names = short if len(set(short)) == len(short) else [str(directory) for directory in directories]
    return [_open(directory, name) for directory, name in zip(directories, names, strict=True)]


def _open(directory: Path, name: str) -> Run:
    finished = workdir.open_finished(directory)
    mesh = sharding.make_mesh(1, 0, finished.config.model.towers)
    wanted = {"conv1": steps.abstract_state(finished.config, mesh).params["conv1"]}
    step, params = checkpoint.restore_params(directory / workdir.CHECKPOINTS, wanted)
    metrics, evaluation = directory / workdir.METRICS, directory / "evaluation.json"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    result = json.loads(evaluation.read_text()) if evaluation.exists() else None
    return Run(name, directory, finished, step, np.asarray(params["conv1"]["kernel"], np.float32), lines, result)
