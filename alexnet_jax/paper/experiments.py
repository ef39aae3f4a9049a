"""The training runs behind the claims: the config of each, its training, and what came out."""

import contextlib
import json
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from alexnet_jax import training
from alexnet_jax.data import manifest
from alexnet_jax.data.files import write_text
from alexnet_jax.errors import NonFinite
from alexnet_jax.inference import network
from alexnet_jax.paper.claims import ARMS
from alexnet_jax.run import config_files, run_data, workdir
from alexnet_jax.run_config import Config

RESULT, LOG = "result.json", "log.txt"

# Grids of learning rates for the arms that are judged by their speed, around the fastest in single runs.
RATES = {"relu": (2e-3, 5e-3, 1e-2), "tanh": (1e-2, 2e-2, 5e-2)}

SCALES = {  # scale -> base of an arm -> the config that the arm starts from
    "small": {
        "network": "scales:small",
        "figure1": "scales:small_four_layer",
        "four_layer": "scales:small_cifar",
        "four_layer_lrn": "scales:small_cifar_lrn",
    },
    "full": {
        "network": "paper",
        "figure1": "scales:full_four_layer",
        "four_layer": "cifar_four_layer",
        "four_layer_lrn": "cifar_four_layer:lrn",
    },
}
SCALES["smoke"] = SCALES["small"]


class Study(NamedTuple):
    scale: str  # one of SCALES
    data: str  # folder of prepared images; "": the embedded digits
    directory: Path  # of the runs and tables
    seeds: int  # runs of each network
    jobs: int  # runs at a time


class Trial(NamedTuple):
    arm: str
    seed: int
    rate: float | None  # learning rate; None: the config's

    @property
    def name(self) -> str:
        """The run's folder, relative to that of its scale."""
        return f"{self.arm}{'' if self.rate is None else f'-rate{self.rate:g}'}/seed{self.seed}"


def trial_config(trial: Trial, scale: str, data: str) -> Config:
    """The config of a trial. `data` is a folder of prepared images; "": the embedded digits."""
    arm = ARMS[trial.arm]
    values = config_files.load(SCALES[scale][arm.base]).unlock()  # variants may add keys
    config_files.functions("variants")["apply"](values, arm.variants)
    values.seed = trial.seed
    if trial.rate is not None:
        values.optim.learning_rate = trial.rate
    values.data.directory = data
    if data:  # the data determines classes and splits; the network determines the size of the images
        prepared = manifest.read(Path(data))
        values.model.num_classes = len(prepared.classes)
        splits = (values.data.eval_split, "val", "test")
        values.data.eval_split = next((split for split in splits if split in prepared.splits), splits[0])
    else:
        values.data.update(source="digits", eval_split="test", train_examples=0)
    if scale == "smoke":
        values.data.train_examples = 64
        values.train.update(epochs=1, max_steps=2, log_every_steps=1)
    return config_files.parse(values)


def carry_out(study: Study, trials: list[Trial]) -> dict[Trial, dict[str, Any]]:
    """Train the unfinished `trials`, each in its own process. Returns the results of all; UserError if one fails."""
    directory = study.directory
    configs = {trial: trial_config(trial, study.scale, study.data) for trial in trials}
    unfinished = [trial for trial, config in configs.items() if not _is_finished(directory / trial.name, config)]
    done = len(configs) - len(unfinished)
    with ProcessPoolExecutor(study.jobs, get_context("spawn"), max_tasks_per_child=1) as pool:
        try:
            running = {pool.submit(_carry_out, configs[trial], directory / trial.name): trial for trial in unfinished}
            for future in as_completed(running):
                future.result()
                done += 1
                print(f"{done} of {len(configs)}: {running[future].name}", flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return {trial: result(directory / trial.name) for trial in trials}


def _is_finished(directory: Path, config: Config) -> bool:
    """Whether the trial in `directory` is finished. Raises UserError if it had another config or other data."""
    if finished := (directory / RESULT).exists():
        workdir.require_same(directory, config, run_data.of_config(config), "--output")
    return finished


def _carry_out(config: Config, directory: Path) -> None:
    """Train and evaluate one trial, and write RESULT; all output goes to LOG."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / LOG).open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        outcome: dict[str, Any] = {"diverged": False}
        try:
            training.train_and_evaluate(config, directory)
        except NonFinite:
            outcome["diverged"] = True
        target = config.train.stop_error
        reached = (line["step"] for line in training_log(directory) if line["top1_error"] <= target)
        outcome["steps"] = next(reached, None) if target else None
        if not outcome["diverged"] and not target:
            trained = network.open_workdir(directory)
            outcome["train_error"] = trained.evaluate(split=config.data.train_split)["top1_error"]
            outcome |= {f"views{views}": trained.evaluate(views=views) for views in (1, 10)}
            write_text(directory / workdir.EVALUATION, json.dumps(outcome["views10"], indent=2) + "\n")
        write_text(directory / RESULT, json.dumps(outcome, indent=2) + "\n")


def result(directory: Path) -> dict[str, Any]:
    """The result of the finished trial in `directory`.

    diverged; steps, to the training error at which it was to stop (None: not reached, or none was set); and, of a trial
    without such an error, train_error and the evaluations views1 and views10.
    """
    return json.loads((directory / RESULT).read_text())


def training_log(directory: Path) -> list[dict[str, Any]]:
    return [line for line in workdir.read_metrics(directory) if line["phase"] == "train"]
