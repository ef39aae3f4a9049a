"""Sums by which a changed array or position is known: the same on any mesh, on the devices and on the host."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xxhash
from jax import Array


def by_name(tree: Any) -> dict[str, Any]:
    """The leaves under the names that Orbax has for them."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in jax.tree.leaves_with_path(tree)
    }


@jax.jit
def of_devices(arrays: dict[str, Array]) -> dict[str, Array]:
    """A sum of each array, uint32, the same on any mesh; no change of one number leaves it as it was.

    Number i, its bits taken as an integer, counts 2 i + 1 times, modulo 2^32: odd, so every bit of it counts.
    """

    def of_leaf(x: Array) -> Array:
        bits = x.astype(jnp.uint32) if x.dtype == bool else jax.lax.bitcast_convert_type(x, jnp.uint32)
        place, stride = jnp.zeros(x.shape, jnp.uint32), 1
        for axis in reversed(range(x.ndim)):
            place = place + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) * jnp.uint32(stride)
            stride *= x.shape[axis]
        return (bits * (place * jnp.uint32(2) + jnp.uint32(1))).sum(dtype=jnp.uint32)

    return jax.tree.map(of_leaf, arrays)


def of_host(x: np.ndarray) -> int:
    """As `of_devices`, of one array on the host."""
    bits = x.astype(np.uint32).ravel() if x.dtype == bool else np.ascontiguousarray(x).reshape(-1).view(np.uint32)
    return int(np.dot(bits, np.arange(bits.size, dtype=np.uint32) * np.uint32(2) + np.uint32(1)))


def of_json(described: dict) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(described, sort_keys=True).encode())
