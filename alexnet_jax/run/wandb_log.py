"""Logging scalars to Weights & Biases as well, if `config.train.wandb_project` names a project there."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xxhash

from alexnet_jax.errors import UserError
from alexnet_jax.run import processes, workdir
from alexnet_jax.run_config import Config


def start(config: Config, directory: Path, message: Callable[[str], None]) -> Callable[[dict[str, Any]], None] | None:
    """A function that logs scalars there, or None without a project. A resumed workdir resumes its run there.

    Raises UserError if the package is missing. Later failures are reported once by `message`, and end nothing.
    """
    if not config.train.wandb_project or not processes.is_first():
        return None
    try:
        import wandb
    except ImportError:
        raise UserError(
            'config.train.wandb_project needs a package: pip install "alexnet_jax[wandb]"; or leave the key empty'
        ) from None
    first_start = json.loads((directory / workdir.RUN).read_text())["starts"][0]["time"]
    try:
        run = wandb.init(
            project=config.train.wandb_project,
            id=xxhash.xxh3_64_hexdigest(f"{directory.resolve()} {first_start}".encode()),
            name=directory.resolve().name,
            dir=str(directory),
            config=config.model_dump(mode="json"),
            resume="allow",
            settings=wandb.Settings(console="off", silent=True),
        )
        run.define_metric("*", step_metric="step")  # not its own steps: a resumed run repeats those of a killed one
    except Exception as error:  # from the network, or the account
        message(f"warning: Weights & Biases cannot be reached, and nothing is logged there: {error}")
        return None
    failed = False

    def log(values: dict[str, Any]) -> None:
        nonlocal failed
        if failed:
            return
        try:
            run.log(values)
        except Exception as error:
            failed = True
            message(f"warning: logging to Weights & Biases failed and ends here: {error}")

    return log
