"""The training runs behind the claims: what each is, where it lies, and what came out."""

import contextlib
import importlib
import json
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from alexnet_jax import run_config, training
from alexnet_jax.commands import evaluate
from alexnet_jax.data import manifest
from alexnet_jax.data.datasets import open_dataset
from alexnet_jax.data.manifest import write_text
from alexnet_jax.errors import UserError
from alexnet_jax.inference import predictions
from alexnet_jax.paper.claims import ARMS
from alexnet_jax.run import config_files, workdir
from alexnet_jax.run.workdir import METRICS

RESULT, LOG = "result.json", "log.txt"

# Grids of learning rates for arms that are judged by their speed, around what was fastest in single runs.
RATES = {
    "relu": (2e-3, 5e-3, 1e-2),
    "tanh": (1e-2, 2e-2, 5e-2),
}

SCALES = {  # base -> the config that an arm begins with
    "small": {"network": "scales.small", "figure1": "scales.small_four_layer", "four_layer": "scales.small_cifar"},
    "full": {"network": "paper", "figure1": "scales.full_four_layer", "four_layer": "variants.cifar_four_layer"},
}
SCALES["smoke"] = SCALES["small"]


class Run(NamedTuple):
    """One training run."""

    arm: str
    seed: int
    rate: float | None  # learning rate; None: the config's

    @property
    def name(self) -> str:
        return f"{self.arm}{'' if self.rate is None else f'-rate{self.rate:g}'}/seed{self.seed}"


def config_json(run: Run, scale: str, data: str) -> str:
    """The config of a run, as JSON. `data` is a folder of prepared images; "": the embedded digits."""
    arm = ARMS[run.arm]
    values = _module(SCALES[scale][arm.base]).get_config()
    for variant in arm.variants:
        name, _, argument = variant.partition(":")
        _module(name if name == "code2012" else f"variants.{name}").change(values, *([argument] if argument else []))
    values.seed = run.seed
    if run.rate is not None:
        values.optim.learning_rate = run.rate
    values.data.directory = data
    if data:  # what the images are is the data's to say; their size is the network's
        prepared = manifest.read(Path(data))
        values.model.num_classes = len(prepared.classes)
        splits = (values.data.eval_split, "val", "test")
        values.data.eval_split = next((split for split in splits if split in prepared.splits), splits[0])
    else:
        values.data.update(source="digits", eval_split="test", train_examples=0)
    if scale == "smoke":
        values.data.train_examples = 64
        values.train.update(epochs=1, max_steps=2, log_every_steps=1)
    return config_files.to_json(config_files.parse(values))


def base_data(arm: str, scale: str) -> run_config.Data:
    """The data that an arm's base config asks for."""
    values = _module(SCALES[scale][ARMS[arm].base]).get_config()
    return run_config.Data(**values.data.to_dict())


def _module(name: str):
    try:
        return importlib.import_module(f"configs.{name}")
    except ModuleNotFoundError as error:
        raise UserError(f"there is no configs.{name} ({error}); start this in the folder that holds configs/") from None


def carry_out(wanted: list[Run], scale: str, data: str, directory: Path, jobs: int) -> None:
    """Trains what of `wanted` is not there yet, `jobs` runs at a time, each in a process of its own."""
    todo = [run for run in dict.fromkeys(wanted) if not _is_there(directory / run.name, config_json(run, scale, data))]
    if not todo:
        return
    done = len(set(wanted)) - len(todo)
    with ProcessPoolExecutor(jobs, get_context("spawn"), max_tasks_per_child=1) as pool:
        try:
            running: dict[Future, Run] = {}
            for run in todo:
                running[pool.submit(_one, config_json(run, scale, data), directory / run.name)] = run
            for future in as_completed(running):
                future.result()
                done += 1
                print(f"{done} of {len(set(wanted))}: {running[future].name}", flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _is_there(directory: Path, text: str) -> bool:
    """Whether this very run is finished. Raises UserError if the folder holds one of another config or other data."""
    if not (directory / RESULT).exists():
        return False
    wanted = config_files.from_json(text)
    data = wanted.data
    dataset = open_dataset(data.source, data.directory, data.size, wanted.model.num_classes)
    workdir.require_same(directory, wanted, dataset, "--output")
    return True


def _one(text: str, directory: Path) -> None:
    """Trains one run and evaluates it; what it says goes to LOG."""
    wanted = config_files.from_json(text)
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / LOG).open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        result: dict = {"diverged": False}
        try:
            training.train_and_evaluate(wanted, directory)
        except UserError as error:
            if "diverged" not in str(error):
                raise
            result["diverged"] = True
        reached = [line["step"] for line in _training(directory) if 0 < wanted.train.stop_error >= line["top1_error"]]
        result["steps"] = reached[0] if reached else None
        if not result["diverged"] and not wanted.train.stop_error:
            of_train = evaluate.predicted(directory, 1, wanted.data.train_split, None, None)[0]
            result["train_error"] = predictions.score(of_train)["top1_error"]
            for views in (1, 10):
                result[f"views{views}"] = evaluate.evaluate(directory, views)
        write_text(directory / RESULT, json.dumps(result, indent=2) + "\n")


def result(directory: Path, run: Run) -> dict | None:
    """What came of a run: steps to the error it was to stop at, errors at its end. None if it was not run."""
    path = directory / run.name / RESULT
    return json.loads(path.read_text()) if path.exists() else None


def training_log(directory: Path, run: Run) -> list[dict]:
    """The log lines of a run's training."""
    return _training(directory / run.name)


def _training(directory: Path) -> list[dict]:
    lines = [json.loads(line) for line in (directory / METRICS).read_text().splitlines()]
    return [line for line in lines if line["split"] == "train"]
