"""Trials: the training runs of a study, each in a process and on cores of its own, resumable, within a budget.

A study says which trials it wants, in the order of their worth, given the results there are; so it can go on from what
came out, as with more seeds where the first were not enough.
"""

import contextlib
import functools
import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, NamedTuple

import jax

from alexnet_jax import errors, training
from alexnet_jax.data.files import write_text
from alexnet_jax.errors import Interrupted, NonFinite, UserError
from alexnet_jax.inference import network
from alexnet_jax.paper import colours
from alexnet_jax.paper.studies import machines
from alexnet_jax.run import checksums, run_data, start_up, workdir
from alexnet_jax.run.stopping import stop_signals
from alexnet_jax.run_config import Config

RESULT, USED, LOG = "result.json", "used.json", "log.txt"
RUNS = "runs.json"  # of a study: the results of all its trials
PLACE = ("mesh.", "data.directory", "data.threads", "data.prefetch_batches", "start.workdir")  # keys without influence
LOOK_SECONDS = 1.0  # between two looks for a signal


class Trial(NamedTuple):
    name: str  # the run's folder, relative to the study's
    config: Config
    views: tuple[int, ...]  # how often the trained network is evaluated, by its views of an image; (): not at all


Results = dict[str, dict[str, Any]]  # name of a finished trial -> what `_train` wrote
Plan = Callable[[Results], list[Trial]]


def carry_out(plan: Plan, directory: Path, jobs: int, budget: float, briefly: bool = False) -> float:
    """Train what `plan` wants and is not finished, the first first, until nothing is left or the budget is used.

    Args:
        plan: the trials of a study, in the order of their worth, given the results so far.
        directory: of the study's runs. Finished ones, also if only RUNS has them, are kept; interrupted ones go on.
        jobs: processes at a time; each has its share of the cores.
        budget: hours of cores (of devices on GPUs and TPUs); once finished trials have used them, none is started.
        briefly: for trials of a few steps: a process takes its share of them, one after another.

    Returns:
        the hours that the plan's finished trials have used.

    Raises:
        UserError: if a trial fails, or its folder belongs to one with another config or other data.
        Interrupted: on a signal; what was running is saved.
    """
    free = start_up.shares(jobs)
    running: dict[SpawnProcess, tuple[list[Trial], set[int]]] = {}
    results = finished(plan, directory)
    try:
        with stop_signals() as asked:
            while True:
                busy = {trial.name for trials, _ in running.values() for trial in trials}
                left = [trial for trial in plan(results) if trial.name not in results.keys() | busy]
                while left and free and hours(results) < budget:
                    count = math.ceil(len(left) / len(free)) if briefly else 1
                    taken, left = left[:count], left[count:]
                    cores = free.pop()
                    running[_start(taken, directory, cores)] = taken, cores
                if not running:
                    return hours(results)
                ended = wait([process.sentinel for process in running], LOOK_SECONDS)
                if asked():
                    raise Interrupted(f"finished runs are kept in {directory}; repeat the command to continue")
                for process in [process for process in running if process.sentinel in ended]:
                    trials, cores = running.pop(process)
                    free.append(cores)
                    _require_success(process, trials, directory)
                    results = finished(plan, directory)
                    for trial in trials:
                        count = len({trial.name for trial in plan(results)} | results.keys())
                        total = f"{len(results)} of {count} runs, {hours(results):.2f} hours"
                        print(f"{total}: {trial.name}: {_summary(results[trial.name])}", flush=True)
    finally:
        for process in running:
            process.terminate()  # it saves its state
        for process in running:
            process.join()


def finished(plan: Plan, directory: Path) -> Results:
    """The results of the finished trials of a plan. Raises UserError if one had another config or other data."""
    results: Results = {}
    known = {name: run for name, run in recorded(directory).items() if "identity" in run}  # older ones have none
    checked: set[str] = set()
    while True:
        trials = [trial for trial in plan(results) if trial.name not in checked]
        if not trials:
            return results
        for trial in trials:
            checked.add(trial.name)
            if trial.name in known:
                if known[trial.name]["identity"] != _identity(trial.config):
                    raise UserError(
                        f"{directory / trial.name} belongs to a run with another config or other data; give another "
                        "--output, or the same again"
                    )
                results[trial.name] = known[trial.name]


def recorded(directory: Path) -> Results:
    """The results in RUNS, and of the runs in the folder."""
    runs = json.loads((directory / RUNS).read_text()) if (directory / RUNS).exists() else []
    folders = sorted(path.parent for path in directory.rglob(RESULT))
    return {run["run"]: run for run in runs} | {
        str(folder.relative_to(directory)): json.loads((folder / RESULT).read_text()) for folder in folders
    }


