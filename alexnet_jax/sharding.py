"""Devices: the mesh, where each array lives, and the two ways to run the towers.

A tower is written as the program of one device. It talks to the others through the axis `tower`, by
`exchange` and a few scalar sums. `over_towers` runs it

- one tower a device, by `jax.shard_map`, when the mesh has a device for each tower;
- all towers on one device, by `jax.vmap` over the same axis name, when it has not.

Parameters and momentum carry a leading axis [tower, ...] and lie on P("tower"); batches lie on P("data").
"""

import functools
import math
from collections.abc import Callable
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


def exchange(x: Array) -> Array:
    """The paper's connection between its GPUs (Figure 2): the last axis of every tower, side by side.

    [..., C] in each tower -> [..., towers * C], the same in all. Its transpose in the backward pass sends each
    tower the others' gradient of its own share: a reduce-scatter.
    """
    return jax.lax.all_gather(x, TOWER, axis=-1 % x.ndim, tiled=True)


def make_mesh(data: int, tower: int, towers: int) -> Mesh:
    """The mesh data x tower; `tower` 0 stands for a device each tower if there are enough, else 1."""
    devices = jax.devices()
    if tower == 0:
        tower = towers if len(devices) >= data * towers else 1
    if len(devices) < data * tower:
        raise UserError(
            f"the mesh needs {data} x {tower} = {data * tower} devices (config.mesh.data x config.mesh.tower) and "
            f"{len(devices)} {devices[0].platform} device(s) are here; give a smaller mesh, or simulate devices on "
            f"the CPU with --simulated_devices={data * tower}"
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


def of_state(state: Any, mesh: Mesh) -> Any:
    """The sharding of each leaf of a training state: arrays are [tower, ...], scalars the same everywhere."""
    return jax.tree.map(lambda x: NamedSharding(mesh, TOWERS if x.ndim else REPLICATED), state)


def over_towers(tower_program: Callable, mesh: Mesh, out: PartitionSpec) -> Callable:
    """`tower_program(params, batch, constants)` of one tower, as a program of the whole mesh.

    The result takes params with leading axis [tower, ...], a batch [B, ...] and replicated constants. With
    `out` EXAMPLES the program returns leaves [B, ...] that all towers agree on; with `out` CLASSES each tower
    returns leaves [B, C / towers] and the result holds them side by side, [B, C].
    """
    if mesh.shape[TOWER] > 1:

        def on_one_device(params, batch, constants):
            return tower_program(jax.tree.map(lambda p: p[0], params), batch, constants)

        # On a data axis of one device the batch is called replicated: else the gradients would be "summed" over it.
        examples = EXAMPLES if mesh.shape[DATA] > 1 else REPLICATED
        return jax.shard_map(on_one_device, mesh=mesh, in_specs=(TOWERS, examples, REPLICATED), out_specs=out)

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
