"""Rates of several pipelines in turn, again and again, so that a machine whose speed drifts treats all alike."""

import platform
import re
import statistics
import time
from collections.abc import Generator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from alexnet_jax.errors import UserError

WARM_UP = 1 / 3  # of the time that is measured; also lets the pipeline before fill its buffers and fall quiet

LIBRARIES = ("numpy", "jax", "grain", "simplejpeg", "opencv-python-headless", "pillow")
PEERS = ("torch", "tensorflow", "tensorflow-cpu")

Batches = Generator[object, None, None]  # endless; None of its values is looked at


def machine() -> str:
    """The processor, and the versions of what matters here."""
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    found = {dist.metadata["Name"].lower(): dist.version for dist in metadata.distributions()}
    versions = ", ".join(f"{name} {found[name]}" for name in LIBRARIES + PEERS if name in found)
    return f"{model[1] if model else platform.processor()}; Python {platform.python_version()}, {versions}"


def mesh(text: str) -> tuple[int, int]:
    """Devices along data and tower, from what --mesh says."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not match:
        raise UserError(f"--mesh {text} is no data x tower; give for example 1x2")
    return int(match[1]), int(match[2])


class Pipeline(NamedTuple):
    """Something endless that hands out batches."""

    name: str
    stage: str  # of the input; "whole" where all of them run at once
    store: str | None  # form of its data
    cores: int  # that it may keep busy
    batches: Batches | None  # None: not installed
    ahead: int = 0  # batches it may have made before it is asked; they are not timed


def measure(pipelines: list[Pipeline], batch: int, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Images/s of each pipeline that is installed, one number a round; a single stage gets a third of `seconds`."""
    rates: dict[str, list[float]] = {pipeline.name: [] for pipeline in pipelines if pipeline.batches}
    with tqdm(total=rounds * len(rates), desc="measuring", unit="", leave=False, disable=None) as bar:
        for _ in range(rounds):
            for pipeline in pipelines:
                if pipeline.batches:
                    share = seconds if pipeline.stage == "whole" else seconds / 3
                    rates[pipeline.name].append(batch * _per_second(pipeline.batches, pipeline.ahead, share))
                    bar.update()
    return rates


def _per_second(batches: Batches, ahead: int, seconds: float) -> float:
    count, start = 0, time.perf_counter()
    while count <= ahead or time.perf_counter() - start < seconds * WARM_UP:
        next(batches)
        count += 1
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds:
        next(batches)
        count += 1
    return count / elapsed


def rows(
    pipelines: list[Pipeline], rates: dict[str, list[float]], batch: int, peers: dict[str, dict[str, str]]
) -> list[dict]:
    """A row a pipeline, ready for JSON. Rates are medians over the rounds.

    `peers`: key of a ratio -> form of the data -> pipeline that whole pipelines of this form are compared with. A
    ratio is the median of the rounds' own ratios.
    """
    found = []
    for pipeline in pipelines:
        own = rates.get(pipeline.name)
        ratios: dict[str, float | None] = dict.fromkeys(peers)
        if own and pipeline.stage == "whole":
            for key, peer_of in peers.items():
                peer = rates.get(peer_of[str(pipeline.store)])
                if peer:
                    ratios[key] = statistics.median(a / b for a, b in zip(own, peer, strict=True))
        found.append(
            {
                "pipeline": pipeline.name,
                "images_per_s": statistics.median(own) if own else None,
                **ratios,
                "cores": pipeline.cores,
                "batch": batch,
                "stage": pipeline.stage,
                "store": pipeline.store,
                "rounds": own,
            }
        )
    return found


def table(rows: list[dict], ratios: dict[str, str]) -> str:
    """The rows for reading; `ratios`: key of a ratio -> its heading."""
    lines = [["", "cores", "images/s", "least..most", "per core", *ratios.values()]]
    for row in rows:
        if row["rounds"]:
            median, per_core = row["images_per_s"], row["images_per_s"] / row["cores"]
            span = f"{min(row['rounds']):,.0f}..{max(row['rounds']):,.0f}"
            compared = ["-" if row[key] is None else f"{row[key]:.2f}x" for key in ratios]
            lines.append([row["pipeline"], str(row["cores"]), f"{median:,.0f}", span, f"{per_core:,.0f}", *compared])
        else:
            lines.append([row["pipeline"], "", "not installed: pip install -e .[bench]", *[""] * (2 + len(ratios))])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place else cell.ljust(width) for place, (cell, width) in enumerate(cells)
        ).rstrip()
        for cells in (list(zip(line, widths, strict=True)) for line in lines)
    )
