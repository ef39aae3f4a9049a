"""Devices: the mesh, where each array lives, and the two ways to run the towers.

A tower is written as the program of one device. It communicates with the others over the axis `tower`, by `exchange`
and a few sums of scalars. `over_towers` runs it in one of two ways:

- one tower per device, by `jax.shard_map`, if the mesh has a device for each tower;
- all towers on one device, by `jax.vmap` over an axis of the same name, if it does not; if the batch is split, within
  a `jax.shard_map`.

Parameters and momentum have a leading axis [tower, ...] and live on P("tower"); batches live on P("data").
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
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
    """The paper's connection between its GPUs (Figure 2): the last axes of all towers, side by side.

    [..., C] in each tower -> [..., towers * C], the same in all. In the backward pass, its transpose sends each tower
    the others' gradients of its own share: a reduce-scatter.
    """
    towers = lax.all_gather(x, TOWER)  # [tower, ..., C]; to gather the last axis, XLA copies before it and after
    return jnp.moveaxis(towers, 0, -2).reshape(*x.shape[:-1], -1)


def own_share(x: Array, size: int) -> Array:
    """Undo `exchange`: [..., towers * size] -> this tower's [..., size]."""
    return lax.dynamic_slice_in_dim(x, lax.axis_index(TOWER) * size, size, axis=-1)


def split_inputs(x: Array) -> Array:
    """Reshard from examples to inputs over the data axis: [b, F] -> [B, F / data], where B = b * data."""
    return lax.all_to_all(x, DATA, split_axis=1, concat_axis=0, tiled=True)


def sum_outputs(y: Array) -> Array:
    """Add up the devices' partial sums of all examples, and keep this device's examples: [B, units] -> [b, units]."""
    return lax.psum_scatter(y, DATA, scatter_dimension=0, tiled=True)


def sum_over_batch(x: Array) -> Array:
    """The sum over the devices that the batch is split over."""
    split = DATA in jax.sharding.get_abstract_mesh().manual_axes and lax.axis_size(DATA) > 1
    return lax.psum(x, DATA) if split else x


def make_mesh(data: int, tower: int, towers: int, devices: list[Any] | None = None) -> Mesh:
    """Make the mesh `data` x `tower`, as in `config.mesh`, for a network of `towers`, of the devices there are.

    Devices are in the order of their processes: those of one host share the fastest links, which the towers, side by
    side, need most, and each process then holds consecutive rows, as `part_of_batch` requires. `jax.make_mesh` promises
    neither on slices of TPUs with several hosts, and refuses some. Raises UserError if there are too few devices, or if
    several processes have more than the mesh takes.
    """
    devices = sorted(devices or jax.devices(), key=lambda device: (device.process_index, device.id))
    if tower == 0:
        tower = towers if len(devices) >= data * towers else 1
    if len(devices) < data * tower:
        raise UserError(
            f"the mesh needs {data} x {tower} = {data * tower} devices (config.mesh.data x config.mesh.tower), but "
            f"there are {len(devices)} ({devices[0].platform}); give a smaller mesh, or simulate devices on the CPU "
            f"with --simulated_devices={data * tower}; `alexnet doctor` says why JAX does not use one that is there"
        )
    if jax.process_count() > 1 and len(devices) > data * tower:
        raise UserError(
            f"the mesh takes only {data} x {tower} of the {len(devices)} devices of {jax.process_count()} processes; "
            "give a config.mesh.data and config.mesh.tower that take them all"
        )
    grid = np.array(devices[: data * tower]).reshape(data, tower)
    return Mesh(grid, (DATA, TOWER), axis_types=(AxisType.Auto, AxisType.Auto))


def describe(mesh: Mesh, towers: int) -> str:
    """One line about the layout, for the log."""
    device, (data, tower) = mesh.devices.flat[0], mesh.devices.shape
    layout = "one tower per device" if tower == towers else f"all {towers} towers on each device"
    return (
        f"mesh data={data} x tower={tower} on {device.platform} ({device.device_kind}): "
        f"{layout if towers > 1 else 'one tower'}"
    )


def put(tree: Any, mesh: Mesh, spec: PartitionSpec) -> Any:
    """Put host arrays, this process's part of the whole, on its devices of the mesh."""
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree)


def put_as(x: np.ndarray, sharding: NamedSharding) -> Array:
    """Put a host array that all processes have on the devices of `sharding`."""
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def votes(vote: bool, mesh: Mesh) -> Array:
    """The votes of all processes, [devices] bool, where each device holds its process's `vote`."""
    return put_as(np.full(mesh.size, vote), NamedSharding(mesh, DEVICES))


def part_of_batch(mesh: Mesh) -> tuple[int, int]:
    """The part of each batch that this process reads, as (index, number of equal parts).

    The part depends on the process's place on the data axis, so processes that hold different towers of the same
    examples read the same part. Raises UserError if the data axis does not divide among the processes.
    """
    here = jax.process_index()
    rows = [row for row, devices in enumerate(mesh.devices) if any(device.process_index == here for device in devices)]
    part, rest = divmod(rows[0], len(rows))
    if rest or mesh.shape[DATA] % len(rows) or rows != list(range(rows[0], rows[0] + len(rows))):
        raise UserError(
            f"process {here} holds rows {rows} of the {mesh.shape[DATA]} rows of the data axis, which "
            "is not an equal part of the batch; give all processes the same number of devices, and a "
            "config.mesh.data that divides among them"
        )
    return part, mesh.shape[DATA] // len(rows)


