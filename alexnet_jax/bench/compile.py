"""Compile the steps of a config for hardware that is not here, and report what they would read, write, send and keep.

XLA's compilers for GPUs and TPUs run on any CPU. The bytes of each kernel are read from the program that they make,
shown beside the least that the config needs, and divided by the bandwidth that the maker of the device publishes. The
longest of the times that bytes, arithmetic and links take is the least time of a step: a projection, no measurement.
On a GPU, libraries' kernels for convolutions and products are chosen at run time: their workspace is not seen.
"""

import argparse
import collections
import math
import re
import time
from typing import Any

import jax
from tabulate import tabulate

from alexnet_jax import sharding, steps
from alexnet_jax.bench import cards, hlo, least, measuring, programs, scale
from alexnet_jax.paper import facts
from alexnet_jax.run_config import Config

LARGEST = 10
COLUMNS = "| for | step | mesh | batch | type | GB (least) | memory, ms | arithmetic, ms | links, ms "
COLUMNS += "| images/s at most | bound by | memory |"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    measuring.add_program(parser)
    add("--for", dest="targets", nargs="+", required=True, metavar="DEVICE", help=f"of {cards.EXAMPLES}")
    add("--batch", type=measuring.positive_int, default=128, help="images a step, over all devices (default: 128)")
    add("--programs", nargs="+", choices=programs.NAMES, default=programs.NAMES, help="which steps (default: all)")
    add("--json", type=measuring.output_file, help="file to write the results to, one per device")


def run(arguments: argparse.Namespace) -> None:
    cards.prepare()
    config = measuring.config(arguments, arguments.batch, {})
    for target in arguments.targets:
        cards.peak(target, config.train.compute_dtype, config.train.matmul_precision)  # is it known, and able?
    results = []
    for target in arguments.targets:
        results.append(_measure(arguments, config, target))
        show(results[-1])
    print(f"\n{projections(results)}")
    measuring.write(arguments.json, results)


def _measure(arguments: argparse.Namespace, config: Config, target: str) -> dict[str, Any]:
    """What the steps need on a target, ready for JSON."""
    data, tower = arguments.mesh
    devices = cards.devices(target, data * tower)
    mesh = sharding.make_mesh(data, tower, config.model.towers, devices)
    return {
        "for": target,
        "device": devices[0].device_kind,
        "config": arguments.config,
        "mesh": f"{data}x{tower}",
        "batch": arguments.batch,
        "dtype": arguments.dtype,
        "compiler": cards.compiler(target),
        "programs": {name: measure(name, config, mesh, target) for name in arguments.programs},
    }


def measure(name: str, config: Config, mesh: jax.sharding.Mesh, target: str) -> dict[str, Any]:
    """What one of `programs.NAMES`, compiled for a target, needs on each device; {"refused"} if it has no room."""
    card, started = cards.card(target), time.perf_counter()
    try:
        compiled = programs.lower(name, config, mesh).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {"refused": str(error).splitlines()[0]}
    seconds, program = time.perf_counter() - started, programs.read(compiled)
    kernels, training = program.kernels(), name == "train"
    least_bytes = least.least(config, training)
    moved = sum(kernel.moved for kernel in kernels)
    images = config.train.batch_size if training else config.train.eval_batch_size
    layers = facts.layers(config)
    flop = images * sum(layer.training_flop if training else 2 * layer.multiply_adds for layer in layers) / mesh.size
    sent = scale.collectives(program, dict(mesh.shape))
    times = {
        "memory": moved / card.bandwidth,
        "arithmetic": flop / cards.peak(target, config.train.compute_dtype, config.train.matmul_precision),
        "links": sum(collective.all_sent for collective in sent) / card.link,
    }
    memory = programs.planned_memory(compiled)
    bound = max(times, key=lambda each: times[each])
    state = len(jax.tree.leaves(steps.abstract_state(config, mesh)))
    return {
        "compile_seconds": seconds,
        "kernels": sum(kernel.times for kernel in kernels),
        "bytes": moved,
        "least_bytes": sum(least_bytes.values()),
        "least_bytes_of": least_bytes,
        "unknown_loops": program.unknown_loops,
        "parts": parts(kernels),
        "largest": largest(kernels),
        "flop": flop,
        "collectives": [
            {"kind": each.kind, "axis": each.axis, "devices": each.devices, "bytes": each.all_sent} for each in sent
        ],
        "memory": memory,
        "fits": memory <= card.usable,
        "donated": program.aliases() == state if training else None,
        "seconds": times,
        "bound": bound,
        "images_per_s": images / times[bound],
    }


