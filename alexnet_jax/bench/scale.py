"""Measure the bytes that devices send each other in a training step, and compare them with the arithmetic.

Nothing runs: the step is compiled for simulated devices and its collectives are read from the program. The bytes are
what one device sends in float32 if a collective goes around a ring: (n - 1) / n of the whole for a gather, a scatter
or an all-to-all, twice that for an all-reduce. Fully connected layers are split both ways: mesh.fc_sharding tower and
data_tower.
"""

import argparse
import math
import re
from typing import NamedTuple

import jax
import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from alexnet_jax import sharding, steps
from alexnet_jax.bench import hlo, measuring, programs
from alexnet_jax.errors import UserError
from alexnet_jax.paper import facts
from alexnet_jax.run import config_files
from alexnet_jax.run_config import Config
from alexnet_jax.sharding import DATA, TOWER

KINDS = "all-gather", "all-reduce", "reduce-scatter", "collective-permute", "all-to-all"
PURPOSES = "between towers", "conv gradients", "fully connected, over data", "scalars"
BETWEEN_TOWERS, CONV, DENSE, SCALARS = PURPOSES
BOTH = f"{DATA} and {TOWER}"


class Collective(NamedTuple):
    """A collective operation of a compiled program."""

    kind: str
    results: list[tuple[int, int]]  # for each array: elements, and bytes, on one device
    devices: int  # that take part
    axis: str  # of the mesh, along which they lie

    def sent(self, result_bytes: int) -> float:
        """The bytes that one device sends around a ring, for a result of `result_bytes` on each device."""
        share = (self.devices - 1) / self.devices
        shares = {"all-reduce": 2 * share, "reduce-scatter": self.devices - 1, "collective-permute": 1}
        return result_bytes * shares.get(self.kind, share)

    @property
    def all_sent(self) -> float:
        """The bytes that one device sends for all arrays."""
        return self.sent(sum(size for _, size in self.results)) if self.devices > 1 else 0.0


def collectives(program: hlo.Program, mesh: dict[str, int]) -> list[Collective]:
    """The collectives of a compiled program over a mesh data x tower, also those inside of fusions."""
    found = []
    for outer, here, times, _ in program.executed():
        for instruction in (outer, *program.computations.get(outer.called(), {}).values()):
            collective = hlo.completed(here, instruction)
            if collective.operation in KINDS:
                arrays = [(math.prod(array.shape), array.size) for array in collective.results]
                group = _group(collective.rest, math.prod(mesh.values()))
                along_towers = mesh[TOWER] > 1 and len(group) > 1 and group[1] - group[0] == 1
                axis = BOTH if len(group) > max(mesh.values()) else TOWER if along_towers else DATA
                found += [Collective(collective.operation, arrays, len(group), axis)] * times
    return found


def _group(text: str, devices: int) -> np.ndarray:
    """The first group of devices that communicate."""
    if "replica_groups={}" in text:
        return np.arange(devices)
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", text):
        return np.array(_numbers(listed[1]))
    if counted := re.search(r"replica_groups=\[([\d,]+)\]<=(\S+)", text):
        return _iota(counted[2]).reshape(_numbers(counted[1]))[0]
    if named := re.search(r"replica_groups=mesh\[(.*?)\](?:, device_ids=\((.*?)\))? \{(.*?)\}", text):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", named[1])}
        ids = _iota(named[2] or f"[{math.prod(sizes.values())}]").reshape(list(sizes.values()))
        return ids[tuple(slice(None) if f"'{name}'" in named[3] else 0 for name in sizes)].reshape(-1)
    raise AssertionError(f"unknown form of replica groups: {text[:200]}")


