"""AlexNet (Krizhevsky, Sutskever and Hinton, 2012) in JAX, split over two devices as the paper split it over two GPUs.

    import alexnet_jax

    net = alexnet_jax.load("runs/digits")
    net.predict("seven.png").top(3)

Importing the package imports nothing else; JAX is imported by the first call.
"""

import importlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alexnet_jax.inference.network import Network
    from alexnet_jax.run_config import Config

STARTED = time.monotonic()  # before anything large is imported, so about when the command was given

__all__ = ["Config", "Network", "config", "load", "train"]


def load(path: str | Path) -> "Network":
    """Open a trained network.

    Args:
        path: a workdir; a file (.safetensors, .pth or .onnx) or folder that `alexnet export` wrote; or such a folder
            on the Hugging Face Hub, hf://USER/NAME or hf://USER/NAME@REVISION.

    Raises:
        UserError: if there is no network. DataError: if it is damaged.
    """
    from alexnet_jax.data import hub
    from alexnet_jax.interop import files

    if str(path).startswith(hub.PREFIX):
        path = hub.download(str(path), [files.WEIGHTS])
    return files.open_own(Path(path))


def config(name: str, **changes: Any) -> "Config":
    """The config of a file, parsed.

    Args:
        name: FILE or FILE:ARGUMENT; FILE is a path, or the name of one of configs/, such as "digits".
        changes: other values for its keys: `config("paper", **{"train.batch_size": 64})`.

    Raises:
        UserError: if there is no such file, or a key is unknown or has a wrong value.
    """
    from alexnet_jax.run import config_files

    return config_files.parse(config_files.load(name, changes))


def train(config: "Config", workdir: str | Path) -> "Network":
    """Train by a config in a workdir, from its newest checkpoint if it has one, and open the trained network.

    Args:
        config: what `alexnet_jax.config` returns.
        workdir: folder of the run: checkpoints, logs, config. Created if missing.

    Raises:
        Interrupted: on Ctrl-C or SIGTERM, with the state saved; the same call resumes it.
        UserError, DataError, StorageError, NonFinite, LostPeer: as errors.py describes them.
    """
    from alexnet_jax import training

    training.train_and_evaluate(config, Path(workdir))
    return load(workdir)


def __getattr__(name: str) -> Any:
    if name not in (homes := {"Network": "inference.network", "Config": "run_config"}):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"alexnet_jax.{homes[name]}"), name)