def splits_inputs(mesh: Mesh, fc_sharding: str) -> bool:
    """Whether the kernels of fully connected layers are split by their inputs over the data axis of `mesh`."""
    return fc_sharding == "data_tower" and mesh.shape[DATA] > 1


def specs(state: Any, mesh: Mesh, fc_sharding: str) -> Any:
    """The PartitionSpec of each leaf of a training state: arrays are [tower, ...], scalars are replicated.

    With `fc_sharding` "data_tower", the kernels of fully connected layers are split over the data axis too. Raises
    UserError if their inputs do not divide by it.
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
    """The sharding of each leaf of a training state, as in `specs`."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs(state, mesh, fc_sharding))


def over_towers(tower_program: Callable, mesh: Mesh, out: Any, fc_sharding: str = "tower") -> Callable:
    """Turn the program of one tower, `(params, batch, constants) -> result`, into one of all towers on `mesh`.

    The new program takes params [tower, ...], a batch [B, ...] and replicated constants. If `out` is EXAMPLES, all
    towers return the same leaves [B, ...]; if CLASSES, each returns its [B, C / towers], put side by side: [B, C]; if
    TOWERS, its own leaves [...], the same on all devices of the data axis: [tower, ...]. `out` may be a tuple. Where
    kernels are split over the data axis, `tower_program` receives its share and sums over that axis itself.
    """
    if mesh.shape[TOWER] == 1 and not splits_inputs(mesh, fc_sharding):
        return split_batch(all_towers(tower_program, out), mesh, out)
    # For a data axis of one device, declare the batch replicated: else JAX inserts reductions over that one device.
    examples = EXAMPLES if mesh.shape[DATA] > 1 else REPLICATED

    def tower_per_device(params, batch, constants):
        in_specs = (specs(params, mesh, fc_sharding), examples, REPLICATED)
        program = jax.shard_map(own_tower(tower_program, out), mesh=mesh, in_specs=in_specs, out_specs=out)
        return program(params, batch, constants)

    return tower_per_device


def split_batch(program: Callable, mesh: Mesh, out: Any) -> Callable:
    """Run a program of all towers, as of `all_towers`, on each device for its examples.

    `jax.jit` would split it by itself, but gather the batch for grouped convolutions and for kernels not its own.
    """
    if mesh.shape[DATA] == 1:
        return program
    specs = (REPLICATED, EXAMPLES, REPLICATED)
    out = jax.tree.map(lambda spec: REPLICATED if spec == TOWERS else EXAMPLES, out)
    # The check of varying axes fails where `jax.vmap` gives an axis of the mesh its name.
    return jax.shard_map(program, mesh=mesh, in_specs=specs, out_specs=out, check_vma=False)


def own_tower(tower_program: Callable, out: Any = EXAMPLES) -> Callable:
    """The program of a device that has the parameters of one tower, [1, ...]; `out` as in `over_towers`."""

    def program(params, *arguments):
        results = tower_program(jax.tree.map(lambda p: p[0], params), *arguments)
        return jax.tree.map(
            lambda spec, each: jax.tree.map(lambda x: x[None], each) if spec == TOWERS else each, out, results
        )

    return program


def all_towers(tower_program: Callable, out: Any = EXAMPLES) -> Callable:
    """The program of a device that has the parameters of all towers, [tower, ...]; `out` as in `over_towers`."""
    axes = jax.tree.map({EXAMPLES: None, CLASSES: 1, TOWERS: 0}.get, out)
    program = jax.vmap(tower_program, in_axes=(0, None, None), out_axes=axes, axis_name=TOWER)
    if out != CLASSES:
        return program
    # [B, tower, C / towers] -> [B, C]; a symbolic batch, as in exports, has no len()
    return lambda *arguments: jax.tree.map(lambda x: x.reshape(x.shape[0], -1), program(*arguments))


def agreed(mask: Array, example: Array, mesh: Mesh) -> Array:
    """`mask` [B], but False where the processes that hold the towers of an example have read different ones.

    A process that alone cannot read a record puts another in its place, or masks it out (see data/loader.py).
    """
    if all(len({device.process_index for device in row}) == 1 for row in mesh.devices):
        return mask

    def same(mask, example):
        read = jnp.where(mask, example, -1)
        lowest = lax.pmin(read, TOWER)
        return (lowest == lax.pmax(read, TOWER)) & (lowest >= 0)

    # JAX takes the towers' copies of a batch to be equal; only here, where each device sees its own, may they differ.
    return jax.shard_map(same, mesh=mesh, in_specs=(EXAMPLES, EXAMPLES), out_specs=EXAMPLES)(mask, example)