def _identity(config: Config) -> str:
    """A hash of what determines a trial's result."""
    values = workdir.flattened(config) | {"data.statistics_file": Path(config.data.statistics_file).name}
    relevant = {key: value for key, value in values.items() if not key.startswith(PLACE)}
    return checksums.of_json({"config": relevant, "data": run_data.of_config(config).fingerprint})


def hours(results: Results) -> float:
    """What finished trials have used: hours of cores, or of devices on GPUs and TPUs."""
    return sum(result["hours"] for result in results.values())


def cost(results: Results) -> str:
    """What finished trials took, and on what, in words."""
    wall, processor = (
        sum(result[key] for result in results.values()) / 3600 for key in ("wall_seconds", "processor_seconds")
    )
    return (
        f"{len(results)} runs, {hours(results):.2f} hours of cores (devices on GPUs and TPUs), {wall:.2f} hours of the "
        f"runs' wall time, {processor:.2f} hours of processor time; {machines.in_words(results.values())}."
    )


def _start(*arguments: Any) -> SpawnProcess:
    start_up.large_pages_for_children()
    process = multiprocessing.get_context("spawn").Process(target=_carry_out, args=arguments)
    process.start()
    return process


def _require_success(process: SpawnProcess, trials: list[Trial], directory: Path) -> None:
    """Raise UserError, or Interrupted, with the last words of a process that failed."""
    process.join()
    if process.exitcode:
        name = next(trial.name for trial in trials if not (directory / trial.name / RESULT).exists())
        log = directory / name / LOG
        words = log.read_text(errors="replace").strip().splitlines()[-1:] if log.exists() else []
        kind = Interrupted if process.exitcode == errors.EXIT_INTERRUPTED else UserError
        raise kind(f"the run {name} ended with exit code {process.exitcode}: {''.join(words)} (see {log})")


def _summary(result: dict[str, Any]) -> str:
    shown = [f"{result['steps']:,} steps", *(["diverged"] if result["diverged"] else [])]
    shown += [
        f"{name} error {result[name]['top1_error']:.1%}" for name in ("train", "views1", "views10") if name in result
    ]
    return ", ".join([*shown, f"{result['wall_seconds'] / 60:.1f} minutes"])


def _carry_out(trials: list[Trial], directory: Path, cores: set[int]) -> None:
    """Train and evaluate in this process, on `cores`; all output goes to the trial's LOG."""
    os.setpgrp()  # Ctrl-C reaches the command alone, which then ends this process by one signal
    start_up.use_cores(cores)
    for trial in trials:
        folder = directory / trial.name
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOG).open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            os.dup2(log.fileno(), 2)  # for what writes there past Python: XLA, and the handler of signals
            code = errors.exit_code(functools.partial(_train, trial, folder))
        if code:
            sys.exit(code)


def _train(trial: Trial, directory: Path) -> None:
    """Train and evaluate a trial, and write RESULT.

    Its keys: diverged; steps; reached, whether the training error fell to train.stop_error (None without one); train
    and views1, views10: as of `Network.evaluate`, for the trial's views; classes; colours, of several towers: as of
    `colours.specialization`; training: the logged steps, with epoch and top-1 error; wall_seconds, processor_seconds
    and hours, over all starts; the environment; and the `_identity`.
    """
    config, used = trial.config, directory / USED
    clocks = time.monotonic, time.process_time
    before = json.loads(used.read_text()) if used.exists() else [0.0, 0.0]
    begun = [clock() for clock in clocks]
    result: dict[str, Any] = {"diverged": False, "identity": _identity(config)}
    try:
        try:
            training.train_and_evaluate(config, directory)
        except NonFinite:
            result["diverged"] = True
        lines = workdir.read_metrics(directory)
        kept = ("phase", "step", "epoch", "top1_error")
        log = [{key: line[key] for key in kept} for line in lines if line["phase"] == "train"]
        target, result["training"] = config.train.stop_error, log
        result["steps"] = max((line["step"] for line in lines), default=0)
        result["reached"] = any(line["top1_error"] <= target for line in log) if target else None
        if trial.views and not result["diverged"]:
            trained = network.open_workdir(directory)
            result["classes"] = len(trained.classes)
            if config.model.towers > 1:
                result["colours"] = colours.of_network(trained)
            result["train"] = trained.evaluate(split=config.data.train_split)
            result |= {f"views{views}": trained.evaluate(views=views) for views in trial.views}
            write_text(directory / workdir.EVALUATION, json.dumps(result[f"views{trial.views[-1]}"], indent=2) + "\n")
    finally:
        wall, processor = (past + clock() - at for past, clock, at in zip(before, clocks, begun, strict=True))
        write_text(used, json.dumps([wall, processor]) + "\n")
    units = start_up.cores() if jax.default_backend() == "cpu" else jax.device_count()
    result |= dict(wall_seconds=round(wall, 1), processor_seconds=round(processor, 1), hours=units * wall / 3600)
    write_text(directory / RESULT, json.dumps(result | {"environment": machines.here()}, indent=2) + "\n")
