"""Devices: the mesh, where each array lives, and the two ways to run the towers.

A tower is written as the program of one device. It talks to the others through the axis `tower`, by
`exchange` and a few scalar sums. `over_towers` runs it

- one tower a device, by `jax.shard_map`, when the mesh has a device for each tower;
- all towers on one device, by `jax.vmap` over the same axis name, when it has not.

Parameters and momentum carry a leading axis [tower, ...] and lie on P("tower"); batches lie on P("data").
"""

import functools
import math
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from alexnet_jax.errors import UserError

DATA, TOWER = "data", "tower"

REPLICATED = PartitionSpec()
TOWERS = PartitionSpec(TOWER)  # [tower, ...]
EXAMPLES = PartitionSpec(DATA)  # [B, ...]
CLASSES = PartitionSpec(DATA, TOWER)  # [B, classes]
DEVICES = PartitionSpec((DATA, TOWER))  # [devices, ...]
TOWERS_INPUTS = PartitionSpec(TOWER, DATA)  # [tower, inputs, units]: kernels that are split over all devices


@jax.named_scope("exchange")
def exchange(x: Array) -> Array:
    """The paper's connection between its GPUs (Figure 2): the last axis of every tower, side by side.

    [..., C] in each tower -> [..., towers * C], the same in all. Its transpose in the backward pass sends each
    tower the others' gradient of its own share: a reduce-scatter.
    """
    return jax.lax.all_gather(x, TOWER, axis=-1 % x.ndim, tiled=True)


def own_share(x: Array, size: int) -> Array:
    """What this tower had before `exchange`: [..., towers * C] -> [..., C], C being `size`."""
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(TOWER) * size, size, axis=-1)


def split_inputs(x: Array) -> Array:
    """Examples over the data axis become inputs over the data axis: [b, F] -> [B, F / data], b of B on each device."""
    return jax.lax.all_to_all(x, DATA, split_axis=1, concat_axis=0, tiled=True)


def sum_outputs(y: Array) -> Array:
    """Partial sums of all examples become whole sums of this device's own: [B, units] -> [b, units]."""
    return jax.lax.psum_scatter(y, DATA, scatter_dimension=0, tiled=True)


def make_mesh(data: int, tower: int, towers: int) -> Mesh:
    """The mesh data x tower; `tower` 0 stands for a device each tower if there are enough, else 1.

    Every program that computes begins here, so here JAX is told to keep what it compiles for the next start, in the
    user's cache folder unless JAX_COMPILATION_CACHE_DIR names another; one for each machine, as processors differ.
    """
    if not jax.config.values["jax_compilation_cache_dir"]:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(caches / "alexnet_jax" / platform.node()))
    devices = jax.devices()
    if tower == 0:
        tower = towers if len(devices) >= data * towers else 1
    if len(devices) < data * tower:
        raise UserError(
            f"the mesh needs {data} x {tower} = {data * tower} devices (config.mesh.data x config.mesh.tower) and "
            f"{len(devices)} {devices[0].platform} device(s) are here; give a smaller mesh, or simulate devices on "
            f"the CPU with --simulated_devices={data * tower}"
        )
    if jax.process_count() > 1 and len(devices) > data * tower:
        raise UserError(
            f"the mesh takes {data} x {tower} of the {len(devices)} devices of {jax.process_count()} processes: give a "
            "config.mesh.data and config.mesh.tower that take all"
        )
    return jax.make_mesh(
        (data, tower), (DATA, TOWER), axis_types=(AxisType.Auto, AxisType.Auto), devices=devices[: data * tower]
    )


def describe(mesh: Mesh, towers: int) -> str:
    """One line about the layout, for the log."""
    device = mesh.devices.flat[0]
    if mesh.shape[TOWER] == towers:
        how = "one tower a device" if towers > 1 else "one tower"
    else:
        how = f"all {towers} towers on each device"
    return (
        f"mesh data={mesh.shape[DATA]} x tower={mesh.shape[TOWER]} on {device.platform} ({device.device_kind}): {how}"
    )


