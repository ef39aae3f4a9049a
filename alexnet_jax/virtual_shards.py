"""The same bits on any number of devices of the data axis (`train.virtual_shards`).

Floating-point sums depend on their order, and kernels on their shapes. So a batch is computed in a fixed number of
parts, wherever they are, and the results are added in a fixed order.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import Mesh, PartitionSpec

from alexnet_jax import sharding
from alexnet_jax.sharding import DATA, TOWER


def over_shards(
    make_program: Callable[[Callable], Callable],
    tower_program: Callable,
    mesh: Mesh,
    shards: int,
    out: tuple[PartitionSpec, ...],
) -> Callable:
    """Sum what a program computes for each of `shards` equal parts of a batch, with the same bits on any data axis.

    `make_program(forward)` returns `(params, shard, constants) -> results`, where `forward` is `tower_program` for the
    towers that a device has. `out` says of each result whether it has a leading axis [tower, ...] (sharding.TOWERS) or
    not (sharding.REPLICATED). The new program takes params [tower, ...], a batch [B, ...] and replicated constants.

    Each part goes through the same loop body, with the same shapes, wherever it is; and parts are added in pairs of
    neighbours, (0 + 1) + (2 + 3), within devices and then between them. So `shards` must be a power of two that the
    data axis divides.
    """
    devices, split = mesh.shape[DATA], mesh.shape[TOWER] > 1
    here = shards // devices
    program = make_program(sharding.own_tower(tower_program) if split else sharding.all_towers(tower_program))
    # Where vmap gives the axis `tower` its name, the mesh must not have it, and the check of varying axes fails.
    axes = mesh if split else Mesh(mesh.devices[:, 0], (DATA,))

    def varying(x: Array, *names: str) -> Array:
        return lax.pcast(x, names, to="varying") if split else x

    def of_each(params, batch, constants):  # results [here, ...]
        params = jax.tree.map(lambda x: varying(x, DATA), params)
        batch = jax.tree.map(lambda x: x.reshape(here, -1, *x.shape[1:]), batch)

        def of_one(i):
            return program(params, jax.tree.map(lambda x: x[i], batch), constants)

        def body(i, results):
            return jax.tree.map(lambda x, one: lax.dynamic_update_index_in_dim(x, one, i, 0), results, of_one(i))

        zeros = [
            jax.tree.map(lambda x, spec=spec: varying(jnp.zeros((here, *x.shape), x.dtype), DATA, *spec), result)
            for spec, result in zip(out, jax.eval_shape(of_one, 0), strict=True)
        ]
        # XLA must not know the number of rounds: it would dissolve a loop of one, and round differently.
        return lax.fori_loop(0, lax.optimization_barrier(jnp.int32(here)), body, tuple(zeros))

    def add(x):  # [here, ...] of each device -> the sum over all
        while len(x) > 1:
            x = x[0::2] + x[1::2]
        for bit in range(devices.bit_length() - 1):  # a + b and b + a are the same, so all devices get the same sum
            x = x + lax.ppermute(x, DATA, [(device, device ^ 1 << bit) for device in range(devices)])
        return x[0]

    towers = [spec if split else sharding.REPLICATED for spec in out]
    each = tuple(PartitionSpec(DATA, *spec) for spec in towers)
    in_specs = (sharding.TOWERS if split else sharding.REPLICATED, sharding.EXAMPLES, sharding.REPLICATED)

    def sums(params, batch, constants):
        results = jax.shard_map(of_each, mesh=axes, in_specs=in_specs, out_specs=each, check_vma=split)
        added = jax.shard_map(
            lambda tree: jax.tree.map(add, tree), mesh=axes, in_specs=(each,), out_specs=tuple(towers), check_vma=False
        )
        return added(results(params, batch, constants))

    return sums
