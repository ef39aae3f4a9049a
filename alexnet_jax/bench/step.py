"""Measure the training step or forward pass in images/s, beside PyTorch's; and which parts of it take the time.

Everything runs in one process, in turn: after a warm-up each round times every contender once and waits for the
device after every step. The results are medians over the rounds. Our step starts from stored uint8 images on the
device, which it crops, mirrors and recolours; PyTorch is given float images and does none of this.
"""

import argparse
import collections
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tabulate import tabulate

from alexnet_jax import optim, sharding, steps
from alexnet_jax.bench import measuring, peers, programs
from alexnet_jax.data.loader import Batch
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.paper import facts
from alexnet_jax.run_config import Config

OURS, PEAK = "alexnet_jax", "matrix product"
STEPS = 3  # to profile
REST = "the rest"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add, count = parser.add_argument, measuring.positive_int
    measuring.add_program(parser)
    add("--batch", type=count, nargs="+", default=[32], help="images a step, over all devices (default: 32)")
    add("--forward", action="store_true", help="measure the forward pass of prediction, not a training step")
    add("--rounds", type=count, default=5, help="rounds, each of which times everything once (default: 5)")
    add("--seconds", type=measuring.positive_float, default=4, help="time per contender and round (default: 4)")
    add("--peak_size", type=count, default=2048, help="rows of the matrices whose product is the peak (default: 2048)")
    add("--no_torch", action="store_true", help="leave PyTorch out")
    add("--json", type=measuring.output_file, help="file to write the results to, one per batch size")


def run(arguments: argparse.Namespace) -> None:
    configs = [measuring.config(arguments, batch, {"data.source": "synthetic"}) for batch in arguments.batch]
    results = []
    for config in configs:
        results.append(_measure(arguments, config))
        show(results[-1])
    measuring.write(arguments.json, results)


def _measure(arguments: argparse.Namespace, config: Config) -> dict:
    """The speeds and how they compare, ready for JSON."""
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.tower, config.model.towers)
    program, step = our_step(config, mesh, not arguments.forward)
    contenders = {OURS: step, PEAK: peak(mesh, arguments.dtype, arguments.peak_size)}
    if not arguments.no_torch and peers.installed("torch"):
        from alexnet_jax.bench import torch_net

        device = "cuda" if mesh.devices.flat[0].platform == "gpu" else "cpu"
        for name, settings in torch_net.variants(device).items():
            contenders[name] = torch_net.stepper(config, device, not arguments.forward, **settings)
    pipelines = [
        measuring.Pipeline(name, "whole", None, 1, (jax.block_until_ready(each()) for each in repeat(contender)))
        for name, contender in contenders.items()
    ]
    batch = config.train.batch_size
    rates = measuring.rates(pipelines, batch, arguments.rounds, arguments.seconds)
    products = max(rates.pop(PEAK)) / batch  # a second, of matrices
    medians = {name: statistics.median(each) for name, each in rates.items()}
    ratios = {name: measuring.ratio(rates[OURS], each) for name, each in rates.items() if name != OURS}
    best = max(ratios, key=lambda name: medians[name], default=None)
    layers = facts.layers(config)
    flop = sum(2 * layer.multiply_adds if arguments.forward else layer.training_flop for layer in layers)
    gflops, peak_gflops = flop * medians[OURS] / 1e9, 2 * mesh.size * arguments.peak_size**3 * products / 1e9
    return {
        "ours_images_per_s": medians[OURS],
        "torch_images_per_s": best and medians[best],
        "torch_variant": best,
        "ratio": best and ratios[best],
        "ratios": ratios,
        "gflops": gflops,
        "peak_gflops": peak_gflops,
        "share_of_peak": gflops / peak_gflops,
        "shares": shares(program, step, mesh.size),
        "memory_bytes_a_device": _memory(program, mesh),
        "what": "forward" if arguments.forward else "train",
        "rounds": rates,
        **measuring.conditions(arguments, batch),
    }


def our_step(config: Config, mesh: jax.sharding.Mesh, train: bool) -> tuple[Any, Callable[[], Any]]:
    """The compiled program, and a function that runs it once on random images and returns its result."""
    rng, size, count = np.random.default_rng(0), config.data.size, config.train.batch_size
    images = rng.integers(0, 256, (count, size, size, 3), np.uint8)
    labels = rng.integers(0, config.model.num_classes, count, np.int32)
    examples = Batch(images, labels, np.arange(count, dtype=np.int32), np.ones(count, bool))
    batch = sharding.put(examples, mesh, sharding.EXAMPLES)
    grey = Statistics(np.full((size, size, 3), 120, np.float32), np.ones(3, np.float32), np.eye(3, dtype=np.float32))
    constants = sharding.put(grey, mesh, sharding.REPLICATED)
    measuring.require_one_program(config)
    state = steps.init_state(config, mesh)
    if not train:
        inputs = (state.params, batch.image, constants)
        program = steps.make_log_predict_step(config, mesh, views=1).lower(*inputs).compile()
        return program, lambda: program(*inputs)
    rates = optim.rates(config.optim, state.params, 0, optim.Validation())
    fixed = (batch, rates, constants, sharding.votes(False, mesh))
    program = steps.make_train_step(config, mesh, steps_per_epoch=1000).lower(state, *fixed).compile()

    def step() -> jax.Array:
        nonlocal state
        state, outcome = program(state, *fixed)
        return outcome.loss

    return program, step


def peak(mesh: jax.sharding.Mesh, dtype: str, size: int) -> Callable[[], jax.Array]:
    """A function that multiplies two matrices [size, size] on every device at once: the most arithmetic to be had."""
    place = jax.NamedSharding(mesh, sharding.DEVICES)
    make = jax.jit(lambda: jnp.ones((mesh.size, size, size), dtype), out_shardings=place)
    product = jax.jit(lambda a, b: jnp.einsum("dij,djk->dik", a, b), out_shardings=place)
    a, b = make(), make()
    return lambda: product(a, b)


def _memory(program: Any, mesh: jax.sharding.Mesh) -> int:
    """The most bytes in use on one device: as the device reports, or else as the compiler has planned."""
    reported = mesh.devices.flat[0].memory_stats() or {}
    return reported.get("peak_bytes_in_use") or programs.planned_memory(program)


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
            seconds[programs.part(scopes[name])] += event.duration_ns / 1e9
    seconds[REST] = max(0, total - sum(seconds.values()))
    return {part: duration / total for part, duration in sorted(seconds.items(), key=lambda item: -item[1])}


def show(result: dict) -> None:
    """Print a result."""
    rows = []
    for name, rates in result["rounds"].items():
        ratio = f"{result['ratios'][name]:.2f}x" if name in result["ratios"] else ""
        rows.append((name, f"{statistics.median(rates):,.1f}", measuring.spread(rates, 1), ratio))
    headings = ("", "images/s", "least..most", "ours is")
    print("\n{machine}\n{what}, {config}, mesh {mesh} on {device} with {cores} cores".format(**result), end=", ")
    print("batch {batch}, {dtype}, {count} rounds\n".format(count=len(result["rounds"][OURS]), **result))
    print(tabulate(rows, headings, "plain", disable_numparse=True, stralign="right", colalign=["left"]))
    print("\n{gflops:,.0f} GFLOP/s, {share_of_peak:.0%} of the {peak_gflops:,.0f} that a ".format(**result), end="")
    print(f"matrix product reaches; {result['memory_bytes_a_device'] / 1e6:,.0f} MB on each device")
    shares = ", ".join(f"{part} {share:.1%}" for part, share in result["shares"].items())
    print(f"parts of a step: {shares}\n", flush=True)
