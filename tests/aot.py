"""What the compiled steps of the paper's config need on hardware that is not here.

`python -m tests.aot [CASE...]` compiles them, in a few minutes, and writes what it finds to aot.json, with which
tests/test_compile.py compares what it compiles. Run it after a change that was meant to change these numbers, and read
the difference.
"""

import collections
import json
import sys
from typing import Any

from alexnet_jax import sharding
from alexnet_jax.bench import cards, measuring
from alexnet_jax.bench import compile as compile_
from alexnet_jax.run import config_files
from tests.conftest import ROOT

FILE = ROOT / "tests/aot.json"
CASES = (  # step, device, mesh, batch, type of activations
    "train h100 1x1 1024 bfloat16",
    "train h100 1x2 1024 bfloat16",
    "train h100 4x2 1024 bfloat16",
    "train h100 2x1 1024 bfloat16",
    "train h100 1x1 128 float32",
    "train t4 1x2 128 float16",
    "eval h100 1x1 1024 bfloat16",
    "train t4 1x1 128 float16",
    "train v5e:2x2 1x1 1024 bfloat16",
    "train v5e:2x2 1x2 128 bfloat16",
    "train v5e:2x2 2x1 128 bfloat16",
    "train v5e:4x2 4x2 512 bfloat16",
    "predict v5e:2x2 1x2 128 bfloat16",
)


def compiled(case: str) -> dict[str, Any]:
    """What a case needs on each device: bytes, memory, and its collectives."""
    step, target, devices, batch, dtype = case.split()
    data, tower = measuring.mesh(devices)
    keys = measuring.layout((data, tower), int(batch), dtype)
    config = config_files.parse(config_files.load("paper", keys))
    if case != CASES[0]:  # Triton takes a minute for its threads; others move the same bytes
        from alexnet_jax.kernels import triton

        triton.FORWARD_WIDTH, triton.BACKWARD_WIDTH, triton.ROWS = 4, 4, 1
    cards.prepare()
    mesh = sharding.make_mesh(data, tower, config.model.towers, cards.devices(target, data * tower))
    needs = compile_.measure(step, config, mesh, target)
    sent = collections.Counter(f"{each['kind']} over {each['axis']}" for each in needs["collectives"])
    parts = {part: round(each["bytes"] / 1e9, 3) for part, each in needs["parts"].items()}
    return {
        "GB": round(needs["bytes"] / 1e9, 3),
        "GB of memory": round(needs["memory"] / 1e9, 3),
        "donated": needs["donated"],
        "collectives": dict(sorted(sent.items())),
        "GB of parts": parts,
    }


if __name__ == "__main__":
    known = json.loads(FILE.read_text())
    for case in sys.argv[1:] or CASES:
        known[case] = compiled(case)
        print(case, known[case], flush=True)
        FILE.write_text(json.dumps({each: known[each] for each in CASES if each in known}, indent=1) + "\n")
