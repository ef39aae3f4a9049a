"""Images/s of the training step, or of the forward pass, beside the same network in PyTorch; and where the time goes.

Everything runs in one process and takes turns: each round times every contender once, after a warm-up, and waits for
the device after every step. Numbers are medians over the rounds. Ours begins with stored uint8 images on the device,
and crops, mirrors and colours them; PyTorch is given float images and does not.
"""

import argparse
import collections
import datetime
import json
import os
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax import sharding, steps
from alexnet_jax.bench import rounds
from alexnet_jax.bench.peers import installed
from alexnet_jax.bench.rounds import Batches, Pipeline
from alexnet_jax.data.loader import Batch
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import UserError
from alexnet_jax.paper import facts
from alexnet_jax.run import config_files
from alexnet_jax.run_config import Config

OURS, PEAK = "alexnet_jax", "matrix product"
PROFILED = 3  # steps
REST = "the rest"
PARTS = {  # of a step -> what names it in the compiled program; the first that is found counts
    "collectives": r"/exchange/|psum|pmax|/reduce_scatter|/all_gather|/all_to_all",
    "normalization": r"/lrn/|/map_norm/",
    "pooling": r"/pool/",
    "dropout": r"/dropout/",
    "optimizer": r"/optimizer/",
    "images": r"/images/",
    "convolution": r"/conv\d/",
    "fully connected": r"/fc\d/",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--config", default="configs/paper.py", help="config file (default configs/paper.py)")
    add("--mesh", default="1x2", help="data x tower (default 1x2); on CPU, devices are simulated")
    add("--batch", type=int, nargs="+", default=[32], help="images a step, over all devices (default 32)")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="of activations (default float32)")
    add("--forward", action="store_true", help="the forward pass of prediction instead of a training step")
    add("--rounds", type=int, default=5, help="each times everything once (default 5)")
    add("--seconds", type=float, default=4, help="per contender and round (default 4)")
    add("--peak_size", type=int, default=2048, help="rows of the matrices whose product is the peak (default 2048)")
    add("--no_torch", action="store_true", help="ours alone")
    add("--json", type=Path, help="file to write the results to, one a batch size")


def run(arguments: argparse.Namespace) -> None:
    data, tower = rounds.mesh(arguments.mesh)
    if arguments.rounds < 1 or not arguments.seconds > 0 or min(arguments.batch) < 1:
        raise UserError("--rounds, --seconds and --batch must be more than 0")
    jax.config.update("jax_num_cpu_devices", data * tower)  # of no matter to other devices
    values = config_files.load(arguments.config)
    values.data.source, values.train.compute_dtype = "synthetic", arguments.dtype
    values.mesh.update(data=data, tower=tower)
    found = []
    for batch in arguments.batch:
        values.train.update(batch_size=batch, eval_batch_size=batch)
        found.append(_one(arguments, config_files.parse(values)))
        print(f"\n{report(found[-1])}\n", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


def _one(arguments: argparse.Namespace, config: Config) -> dict:
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.tower, config.model.towers)
    platform = mesh.devices.flat[0].platform
    compiled, step = ours(config, mesh, not arguments.forward)
    contenders = {OURS: step, PEAK: peak(mesh, arguments.dtype, arguments.peak_size)}
    if not arguments.no_torch and installed("torch"):
        from alexnet_jax.bench import torch_net

        device = "cuda" if platform == "gpu" else "cpu"
        for name, settings in torch_net.variants(device).items():
            contenders[name] = torch_net.stepper(config, device, not arguments.forward, **settings)
    pipelines = [Pipeline(name, "whole", None, 1, _endless(one)) for name, one in contenders.items()]
    rates = rounds.measure(pipelines, 1, arguments.rounds, arguments.seconds)
    shares = parts(compiled, step, mesh.size)
    return summary(config, arguments, rates, shares, _memory(compiled, mesh))


def _endless(step: Callable[[], Any]) -> Batches:
    while True:
        yield jax.block_until_ready(step())


def ours(config: Config, mesh: jax.sharding.Mesh, train: bool) -> tuple[Any, Callable[[], Any]]:
    """The compiled program, and a function that runs it once; its result is ready when it ends."""
    rng = np.random.default_rng(0)
    size, count = config.data.size, config.train.batch_size
    images = rng.integers(0, 256, (count, size, size, 3), np.uint8)
    labels = rng.integers(0, config.model.num_classes, count).astype(np.int32)
    batch = Batch(images, labels, np.arange(count, dtype=np.int32), np.ones(count, bool))
    batch = sharding.put(batch, mesh, sharding.EXAMPLES)
    ones = Statistics(np.full((size, size, 3), 120, np.float32), np.ones(3, np.float32), np.eye(3, dtype=np.float32))
    constants = sharding.put(ones, mesh, sharding.REPLICATED)
    state = steps.init_state(config, mesh)
    if not train:
        predict = steps.make_predict_step(config, mesh, views=1)
        program = predict.lower(state.params, batch.image, constants).compile()
        return program, lambda: program(state.params, batch.image, constants)
    rates = np.full((len(state.params), 2), config.optim.learning_rate, np.float32)
    fixed = (batch, rates, constants, sharding.votes(False, mesh))
    program = steps.make_train_step(config, mesh, steps_per_epoch=1000).lower(state, *fixed).compile()

    def step() -> jax.Array:
        nonlocal state
        state, seen = program(state, *fixed)
        return seen.loss

    return program, step


