"""Our training step or forward pass, ready to be timed beside others, and the parts that its time goes to."""

import argparse
import collections
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax import optim, sharding, steps
from alexnet_jax.bench import contenders, measuring, programs
from alexnet_jax.bench.contenders import Program
from alexnet_jax.data.loader import Batch
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.paper import facts
from alexnet_jax.run_config import Config

STEPS = 3  # to profile
REST = "the rest"


def config(arguments: argparse.Namespace, batch: int, changes: dict[str, Any] | None = None) -> Config:
    """The config to measure, with `changes`. Call it before JAX starts."""
    changed = measuring.config(arguments, batch, {"data.source": "synthetic"} | (changes or {}))
    measuring.require_one_program(changed)
    return changed


def _mesh(config: Config) -> jax.sharding.Mesh:
    return sharding.make_mesh(config.mesh.data, config.mesh.tower, config.model.towers)


def program(arguments: argparse.Namespace, batch: int, changes: dict[str, Any] | None = None) -> Program:
    """Our contender. It reports what the result says about the step."""
    measured = config(arguments, batch, changes)
    mesh = _mesh(measured)
    compiled, step = our_step(measured, mesh, not arguments.forward)
    device = mesh.devices.flat[0]
    layers = facts.layers(measured)
    flop = sum(2 * layer.multiply_adds if arguments.forward else layer.training_flop for layer in layers)
    about = {
        "what": "forward" if arguments.forward else "train",
        **measuring.conditions(arguments, batch),
        "platform": device.platform,
        "environment": {name: os.environ[name] for name in contenders.ENVIRONMENT},
        "matmul_precision": measured.train.matmul_precision,
        "flop_per_image": flop,
        "peak_flop": 2 * mesh.size * arguments.peak_size**3,
        **profile(compiled, step, mesh.size),
    }

    def memory() -> int:
        return (device.memory_stats() or {}).get("peak_bytes_in_use") or contenders.resident()

    return Program(step, jax.block_until_ready, memory, contenders.ahead(device.platform), about)


def our_step(config: Config, mesh: jax.sharding.Mesh, train: bool) -> tuple[Any, Callable[[], Any]]:
    """The compiled program, and a function that runs it once on random images and returns its result."""
    rng, size, count = np.random.default_rng(0), config.data.size, config.train.batch_size
    images = rng.integers(0, 256, (count, size, size, 3), np.uint8)
    labels = rng.integers(0, config.model.num_classes, count, np.int32)
    examples = Batch(images, labels, np.arange(count, dtype=np.int32), np.ones(count, bool))
    batch = sharding.put(examples, mesh, sharding.EXAMPLES)
    grey = Statistics(np.full((size, size, 3), 120, np.float32), np.ones(3, np.float32), np.eye(3, dtype=np.float32))
    constants = sharding.put(grey, mesh, sharding.REPLICATED)
    state = steps.init_state(config, mesh)
    if not train:
        inputs = (state.params, batch.image, constants)
        program = steps.make_log_predict_step(config, mesh, views=1).lower(*inputs).compile()
        return program, lambda: program(*inputs)
    rates = optim.rates(config, state.params, 0, optim.Validation())
    fixed = (batch, rates, constants, sharding.votes(False, mesh))
    program = steps.make_train_step(config, mesh, steps_per_epoch=1000).lower(state, *fixed).compile()

    def step() -> jax.Array:
        nonlocal state
        state, outcome = program(state, *fixed)
        return outcome.loss

    return program, step


def peak(arguments: argparse.Namespace) -> Program:
    """The product of two matrices [size, size] on every device at once: the most arithmetic to be had."""
    mesh, size = _mesh(config(arguments, arguments.batch[0])), arguments.peak_size
    place = jax.NamedSharding(mesh, sharding.DEVICES)
    make = jax.jit(lambda: jnp.ones((mesh.size, size, size), arguments.dtype), out_shardings=place)
    product = jax.jit(lambda a, b: jnp.einsum("dij,djk->dik", a, b), out_shardings=place)
    a, b = make(), make()
    ahead = contenders.ahead(mesh.devices.flat[0].platform)
    return Program(lambda: product(a, b), jax.block_until_ready, contenders.resident, ahead)


def profile(program: Any, step: Callable[[], Any], devices: int) -> dict[str, Any]:
    """Where the time of `step` goes, which runs `program` once, and what each part moves; ready for JSON.

    `shares` of the time, largest first, add up to 1. XLA's profile on CPU lacks the time of what threads share:
    convolutions, and the products in the gradients of fully connected kernels. It is in REST. Elsewhere each kernel has
    its time, and REST is what lies between. `bytes` are those that hlo.py counts, a step and device.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            start = time.perf_counter()
            for _ in range(STEPS):
                jax.block_until_ready(step())
            total = devices * (time.perf_counter() - start)
        (file,) = Path(folder).rglob("*.xplane.pb")
        recorded = jax.profiler.ProfileData.from_file(str(file))
    read = programs.read(program)
    operations = (operation for computation in read.computations.values() for operation in computation.items())
    scopes = {name: operation.scope for name, operation in operations}
    moved: collections.Counter[str] = collections.Counter()
    for kernel in read.kernels():
        scopes[kernel.instruction.name] = kernel.scope
        moved[programs.part(kernel.scope)] += kernel.moved
    seconds: collections.defaultdict[str, float] = collections.defaultdict(float)
    for event in (event for plane in recorded.planes for line in plane.lines for event in line.events):
        name = dict(event.stats).get("hlo_op")
        if name in scopes and not event.name.startswith("end:"):
            seconds[programs.part(scopes[name])] += event.duration_ns / 1e9
    seconds[REST] = max(0, total - sum(seconds.values()))
    shares = {part: duration / total for part, duration in sorted(seconds.items(), key=lambda item: -item[1])}
    return {"shares": shares, "profiled_seconds": total / devices / STEPS, "bytes": dict(moved)}
