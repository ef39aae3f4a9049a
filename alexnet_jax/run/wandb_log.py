"""The scalars of a run at Weights & Biases too, if config.train.wandb_project names a project there."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xxhash

from alexnet_jax.errors import UserError
from alexnet_jax.run import processes, workdir
from alexnet_jax.run_config import Config

STEP = "step"  # a field of its own: a resumed run writes steps once more that a killed one has written


def start(config: Config, directory: Path, tell: Callable[[str], None]) -> Callable[[dict[str, Any]], None] | None:
    """A function that logs there, or None. A run that goes on in its workdir goes on there too.

    Raises UserError if the package is not installed. What fails later is told, once, and ends nothing.
    """
    if not config.train.wandb_project or not processes.is_first():
        return None
    try:
        import wandb
    except ImportError:
        raise UserError(
            'config.train.wandb_project needs a package: pip install "alexnet_jax[wandb]"; or leave the key empty'
        ) from None
    first = json.loads((directory / workdir.RUN).read_text())["starts"][0]["time"]
    try:
        run = wandb.init(
            project=config.train.wandb_project,
            id=xxhash.xxh3_64_hexdigest(f"{directory.resolve()} {first}".encode()),
            name=directory.resolve().name,
            dir=str(directory),
            config=config.model_dump(mode="json"),
            resume="allow",
            settings=wandb.Settings(console="off", silent=True),
        )
        run.define_metric("*", step_metric=STEP)
    except Exception as error:  # of the network, of an account
        tell(f"warning: Weights & Biases cannot be reached, and nothing is logged there: {error}")
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
            tell(f"warning: nothing more is logged at Weights & Biases: {error}")

    return log