def parts(kernels: list[hlo.Kernel]) -> dict[str, dict[str, int]]:
    """Kernels and bytes of each part of the step, layers one by one, most bytes first."""
    counts: collections.Counter[str] = collections.Counter()
    moved: collections.Counter[str] = collections.Counter()
    for kernel in kernels:
        layer = re.search(r"\b(conv\d|fc\d)\b", kernel.scope)
        part = programs.part(kernel.scope)
        part = layer[1] if layer and part in ("convolution", "fully connected") else part
        counts[part] += kernel.times
        moved[part] += kernel.moved
    return {part: {"kernels": counts[part], "bytes": total} for part, total in moved.most_common()}


def largest(kernels: list[hlo.Kernel]) -> list[dict[str, Any]]:
    """The kernels that move most bytes."""
    kernels = sorted(kernels, key=lambda kernel: kernel.moved, reverse=True)[:LARGEST]
    return [
        {
            "name": kernel.instruction.name,
            "operation": kernel.instruction.operation,
            "bytes": kernel.moved,
            "times": kernel.times,
            "scope": kernel.scope,
        }
        for kernel in kernels
    ]


def show(result: dict[str, Any]) -> None:
    """Print what the steps of a target need."""
    about = "\n{config}, batch {batch}, {dtype}, mesh {mesh} of {device}, compiled by {compiler}"
    print(about.format(**result))
    for name, program in result["programs"].items():
        if "refused" in program:
            print(f"\n{name}: does not fit: {program['refused']}")
            continue
        print(f"\n{name}: {program['kernels']:,} kernels, {program['bytes'] / 1e9:,.2f} GB on each device", end=" ")
        print(f"(least: {program['least_bytes'] / 1e9:,.2f} GB), {program['flop'] / 1e12:,.2f} TFLOP", end=", ")
        donated = {True: ", the state donated", False: ", the state NOT donated", None: ""}[program["donated"]]
        fits = "" if program["fits"] else ": MORE THAN JAX TAKES OF THE DEVICE"
        print(f"{program['memory'] / 1e9:,.2f} GB of memory{fits}{donated}")
        if program["unknown_loops"]:
            print(f"{program['unknown_loops']} loops of unknown length are counted as if they ran once")
        rows = [[part, each["kernels"], f"{each['bytes'] / 1e9:,.3f}"] for part, each in program["parts"].items()]
        print(tabulate(rows, ("part", "kernels", "GB"), "plain", colalign=("left", "right", "right")), end="\n\n")
        rows = [
            [f"{each['bytes'] / 1e9:,.3f}", f"{each['times']}x", each["name"], each["scope"][-70:]]
            for each in program["largest"]
        ]
        print(tabulate(rows, ("GB", "", "largest", "of"), "plain", colalign=("right", "right", "left", "left")))
        groups = collections.Counter((each["kind"], each["axis"], each["devices"]) for each in program["collectives"])
        for (kind, axis, devices), count in groups.items():
            alike = (e for e in program["collectives"] if (e["kind"], e["axis"], e["devices"]) == (kind, axis, devices))
            sent = sum(each["bytes"] for each in alike)
            print(f"{count} {kind} over {devices} devices of the axis {axis}: {sent / 1e6:,.3f} MB sent by each")
    if cards.card(result["for"]).gpu and math.prod(measuring.mesh(result["mesh"])) > cards.HOST:
        print(f"\nall links are taken to be NVLink: those between hosts of {cards.HOST} GPUs are slower")


def projections(results: list[dict[str, Any]]) -> str:
    """A table of the least times, in Markdown: projections from bytes, FLOP and published speeds."""
    rows = []
    for result in results:
        for name, program in result["programs"].items():
            about = (result["for"], name, result["mesh"], result["batch"], result["dtype"])
            if "refused" in program:
                rows.append((*about, *["-"] * 6, "does not fit"))
                continue
            moved = f"{program['bytes'] / 1e9:,.2f} ({program['least_bytes'] / 1e9:,.2f})"
            times = [f"{1e3 * seconds:,.2f}" for seconds in program["seconds"].values()]
            speed = f"{program['images_per_s']:,.0f}"
            fits = f"{program['memory'] / 1e9:,.2f} GB{'' if program['fits'] else ': too much'}"
            rows.append((*about, moved, *times, speed, program["bound"], fits))
    return f"Projections, not measurements:\n\n{measuring.markdown(COLUMNS, rows)}"