def put(tree: Any, mesh: Mesh, spec: PartitionSpec) -> Any:
    """The host arrays of this process on its devices of the mesh."""
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree)


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on all devices."""
    return NamedSharding(mesh, REPLICATED)


def put_as(x: np.ndarray, sharding: NamedSharding) -> Array:
    """A host array that all processes have, placed like another."""
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def votes(asked: bool, mesh: Mesh) -> Array:
    """[devices] bool, lying on all of them: what each process says."""
    return put_as(np.full(mesh.size, asked), NamedSharding(mesh, DEVICES))


def part_of_batch(mesh: Mesh) -> tuple[int, int]:
    """Which of how many equal parts of each batch this process reads: by its place on the data axis of the mesh.

    Processes that hold different towers of the same examples read the same part.
    """
    here = [[device.process_index == jax.process_index() for device in row] for row in mesh.devices]
    rows = [row for row, mine in enumerate(here) if any(mine)]
    part, rest = divmod(rows[0], len(rows))
    if rest or mesh.shape[DATA] % len(rows) or rows != list(range(rows[0], rows[0] + len(rows))):
        raise UserError(
            f"process {jax.process_index()} holds rows {rows} of the {mesh.shape[DATA]} of the data axis: batches do "
            "not divide so. Give all processes equally many devices, and a config.mesh.data that they divide"
        )
    return part, mesh.shape[DATA] // len(rows)


def splits_inputs(mesh: Mesh, fc_sharding: str) -> bool:
    """Whether fully connected kernels are split by their inputs over the data axis of this mesh."""
    return fc_sharding == "data_tower" and mesh.shape[DATA] > 1


def specs(state: Any, mesh: Mesh, fc_sharding: str) -> Any:
    """Where each leaf of a training state lives: arrays are [tower, ...], scalars the same everywhere.

    With `fc_sharding` "data_tower" the kernels of fully connected layers are split over the data axis too.
    """

    def spec(path: Any, x: Any) -> PartitionSpec:
        layer, kind = ([""] * 2 + [str(getattr(key, "key", "")) for key in path])[-2:]
        if kind == "kernel" and layer.startswith("fc") and splits_inputs(mesh, fc_sharding):
            if x.shape[1] % mesh.shape[DATA]:
                raise UserError(
                    f"the {x.shape[1]} inputs of {layer} do not divide by mesh.data={mesh.shape[DATA]}; give another "
                    "mesh.data, or mesh.fc_sharding=tower"
                )
            return TOWERS_INPUTS
        return TOWERS if x.ndim else REPLICATED

    return jax.tree.map_with_path(spec, state)


def of_state(state: Any, mesh: Mesh, fc_sharding: str) -> Any:
    """The sharding of each leaf of a training state; see `specs`."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs(state, mesh, fc_sharding))


def over_towers(tower_program: Callable, mesh: Mesh, out: PartitionSpec, fc_sharding: str = "tower") -> Callable:
    """`tower_program(params, batch, constants)` of one tower, as a program of the whole mesh.

    The result takes params with leading axis [tower, ...], a batch [B, ...] and replicated constants. With
    `out` EXAMPLES the program returns leaves [B, ...] that all towers agree on; with `out` CLASSES each tower
    returns leaves [B, C / towers] and the result holds them side by side, [B, C]. With `fc_sharding` "data_tower" the
    program is given its share of the inputs of fully connected kernels, and sums over the data axis itself.
    """
    if mesh.shape[TOWER] > 1 or splits_inputs(mesh, fc_sharding):

        def on_one_device(params, batch, constants):
            return tower_program(jax.tree.map(lambda p: p[0], params), batch, constants)

        # On a data axis of one device the batch is called replicated: else the gradients would be "summed" over it.
        examples = EXAMPLES if mesh.shape[DATA] > 1 else REPLICATED

        def run(params, batch, constants):
            in_specs = (specs(params, mesh, fc_sharding), examples, REPLICATED)
            return jax.shard_map(on_one_device, mesh=mesh, in_specs=in_specs, out_specs=out)(params, batch, constants)

        return run

    axis = out.index(TOWER) if TOWER in out else None
    run = jax.vmap(tower_program, in_axes=(0, None, None), out_axes=axis, axis_name=TOWER)
    if axis is None:
        return run

    def merged(params, batch, constants):
        return jax.tree.map(functools.partial(_merge, axis=axis), run(params, batch, constants))

    return merged


def _merge(x: Array, axis: int) -> Array:
    """[..., tower, C, ...] -> [..., tower * C, ...]."""
    shape = x.shape
    return x.reshape(*shape[:axis], math.prod(shape[axis : axis + 2]), *shape[axis + 2 :])
