"""Command-line options that measurements share, and the conditions that they record with a result."""

import argparse
import datetime
import json
import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from alexnet_jax.run import config_files
from alexnet_jax.run_config import Config

LIBRARIES = ("numpy", "jax", "grain", "simplejpeg", "opencv-python-headless", "pillow")
PEERS = ("torch", "tensorflow", "tensorflow-cpu")


def positive_float(text: str) -> float:
    """An argparse type: a number greater than 0."""
    if not float(text) > 0:  # NaN too
        raise argparse.ArgumentTypeError(f"{text} is not greater than 0")
    return float(text)


def positive_int(text: str) -> int:
    """An argparse type: a whole number greater than 0."""
    positive_float(text)
    return int(text)


def output_file(text: str) -> Path:
    """An argparse type: a file in a folder that exists, so that a long measurement is not lost at its end."""
    if not Path(text).absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: there is no folder {Path(text).parent}; make it first")
    return Path(text)


def mesh(text: str) -> tuple[int, int]:
    """An argparse type: numbers of devices along the data axis and the tower axis, as 1x2."""
    if not (match := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)):
        raise argparse.ArgumentTypeError(f"{text} is not DATAxTOWER; give for example 1x2")
    return int(match[1]), int(match[2])


def add_program(parser: argparse.ArgumentParser) -> None:
    """Add the options that `config` and `conditions` read."""
    add = parser.add_argument
    add("--config", default="paper", help="config file, or the name of an installed one (default: paper)")
    add("--mesh", type=mesh, default="1x2", help="data x tower (default: 1x2); on a CPU the devices are simulated")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="type of activations (default: float32)")


def config(arguments: argparse.Namespace, batch: int, changes: dict[str, Any]) -> Config:
    """The config to measure with the options of `add_program`, `batch` images a step over all devices, and `changes`.

    Call it before JAX starts: on a CPU it sets the number of devices.
    """
    data, tower = arguments.mesh
    jax.config.update("jax_num_cpu_devices", data * tower)  # other devices ignore it
    sizes = {"mesh.data": data, "mesh.tower": tower, "train.batch_size": batch, "train.eval_batch_size": batch}
    changes = sizes | {"train.compute_dtype": arguments.dtype} | changes
    return config_files.parse(config_files.load(arguments.config, changes))


def machine() -> str:
    """The processor, and the versions of the packages whose speed counts."""
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    installed = {package.metadata["Name"].lower(): package.version for package in metadata.distributions()}
    versions = ", ".join(f"{name} {installed[name]}" for name in LIBRARIES + PEERS if name in installed)
    return f"{model[1] if model else platform.processor()}; Python {platform.python_version()}, {versions}"


def conditions(arguments: argparse.Namespace, batch: int) -> dict[str, Any]:
    """What was measured, where and when, ready for JSON."""
    data, tower = arguments.mesh
    return {
        "config": arguments.config,
        "mesh": f"{data}x{tower}",
        "batch": batch,
        "dtype": arguments.dtype,
        "machine": machine(),
        "device": f"{data * tower} x {jax.devices()[0].device_kind}",
        "cores": len(os.sched_getaffinity(0)),
        "date": datetime.date.today().isoformat(),
    }


def write(file: Path | None, result: Any) -> None:
    """Write a result as JSON to the file that --json names, if any."""
    if file:
        file.write_text(json.dumps(result, indent=2) + "\n")