def _iota(text: str) -> np.ndarray:
    """0, 1, 2, ... in the order that XLA writes as [4,2]T(1,0): a 4 x 2 array of them, transposed."""
    shape, order = (_numbers(part) for part in re.findall(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", text)[0])
    return np.arange(math.prod(shape)).reshape(shape).transpose(order or None)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


def measured(config: Config, mesh: jax.sharding.Mesh) -> dict[str, float]:
    """The bytes that one device sends in a step, for each of PURPOSES."""
    gradients = {}  # elements of a parameter on one device -> purpose of a sum over so many
    for layer, leaves in steps.abstract_state(config, mesh).params.items():
        for leaf in leaves.values():
            elements = math.prod(leaf.sharding.shard_shape(leaf.shape))
            for count in (elements, elements // config.model.towers):  # XLA may sum the towers of a device one by one
                gradients[count] = CONV if layer.startswith("conv") else DENSE
    sent = dict.fromkeys(PURPOSES, 0.0)
    program = programs.read(programs.lower("train", config, mesh).compile())
    for collective in collectives(program, dict(mesh.shape)):
        along_data = collective.axis == DATA
        for elements, size in collective.results if collective.devices > 1 else ():
            if collective.kind == "all-reduce":
                purpose = gradients.get(elements, SCALARS) if along_data else SCALARS
            else:
                purpose = DENSE if along_data else BETWEEN_TOWERS
            sent[purpose] += collective.sent(size)
    return sent


def predicted(config: Config, data: int, tower: int) -> dict[str, float]:
    """The same from the costs of the layers (`alexnet facts`); no scalars."""
    images, towers = config.train.batch_size // data, config.model.towers
    summed = 2 * (data - 1) / data * 4  # bytes that a device sends to sum a parameter's gradient over the data axis
    sent = dict.fromkeys(PURPOSES, 0.0)
    for layer in facts.layers(config):
        if tower > 1:
            sent[BETWEEN_TOWERS] += 2 * images * layer.link_bytes / towers
        is_conv = layer.name.startswith("conv")
        if is_conv or config.mesh.fc_sharding == "tower":
            sent[CONV if is_conv else DENSE] += summed * layer.parameters / tower
        else:  # forward each device passes its inputs on and gathers its sums; backward it is the other way round
            inputs, units = (layer.parameters - layer.neurons) / layer.neurons, layer.neurons / towers
            numbers = inputs * (data - 1) / data + units * (data - 1)
            sent[DENSE] += 2 * images * 4 * numbers + summed * units  # biases are not split
    return sent


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add, count = parser.add_argument, measuring.positive_int
    add("--config", default="paper", help="config file, or the name of an installed one (default: paper)")
    add("--devices", type=count, nargs="+", default=[1, 2, 8, 64], help="numbers of devices (default: 1 2 8 64)")
    add("--batch", type=count, default=128, help="images for each part of the data axis (default: 128)")
    add("--json", type=measuring.output_file, help="file to write the table to")


def run(arguments: argparse.Namespace) -> None:
    towers = config_files.load(arguments.config).model.towers
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(arguments.devices))
    layouts = []
    for devices in arguments.devices:
        tower = 1 if devices < towers else towers
        if devices % tower:
            raise UserError(f"--devices {devices}: more than one must be a multiple of the {towers} towers")
        data = devices // tower
        layouts += [(data, tower, fc_sharding) for fc_sharding in ("tower", "data_tower")[: min(data, 2)]]
    print(measuring.machine())
    rows, lines = [], []
    for data, tower, fc_sharding in tqdm(layouts, desc="compiling", leave=False, disable=None):
        batch = arguments.batch * data
        mesh = {"mesh.data": data, "mesh.tower": tower, "mesh.fc_sharding": fc_sharding}
        sizes = {"train.batch_size": batch, "train.eval_batch_size": batch}
        config = config_files.parse(config_files.load(arguments.config, mesh | sizes))
        sent = measured(config, sharding.make_mesh(data, tower, config.model.towers))
        expected = predicted(config, data, tower)
        total = sum(expected.values())
        ratio = sum(sent.values()) / total if total else None
        layout = {"devices": data * tower, "mesh": f"{data}x{tower}", "fc_sharding": fc_sharding}
        rows.append(layout | {"batch": arguments.batch, "bytes": sent, "model": expected, "ratio": ratio})
        megabytes = [f"{sent[purpose] / 1e6:,.3f}" for purpose in PURPOSES]
        lines.append([*layout.values(), *megabytes, "-" if ratio is None else f"{ratio:.4f}"])
    headings = ("devices", "mesh", "fc_sharding", *(f"{purpose}, MB" for purpose in PURPOSES), "all, to the model")
    align = ["right", "right", "left"]
    print(tabulate(lines, headings, "plain", disable_numparse=True, stralign="right", colalign=align))
    measuring.write(arguments.json, rows)
