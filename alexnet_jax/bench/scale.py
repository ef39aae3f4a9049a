"""What devices send to each other in one training step, read from the compiled program, beside the arithmetic.

Nothing runs: the step is compiled for simulated devices. Bytes are what one device sends in float32 where a collective
goes around a ring: (n - 1) / n of the whole for a gather, a scatter or an exchange of all with all, twice that for a
sum that all get. Both ways of splitting the fully connected layers are there: mesh.fc_sharding tower, data_tower.
"""

import argparse
import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from alexnet_jax import augment, sharding, steps
from alexnet_jax.bench import rounds
from alexnet_jax.data.loader import Batch
from alexnet_jax.errors import UserError
from alexnet_jax.paper import facts
from alexnet_jax.run import config_files
from alexnet_jax.run_config import Config
from alexnet_jax.sharding import DATA, TOWER

BYTES = {"f64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "pred": 1, "s8": 1, "u8": 1}
COLLECTIVE = re.compile(
    r"= (\(?.*?\)?) (all-gather|all-reduce|reduce-scatter|collective-permute|all-to-all)(?:-start)?\((.*)"
)
PURPOSES = ("between towers", "conv gradients", "fully connected, over data", "scalars")


class Collective(NamedTuple):
    kind: str
    results: list[tuple[int, int]]  # of each array: elements, and bytes, on one device
    devices: int  # that take part
    axis: str  # of the mesh, along which they lie
    layer: str  # that the compiler names; "" if none

    def sent(self, result_bytes: int) -> float:
        """Bytes that one device sends for a result of `result_bytes` on each device, around a ring."""
        n = self.devices
        shares = {"all-gather": (n - 1) / n, "all-to-all": (n - 1) / n, "reduce-scatter": n - 1}
        return result_bytes * (shares | {"all-reduce": 2 * (n - 1) / n, "collective-permute": 1})[self.kind]


def collectives(program: str, mesh: dict[str, int]) -> list[Collective]:
    """Each collective of a compiled program, as `jax.stages.Compiled.as_text` gives it, over the mesh data x tower."""
    found = []
    for line in program.splitlines():
        match = COLLECTIVE.search(line)
        if match:
            results, kind, rest = match.groups()
            arrays = [(type_, math.prod(int(n) for n in dims.split(",") if n)) for type_, dims in _arrays(results)]
            group = _group(rest, math.prod(mesh.values()))
            along_towers = mesh[TOWER] > 1 and len(group) > 1 and group[1] - group[0] == 1
            layer = re.search(r"/((?:conv|fc)\d)/", rest)
            found.append(
                Collective(
                    kind,
                    [(count, count * BYTES[type_]) for type_, count in arrays],
                    len(group),
                    TOWER if along_towers else DATA,
                    layer[1] if layer else "",
                )
            )
    return found


def _arrays(results: str) -> list[tuple[str, str]]:
    return re.findall(r"(\w+)\[([\d,]*)\]", results)


def _group(text: str, devices: int) -> list[int]:
    """The first group of devices that take part."""
    if "replica_groups={}" in text:
        return list(range(devices))
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", text):
        return [int(i) for i in listed[1].split(",")]
    if counted := re.search(r"replica_groups=\[([\d,]+)\]<=(\S+)", text):
        return list(_iota(counted[2]).reshape([int(i) for i in counted[1].split(",")])[0])
    if named := re.search(r"replica_groups=mesh\[(.*?)\](?:, device_ids=\((.*?)\))? \{(.*?)\}", text):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", named[1])}
        chosen = [i for i, name in enumerate(sizes) if f"'{name}'" in named[3]]
        ids = _iota(named[2]) if named[2] else np.arange(math.prod(sizes.values()))
        ids = np.moveaxis(ids.reshape(list(sizes.values())), chosen, range(-len(chosen), 0))
        return list(ids.reshape(-1, math.prod(ids.shape[-len(chosen) :]))[0])
    raise AssertionError(f"replica groups in a form that is not known here: {text[:200]}")


def _iota(text: str) -> np.ndarray:
    """0, 1, 2, ... in the order that XLA writes as [4,2]T(1,0): counted as 4 x 2, then transposed."""
    match = re.match(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    assert match
    shape, order = ([int(i) for i in part.split(",")] if part else None for part in match.groups())
    assert shape
    return np.arange(math.prod(shape)).reshape(shape).transpose(order)


def compiled_step(config: Config, mesh: jax.sharding.Mesh) -> Any:
    """The training step, compiled for `mesh`; nothing is put on any device."""
    size, batch = config.data.size, config.train.batch_size

    def abstract(shape: tuple[int, ...], type_: type, spec: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, type_, sharding=jax.NamedSharding(mesh, spec))

    def examples(shape: tuple[int, ...], type_: type) -> Any:
        return abstract((batch, *shape), type_, sharding.EXAMPLES)

    def constants(shape: tuple[int, ...]) -> Any:
        return abstract(shape, np.float32, sharding.REPLICATED)

    state = steps.abstract_state(config, mesh)
    images = Batch(
        examples((size, size, 3), np.uint8), examples((), np.int32), examples((), np.int32), examples((), bool)
    )
    statistics = augment.Statistics(constants((size, size, 3)), constants((3,)), constants((3, 3)))
    rates = jax.ShapeDtypeStruct((len(state.params), 2), np.float32)
    votes = abstract((mesh.size,), bool, sharding.DEVICES)
    step = steps.make_train_step(config, mesh, steps_per_epoch=1)
    return step.lower(state, images, rates, statistics, votes).compile()


def measured(config: Config, mesh: jax.sharding.Mesh) -> dict[str, float]:
    """Bytes that one device sends in a step, for each of PURPOSES."""
    params = steps.abstract_state(config, mesh).params
    gradients = {}  # elements of a leaf on one device -> what it is
    for layer, leaves in params.items():
        for leaf in leaves.values():
            whole = math.prod(leaf.sharding.shard_shape(leaf.shape))
            for count in (whole, whole // config.model.towers):  # towers that share a device may be summed one by one
                gradients[count] = PURPOSES[1 if layer.startswith("conv") else 2]
    sent = dict.fromkeys(PURPOSES, 0.0)
    for one in collectives(compiled_step(config, mesh).as_text(), dict(mesh.shape)):
        if one.devices > 1:
            for elements, size in one.results:
                if one.kind == "all-reduce":
                    purpose = gradients.get(elements, "scalars") if one.axis == DATA else "scalars"
                else:
                    purpose = PURPOSES[0 if one.axis == TOWER else 2]
                sent[purpose] += one.sent(size)
    return sent


def predicted(config: Config, data: int, tower: int) -> dict[str, float]:
    """The same from the costs of the layers (alexnet_jax.paper.facts); of scalars none."""
    images, towers = config.train.batch_size // data, config.model.towers
    sent = dict.fromkeys(PURPOSES, 0.0)
    for layer in facts.layers(config):
        held = layer.parameters / tower
        if tower > 1:
            sent["between towers"] += 2 * images * layer.link_bytes / towers
        if layer.name.startswith("conv"):
            sent["conv gradients"] += _summed(held, data)
        elif config.mesh.fc_sharding == "tower":
            sent["fully connected, over data"] += _summed(held, data)
        else:  # forward each device hands on its inputs and gathers its sums, backward the other way
            inputs, units = (layer.parameters - layer.neurons) / layer.neurons, layer.neurons / towers
            moved = inputs * (data - 1) / data + units * (data - 1)
            sent["fully connected, over data"] += 2 * images * 4 * moved + _summed(units, data)  # biases are whole
    return sent


def _summed(parameters: float, data: int) -> float:
    """Bytes that a device sends when the gradients of so many parameters are summed over the data axis."""
    return 2 * (data - 1) / data * 4 * parameters


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--config", default="configs/paper.py", help="config file (default configs/paper.py)")
    add("--devices", type=int, nargs="+", default=[1, 2, 8, 64], help="how many (default 1 2 8 64)")
    add("--batch", type=int, default=128, help="images for each part of the data axis (default 128)")
    add("--json", type=Path, help="file to write the table to")


def run(arguments: argparse.Namespace) -> None:
    values = config_files.load(arguments.config)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(arguments.devices))
    towers, rows = values.model.towers, []
    for devices in arguments.devices:
        tower = 1 if devices < towers else towers
        if devices < 1 or devices % tower:
            raise UserError(f"--devices {devices}: more than one must be a multiple of the {towers} towers")
        for fc_sharding in ("tower", "data_tower") if devices > tower else ("tower",):
            rows.append(_row(values, devices // tower, tower, fc_sharding, arguments.batch))
            print(
                _line(rows[-1]) if len(rows) > 1 else f"{rounds.machine()}\n{_heading()}\n{_line(rows[-1])}", flush=True
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


def _row(values: Any, data: int, tower: int, fc_sharding: str, batch: int) -> dict:
    values.mesh.update(data=data, tower=tower, fc_sharding=fc_sharding)
    values.train.update(batch_size=batch * data, eval_batch_size=batch * data)
    config = config_files.parse(values)
    seen = measured(config, sharding.make_mesh(data, tower, config.model.towers))
    expected = predicted(config, data, tower)
    total, model = sum(seen.values()), sum(expected.values())
    return {
        "devices": data * tower,
        "mesh": f"{data}x{tower}",
        "fc_sharding": fc_sharding,
        "batch": batch,
        "bytes": seen,
        "model": expected,
        "ratio": total / model if model else None,
    }


def _heading() -> str:
    return "devices   mesh  fc_sharding  " + "".join(f"{purpose:>28}" for purpose in PURPOSES) + "   all, to the model"


def _line(row: dict) -> str:
    cells = "".join(f"{row['bytes'][purpose] / 1e6:25,.3f} MB" for purpose in PURPOSES)
    ratio = "-" if row["ratio"] is None else f"{row['ratio']:.4f}"
    return f"{row['devices']:7}  {row['mesh']:>5}  {row['fc_sharding']:<11}  {cells}   {ratio:>6}"
