"""Which parts of a step take its time, from a profile of its compiled program."""

import collections
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

STEPS = 3  # to profile
REST = "the rest"
PARTS = {  # part of a step -> pattern of the scopes in the compiled program; the first that matches counts
    "copies": "^/$",  # no scope: an operation of the compiler's own, most of them before convolutions
    "collectives": r"/exchange/|psum|pmax|/reduce_scatter|/all_gather|/all_to_all",
    "normalization": r"/lrn/|/map_norm/",
    "pooling": r"/pool/",
    "dropout": r"/dropout/",
    "optimizer": r"/optimizer/",
    "images": r"/images/",
    "convolution": r"/conv\d/",
    "fully connected": r"/fc\d/",
}


def shares(program: Any, step: Callable[[], Any], devices: int) -> dict[str, float]:
    """Each part's share of the time of `step`, which runs `program` once, largest first; they add up to 1.

    XLA's profile on CPU lacks the time of what threads share: convolutions, and the products in the gradients of
    fully connected kernels. It is in REST. Elsewhere each kernel has its time, and REST is what lies between.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            start = time.perf_counter()
            for _ in range(STEPS):
                jax.block_until_ready(step())
            total = devices * (time.perf_counter() - start)
        (file,) = Path(folder).rglob("*.xplane.pb")
        profile = jax.profiler.ProfileData.from_file(str(file))
    operations = re.findall(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*)$", program.as_text(), re.MULTILINE)
    scopes = {name: (re.findall(r'op_name="([^"]*)"', rest) or [""])[0] for name, rest in operations}
    seconds: collections.defaultdict[str, float] = collections.defaultdict(float)
    for event in (event for plane in profile.planes for line in plane.lines for event in line.events):
        name = dict(event.stats).get("hlo_op")
        if name in scopes and not event.name.startswith("end:"):
            matches = (part for part, pattern in PARTS.items() if re.search(pattern, f"{scopes[name]}/"))
            seconds[next(matches, "other")] += event.duration_ns / 1e9
    seconds[REST] = max(0, total - sum(seconds.values()))
    return {part: duration / total for part, duration in sorted(seconds.items(), key=lambda item: -item[1])}
