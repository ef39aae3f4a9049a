"""Rates of several pipelines, measured in turn over several rounds, so that a drift of the machine's speed hits all."""

import statistics
import time
from collections.abc import Generator
from typing import NamedTuple

from tqdm import tqdm

WARM_UP = 1 / 3  # of the measured time; it also lets the previous pipeline fill its buffers and fall quiet

Stream = Generator[object, None, None]  # endless; its values are ignored


class Pipeline(NamedTuple):
    """An endless producer of batches."""

    name: str
    stage: str  # of the input; "whole" if it runs all stages at once
    store: str | None  # the form of its data
    cores: int  # that it may keep busy
    batches: Stream | None  # None if it is not installed
    ahead: int = 0  # batches it may have ready before it is asked for one; they are not timed


def measure(pipelines: list[Pipeline], batch: int, rounds: int, seconds: float) -> dict[str, list[float]]:
    """The images/s of each installed pipeline, a number a round; a single stage is timed for a third of `seconds`."""
    rates: dict[str, list[float]] = {pipeline.name: [] for pipeline in pipelines if pipeline.batches}
    with tqdm(total=rounds * len(rates), desc="measuring", unit="", leave=False, disable=None) as bar:
        for _ in range(rounds):
            for pipeline in pipelines:
                if pipeline.batches:
                    share = seconds if pipeline.stage == "whole" else seconds / 3
                    _per_second(pipeline.batches, share * WARM_UP, pipeline.ahead + 1)
                    rates[pipeline.name].append(batch * _per_second(pipeline.batches, share))
                    bar.update()
    return rates


def _per_second(batches: Stream, seconds: float, least: int = 1) -> float:
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds or count < least:
        next(batches)
        count += 1
    return count / elapsed


def ratio(rates: list[float], others: list[float]) -> float:
    """The median over the rounds of the ratio of two rates."""
    return statistics.median(rate / other for rate, other in zip(rates, others, strict=True))


def spread(rates: list[float], digits: int = 0) -> str:
    """The lowest and the highest rate."""
    return f"{min(rates):,.{digits}f}..{max(rates):,.{digits}f}"
