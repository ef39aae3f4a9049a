"""The starts of a run: what each was computed with, and which steps are whose.

A start goes on from a checkpoint, and so takes again the steps that the one before it lost. A step that counts is that
of the last start to have begun at or before it.
"""

import datetime
import importlib.metadata
import platform
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh

from alexnet_jax.errors import DataError, UserError, reading
from alexnet_jax.run import config_files, start_up, workdir
from alexnet_jax.run_config import Config

PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "clu", "ml_collections", "numpy"),
    *("libtpu", "jax-cuda12-plugin", "nvidia-cublas-cu12", "nvidia-cudnn-cu12", "nvidia-nccl-cu12"),
    *("jax-cuda13-plugin", "nvidia-cublas", "nvidia-cudnn-cu13", "nvidia-nccl-cu13"),
)


class Segment(NamedTuple):
    """Steps `first`..`last`-1, all of one start."""

    first: int
    last: int
    start: dict[str, Any]


def environment() -> dict[str, Any]:
    """What this process computes with: versions, devices, and the machine."""
    devices = [f"{device.platform} {device.device_kind}" for device in jax.devices()]
    machine = {"processes": jax.process_count(), "processor": processor(), "cores": start_up.cores()}
    return packages() | {"devices": devices} | machine


def packages() -> dict[str, str]:
    """The versions of Python and of those packages that results depend on and that are installed."""
    found = {name: next(iter(importlib.metadata.distributions(name=name)), None) for name in PACKAGES}
    return {"python": platform.python_version()} | {name: one.version for name, one in found.items() if one}


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return model[1] if model else platform.processor()


def describe(config: Config, mesh: Mesh, step: int) -> dict[str, Any]:
    """A start of run.json, which goes on from `step`. Its config has the keys that other starts may change."""
    keys = {key: value for key, value in flatten_dict(config.model_dump(), sep=".").items() if workdir.may_change(key)}
    keys |= {f"mesh.{axis}": size for axis, size in mesh.shape.items()}
    time = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"time": time, "step": step, **environment(), "config": unflatten_dict(keys, sep=".")}


def config_of(config: Config, start: dict[str, Any]) -> Config:
    """The config that a start was computed with. Raises DataError if it cannot be."""
    with reading(f"{workdir.RUN} is damaged"):
        try:
            return config_files.changed(config, **start["config"])
        except UserError as error:
            raise ValueError(str(error)) from None


def segments(starts: list[dict[str, Any]], first: int, last: int) -> list[Segment]:
    """The steps `first`..`last`-1 of a run, start by start."""
    found = []
    while first < last:
        number = max((i for i, start in enumerate(starts) if start["step"] <= first), default=None)
        if number is None:
            raise DataError(f"{workdir.RUN} lists no start of the run that began at or before step {first}")
        end = min([last, *(start["step"] for start in starts[number + 1 :])])
        found.append(Segment(first, end, starts[number]))
        first = end
    return found


def differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """In what an environment differs from that of a start, each as `key: there -> here`."""
    names = [name for name in dict.fromkeys((*there, *here)) if name not in ("time", "step", "config")]
    return [f"{name}: {there.get(name)} -> {here.get(name)}" for name in names if there.get(name) != here.get(name)]
