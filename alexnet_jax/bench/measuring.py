"""What measurements share: options, rates over several rounds, and the conditions that are recorded with a result."""

import argparse
import ast
import json
import math
import os
import platform
import re
import statistics
import time
import typing
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
from tqdm import tqdm

from alexnet_jax.bench.peers import Stream
from alexnet_jax.data import files
from alexnet_jax.doctor import look
from alexnet_jax.errors import UserError
from alexnet_jax.run import config_files, starts
from alexnet_jax.run_config import Config, Train

LIBRARIES: tuple[str, ...] = ("numpy", "jax", "grain", "simplejpeg", "opencv-python-headless", "pillow")
LIBRARIES += ("torch", "tensorflow", "tensorflow-cpu", "jax-cuda12-plugin", "jax-cuda13-plugin", "triton")
DTYPES = typing.get_args(Train.model_fields["compute_dtype"].annotation)
WARM_UP = 1 / 3  # of the measured time; it also lets the previous pipeline fill its buffers and fall quiet


class Pipeline(NamedTuple):
    """An endless producer of batches."""

    name: str
    stage: str  # of the input; "whole" if it runs all stages at once
    store: str | None  # the form of its data
    cores: int  # that it may keep busy
    batches: Stream | None  # None if it is not installed
    ahead: int = 0  # batches it may have ready before it is asked for one; they are not timed


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


def require_one_program(config: Config) -> None:
    """Raise UserError unless a training step of the config is one program, whose parts can be measured."""
    if config.train.virtual_shards:
        raise UserError("with train.virtual_shards a step is several programs; measure it by `alexnet bench train`")


def mesh(text: str) -> tuple[int, int]:
    """An argparse type: numbers of devices along the data axis and the tower axis, as 1x2."""
    if not (match := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)):
        raise argparse.ArgumentTypeError(f"{text} is not DATAxTOWER; give for example 1x2")
    return int(match[1]), int(match[2])


def change(text: str) -> tuple[str, Any]:
    """An argparse type: a key of the config and its new value, as train.fused_kernels=False."""
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text} is not KEY=VALUE; give for example train.fused_kernels=False")
    try:
        return key, ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return key, value  # a word


def add_program(parser: argparse.ArgumentParser) -> None:
    """Add the options that `config` and `conditions` read."""
    add = parser.add_argument
    add("--config", default="paper", help="config file, or the name of an installed one (default: paper)")
    add("--mesh", type=mesh, default="1x2", help="data x tower (default: 1x2); on a CPU the devices are simulated")
    add("--dtype", choices=DTYPES, default="float32", help="type of activations (default: float32)")
    add("--set", type=change, nargs="+", default=[], metavar="KEY=VALUE", help="other values for keys of the config")


def layout(mesh: tuple[int, int], batch: int, dtype: str) -> dict[str, Any]:
    """Keys of a config: a mesh data x tower, `batch` images a step over all devices, and a type of activations."""
    data, tower = mesh
    sizes = {"train.batch_size": batch, "train.eval_batch_size": batch}
    return {"mesh.data": data, "mesh.tower": tower, "train.compute_dtype": dtype} | sizes


def config(arguments: argparse.Namespace, batch: int, changes: dict[str, Any]) -> Config:
    """The config to measure, with `batch` images a step over all devices. Call it before JAX starts."""
    jax.config.update("jax_num_cpu_devices", math.prod(arguments.mesh))  # only a CPU heeds it
    changes = layout(arguments.mesh, batch, arguments.dtype) | changes
    others = dict(arguments.set)
    if twice := changes.keys() & others.keys():
        raise UserError(f"--set {', '.join(sorted(twice))}: this command has its own options for that; give these")
    return config_files.parse(config_files.load(arguments.config, changes | others))


def machine() -> str:
    """The processor, and the versions of the packages whose speed counts."""
    installed = {package.metadata["Name"].lower(): package.version for package in metadata.distributions()}
    versions = ", ".join(f"{name} {installed[name]}" for name in LIBRARIES if name in installed)
    return f"{starts.processor()}; Python {platform.python_version()}, {versions}{_driver()}"


def _driver() -> str:
    """The version of NVIDIA's driver, or "" without one."""
    done = look.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], 30)
    return f", driver {done.out.split()[0]}" if done and done.code == 0 else ""


def conditions(arguments: argparse.Namespace, batch: int) -> dict[str, Any]:
    """What was measured, where and when, ready for JSON."""
    data, tower = arguments.mesh
    what = {"config": arguments.config, "mesh": f"{data}x{tower}", "batch": batch, "dtype": arguments.dtype}
    return what | place(data * tower)


def place(devices: int) -> dict[str, Any]:
    """Where and when something is measured, and how busy the machine was before."""
    where = {"machine": machine(), "device": f"{devices} x {jax.devices()[0].device_kind}"}
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    return where | {"cores": cores, "load": load, "date": time.strftime("%Y-%m-%d")}


def write(file: Path | None, result: Any) -> None:
    """Write a result as JSON to the file that --json names, if any."""
    if file:
        files.write_text(file, json.dumps(result, indent=2) + "\n")


def rates(pipelines: list[Pipeline], batch: int, rounds: int, seconds: float) -> dict[str, list[float]]:
    """The images/s of each installed pipeline in each round; they run in turn, so that a drift in speed hits all."""
    measured: dict[str, list[float]] = {pipeline.name: [] for pipeline in pipelines if pipeline.batches}
    turns = (pipelines + pipelines[::-1]) * rounds  # every second round in the reverse order
    for pipeline in tqdm(turns[: len(pipelines) * rounds], desc="measuring", unit="", leave=False, disable=None):
        if pipeline.batches:
            share = seconds if pipeline.stage == "whole" else seconds / 3
            _per_second(pipeline.batches, share * WARM_UP, pipeline.ahead + 1)
            measured[pipeline.name].append(batch * _per_second(pipeline.batches, share))
    return measured


def _per_second(batches: Stream, seconds: float, least: int = 1) -> float:
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds or count < least:
        next(batches)
        count += 1
    return count / elapsed


def markdown(headings: str, rows: list[tuple]) -> str:
    """A table without padding, so that one changed number changes one line of the page; "" without rows."""
    if not rows:
        return ""
    rule = "|---" * (headings.count("|") - 1) + "|"
    return "\n".join([headings, rule, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def ratio(rates: list[float], others: list[float]) -> float:
    """The median over the rounds of the ratio of two rates."""
    return statistics.median(rate / other for rate, other in zip(rates, others, strict=True))


def spread(rates: list[float], digits: int = 0) -> str:
    """The lowest and the highest rate."""
    return f"{min(rates):,.{digits}f}..{max(rates):,.{digits}f}"