def peak(mesh: jax.sharding.Mesh, dtype: str, size: int) -> Callable[[], jax.Array]:
    """Multiplies two matrices of size x size on each device at once: what the machine's arithmetic can give."""
    place = jax.NamedSharding(mesh, sharding.DEVICES)
    make = jax.jit(lambda: jnp.ones((mesh.size, size, size), dtype), out_shardings=place)
    product = jax.jit(lambda a, b: jnp.einsum("dij,djk->dik", a, b), out_shardings=place)
    a, b = make(), make()
    return lambda: product(a, b)


def parts(compiled: Any, step: Callable[[], Any], devices: int) -> dict[str, float]:
    """Shares of a step's time on its devices, from a profile of PROFILED steps; they add up to 1.

    XLA's profile on CPU has no time of what threads share, which are convolutions and the products in the gradients
    of fully connected kernels: REST is theirs. Elsewhere each kernel has its time, and REST is what lies between.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            start = time.perf_counter()
            for _ in range(PROFILED):
                jax.block_until_ready(step())
            whole = devices * (time.perf_counter() - start)
        (file,) = Path(folder).rglob("*.xplane.pb")
        profile = jax.profiler.ProfileData.from_file(str(file))
    named = re.findall(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*)$", compiled.as_text(), re.MULTILINE)
    scopes = {name: (re.findall(r'op_name="([^"]*)"', rest) or [""])[0] for name, rest in named}
    times: collections.defaultdict[str, float] = collections.defaultdict(float)
    for event in (event for plane in profile.planes for line in plane.lines for event in line.events):
        name = dict(event.stats).get("hlo_op")
        if name in scopes and not event.name.startswith("end:"):
            times[_part(scopes[name])] += event.duration_ns / 1e9
    times[REST] = max(0, whole - sum(times.values()))
    return {part: seconds / whole for part, seconds in sorted(times.items(), key=lambda item: -item[1])}


def _part(scope: str) -> str:
    if not scope:  # what the compiler has made of its own, most of it before convolutions
        return "copies"
    return next((part for part, pattern in PARTS.items() if re.search(pattern, f"{scope}/")), "other")


def _memory(compiled: Any, mesh: jax.sharding.Mesh) -> int:
    """Bytes on one device at the most, as the device tells, or else as the compiler has planned."""
    seen = mesh.devices.flat[0].memory_stats()
    if seen and "peak_bytes_in_use" in seen:
        return seen["peak_bytes_in_use"]
    plan = compiled.memory_analysis()
    return plan.argument_size_in_bytes + plan.temp_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes


def summary(
    config: Config, arguments: argparse.Namespace, rates: dict[str, list[float]], shares: dict[str, float], memory: int
) -> dict:
    """What was measured, ready for JSON. `rates`: of each contender the steps per second, one a round."""
    batch, devices = config.train.batch_size, config.mesh.data * config.mesh.tower
    images = {name: [batch * rate for rate in of] for name, of in rates.items() if name != PEAK}
    medians = {name: statistics.median(of) for name, of in images.items()}
    peers = {name: rate for name, rate in medians.items() if name != OURS}
    best = max(peers, key=peers.__getitem__, default=None)
    flop = sum(
        layer.training_flop if not arguments.forward else 2 * layer.multiply_adds for layer in facts.layers(config)
    )
    product = 2 * devices * arguments.peak_size**3
    peak_gflops = product * max(rates[PEAK]) / 1e9
    gflops = flop * medians[OURS] / 1e9
    return {
        "ours_images_per_s": medians[OURS],
        "torch_images_per_s": best and medians[best],
        "torch_variant": best,
        "ratio": best and ratio(images[OURS], images[best]),
        "ratios": {name: ratio(images[OURS], of) for name, of in images.items() if name != OURS},
        "gflops": gflops,
        "peak_gflops": peak_gflops,
        "share_of_peak": gflops / peak_gflops,
        "shares": shares,
        "memory_bytes_a_device": memory,
        "config": arguments.config,
        "what": "forward" if arguments.forward else "train",
        "mesh": arguments.mesh,
        "batch": batch,
        "dtype": arguments.dtype,
        "rounds": images,
        "machine": rounds.machine(),
        "device": f"{devices} x {jax.devices()[0].device_kind}",
        "cores": len(os.sched_getaffinity(0)),
        "date": datetime.date.today().isoformat(),
    }


def ratio(ours: list[float], theirs: list[float]) -> float:
    """The median of the rounds' own ratios."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def report(found: dict) -> str:
    lines = [
        found["machine"],
        f"{found['what']}, {found['config']}, mesh {found['mesh']} on {found['device']} with {found['cores']} cores, "
        f"batch {found['batch']}, {found['dtype']}, {len(found['rounds'][OURS])} rounds",
        "",
        f"{'':32}{'images/s':>10}   {'least..most':>16}   ours is",
    ]
    for name, of in found["rounds"].items():
        compared = f"{found['ratios'][name]:.2f}x" if name in found["ratios"] else ""
        lines.append(f"{name:32}{statistics.median(of):10,.1f}   {min(of):7,.1f}..{max(of):7,.1f}   {compared:>7}")
    lines += [
        "",
        f"{found['gflops']:,.0f} GFLOP/s, {found['share_of_peak']:.0%} of the {found['peak_gflops']:,.0f} that a "
        f"product of matrices reaches; {found['memory_bytes_a_device'] / 1e6:,.0f} MB on each device",
    ]
    if found["shares"]:
        lines.append("of a step: " + ", ".join(f"{part} {share:.1%}" for part, share in found["shares"].items()))
    return "\n".join(lines)
