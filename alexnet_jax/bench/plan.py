"""Measure how many epochs of training fit in given hours: from a source as it is, and from what `prepare` makes of it.

With each config the source is trained on as by `alexnet train --stream`; then a sample of it is packed, as `alexnet
prepare --store jpeg` would pack all of it, and trained on. From these speeds follow the hours of an epoch, with
validation, and the epochs that fit if every session begins with preparing the data. Chosen is the first way all of
whose epochs fit, or else the one that gives most.
"""

import argparse
import math
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tabulate import tabulate

from alexnet_jax.bench import measuring, train
from alexnet_jax.bench.input import QUALITY
from alexnet_jax.data import packing
from alexnet_jax.data.sources.registry import open_source
from alexnet_jax.data.sources.source import Source, subset
from alexnet_jax.errors import UserError
from alexnet_jax.run import config_files
from alexnet_jax.run_config import Config

HEADINGS = ("", "data", "images/s", "waiting for data", "GB", "hours to prepare", "hours an epoch", "epochs")


class Speeds(NamedTuple):
    """What was measured of one way to train a config."""

    config: str
    streamed: bool
    images_per_s: float
    data_wait: float  # the share of the time in which training waits for data
    packed_per_s: float = math.inf  # images, if they are prepared
    packed_bytes: float = 0.0  # of an image


class Budget(NamedTuple):
    """What there is."""

    hours: float
    sessions: int
    free: int  # bytes on the disk


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add, count, hours = parser.add_argument, measuring.positive_int, measuring.positive_float
    add("--source", required=True, help="as for `alexnet prepare`")
    add("--input", type=Path, required=True, help="as for `alexnet prepare`: the source's folder or file")
    add("--scratch", type=Path, required=True, help="folder on the disk for the prepared data")
    measuring.add_program(parser)
    add("--fallback", nargs="*", default=[], metavar="CONFIG", help="other configs, such as one for smaller images")
    add("--batch", type=count, default=128, help="images a step, over all devices (default: 128)")
    add("--hours", type=hours, required=True, help="hours to train in, all sessions together")
    add("--session_hours", type=hours, default=math.inf, help="hours of a session (default: all)")
    add("--steps", type=int, default=50, help=f"steps to measure with each config, {train.LINES} or more (default: 50)")
    add("--images", type=count, default=4096, help="images to pack with each config (default: 4096)")
    add("--json", type=measuring.output_file, help="file to write the results to")


def run(arguments: argparse.Namespace) -> None:
    train.require_enough(arguments.steps)
    source = open_source(arguments.source, arguments.input)
    configs = {}
    for name in (arguments.config, *arguments.fallback):
        named = argparse.Namespace(**vars(arguments) | {"config": name})
        configs[name] = measuring.config(named, arguments.batch, {"model.num_classes": len(source.classes)})
    sessions = max(1, math.ceil(arguments.hours / arguments.session_hours))
    budget = Budget(arguments.hours, sessions, shutil.disk_usage(arguments.scratch).free)
    place = measuring.place(math.prod(arguments.mesh))
    counts = {name: len(split.names) for name, split in source.splits.items()}
    print("{machine}\n{device}, {cores} cores".format(**place), end=f", {budget.free / 1e9:,.1f} GB free in ")
    print(arguments.scratch, *(f"{name}: {count:,} images" for name, count in counts.items()), sep="; ", flush=True)
    rows = [
        row(speeds, configs[speeds.config], counts, budget)
        for turn, name in enumerate(configs)
        for speeds in _measured(name, configs[name], source, arguments, turn)
    ]
    print(f"\n{table(rows)}\n")
    best = chosen(rows)
    print("chosen: {config}, {}, {epochs} of its {wanted} epochs".format(_form(best), **best), end=" ")
    print(f"in {budget.hours:g} hours, {sessions} session{'s'[: sessions - 1]}")
    measuring.write(arguments.json, place | {"chosen": best, "rows": rows})


def _measured(name: str, config: Config, source: Source, arguments: argparse.Namespace, turn: int) -> Iterator[Speeds]:
    """Train on the source, then on a sample of it. Each turn packs other images, which are not in memory yet."""
    given = {"source": arguments.source, "directory": str(arguments.input)}
    yield Speeds(name, True, *_trained(config, arguments.steps, given))
    split, total = source.splits["train"], len(source.splits["train"].names)
    count = min(arguments.images, total)
    part = subset(split, (np.arange(count) * total // count + turn) % total)
    with tempfile.TemporaryDirectory(dir=arguments.scratch, prefix="alexnet_jax_bench_") as folder:
        settings, started = packing.Settings("jpeg", config.data.size, QUALITY, max_corrupt=0.1), time.perf_counter()
        packing.pack(Source(source.classes, {"train": part}, {}), Path(folder), settings, show_progress=False)
        packed_per_s = count / (time.perf_counter() - started)
        size = sum(path.stat().st_size for path in Path(folder).glob("*-of-*"))
        prepared = {"source": "prepared", "directory": folder}
        yield Speeds(name, False, *_trained(config, arguments.steps, prepared), packed_per_s, size / count)


def _trained(config: Config, steps: int, data: dict[str, Any]) -> tuple[float, float]:
    """Images/s of training, and the share of the time in which it waits for data."""
    *_, result = train.measured(config_files.changed(config, data=data), steps)
    return result["images_per_s"], result["data_wait"]


def row(speeds: Speeds, config: Config, counts: dict[str, int], budget: Budget) -> dict[str, Any]:
    """What follows from the speeds, ready for JSON. Validation is taken to be as fast as training."""
    total, wanted = sum(counts.values()), config.train.epochs
    prepare, room = total / speeds.packed_per_s / 3600, total * speeds.packed_bytes
    epoch = (counts["train"] + counts.get(config.data.eval_split, 0)) / speeds.images_per_s / 3600
    fit = math.floor((budget.hours - budget.sessions * prepare) / epoch) if room <= budget.free else 0
    follows = {"size": config.data.size, "bytes": room, "prepare_hours": prepare, "epoch_hours": epoch}
    return speeds._asdict() | follows | {"wanted": wanted, "epochs": min(max(fit, 0), wanted)}


def table(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        speed = row["config"], _form(row), f"{row['images_per_s']:,.0f}", f"{row['data_wait']:.0%}"
        room = f"{row['bytes'] / 1e9:,.3g}", f"{row['prepare_hours']:.3g}"
        lines.append((*speed, *room, f"{row['epoch_hours']:.3g}", f"{row['epochs']} of {row['wanted']}"))
    return tabulate(lines, HEADINGS, "plain", disable_numparse=True, stralign="right", colalign=["left", "left"])


def _form(row: dict[str, Any]) -> str:
    return "streamed" if row["streamed"] else "prepared"


def chosen(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The first row that gives all epochs, or else the one that gives most. Raises UserError if none gives one."""
    best = next((row for row in rows if row["epochs"] == row["wanted"]), max(rows, key=lambda row: row["epochs"]))
    if not best["epochs"]:
        raise UserError("not one epoch fits; give more --hours, a --fallback of smaller images or a larger --scratch")
    return best
