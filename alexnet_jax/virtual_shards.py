"""The same bits on any number of devices of the data axis (`train.virtual_shards`).

Floating-point sums depend on their order, and kernels on their shapes. So a batch is computed in a fixed number of
parts, wherever they are, and the results are added in a fixed order.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from alexnet_jax import sharding
from alexnet_jax.sharding import DATA, TOWER


def over_shards(
    make_program: Callable[[Callable], Callable],
    tower_program: Callable,
    mesh: Mesh,
    shards: int,
    out: tuple[PartitionSpec, ...],
    compiled: Callable[[Callable], Callable],
) -> Callable:
    """Sum what a program computes for each of `shards` equal parts of a batch, with the same bits on any data axis.

    `make_program(forward)` returns `(params, part, constants) -> results`, where `forward` is `tower_program` for the
    towers that a device has. `out` says of each result whether it has a leading axis [tower, ...] (sharding.TOWERS) or
    not (sharding.REPLICATED). The new function takes params [tower, ...], a batch [B, ...] and replicated constants.

    Each part is a call of one program that `compiled` makes, with the same shapes wherever it is: within a larger
    program, XLA would round differently (and in a loop, compute convolutions on CPUs ten times slower). Parts are added
    in pairs of neighbours, (0 + 1) + (2 + 3), within devices and then between them. So `shards` must be a power of two
    that the data axis divides.
    """
    devices, split = mesh.shape[DATA], mesh.shape[TOWER] > 1
    here = shards // devices
    program = make_program(sharding.own_tower(tower_program) if split else sharding.all_towers(tower_program))
    # Where vmap gives the axis `tower` its name, the mesh must not have it, and the check of varying axes fails.
    axes = mesh if split else Mesh(mesh.devices[:, 0], (DATA,))

    def of_part(params, batch, i, constants):  # of each device its part i: results [1, ...]
        if split:
            params = jax.tree.map(lambda x: lax.pcast(x, DATA, to="varying"), params)
        part = jax.tree.map(lambda x: x.reshape(here, -1, *x.shape[1:])[i], batch)
        return jax.tree.map(lambda x: x[None], program(params, part, constants))

    def over_devices(x):  # [1, ...] of each device -> the sum over all
        for bit in range(devices.bit_length() - 1):  # a + b and b + a are the same, so all devices get the same sum
            x = x + lax.ppermute(x, DATA, [(device, device ^ 1 << bit) for device in range(devices)])
        return x[0]

    towers = tuple(spec if split else sharding.REPLICATED for spec in out)
    each = tuple(PartitionSpec(DATA, *spec) for spec in towers)
    in_specs = (
        sharding.TOWERS if split else sharding.REPLICATED,
        sharding.EXAMPLES,
        sharding.REPLICATED,
        sharding.REPLICATED,
    )
    part = compiled(jax.shard_map(of_part, mesh=axes, in_specs=in_specs, out_specs=each, check_vma=split))
    add = compiled(lambda a, b: jax.tree.map(jnp.add, a, b))
    total = compiled(
        jax.shard_map(
            lambda tree: jax.tree.map(over_devices, tree),
            mesh=axes,
            in_specs=(each,),
            out_specs=towers,
            check_vma=False,
        )
    )

    def sums(params, batch, constants):
        added: list[Any] = []  # sums of 2^n parts, the largest first: at most one for each n
        for number in range(here):
            added.append(part(params, batch, np.int32(number), constants))
            for _ in range(_trailing_ones(number)):
                right, left = added.pop(), added.pop()
                added.append(add(left, right))
        return total(added[0])

    return sums


def _trailing_ones(number: int) -> int:
    """The ones at the end of a binary number."""
    return (number ^ number + 1).bit_length() - 1
