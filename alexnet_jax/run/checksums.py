"""Checksums of arrays and positions, the same on any mesh, computed on the devices or on the host."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xxhash
from jax import Array


def by_name(tree: Any) -> dict[str, Any]:
    """The leaves of a tree, by the names that Orbax stores them under."""
    leaves = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


@jax.jit
def on_devices(arrays: dict[str, Array]) -> dict[str, Array]:
    """The checksum of each array, uint32, the same on any mesh. It changes with any change of one number.

    Number i, its bits taken as an integer, is multiplied by 2 i + 1, and all are added modulo 2^32. The factors are
    odd, so every bit counts.
    """

    def checksum(x: Array) -> Array:
        bits = x.astype(jnp.uint32) if x.dtype == bool else jax.lax.bitcast_convert_type(x, jnp.uint32)
        index, stride = jnp.zeros(x.shape, jnp.uint32), 1
        for axis in reversed(range(x.ndim)):
            index = index + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) * jnp.uint32(stride)
            stride *= x.shape[axis]
        return (bits * (index * jnp.uint32(2) + jnp.uint32(1))).sum(dtype=jnp.uint32)

    return jax.tree.map(checksum, arrays)


def on_host(x: np.ndarray) -> int:
    """The same checksum of one array on the host."""
    bits = x.astype(np.uint32).ravel() if x.dtype == bool else np.ascontiguousarray(x).reshape(-1).view(np.uint32)
    return int(np.dot(bits, np.arange(bits.size, dtype=np.uint32) * np.uint32(2) + np.uint32(1)))


def of_arrays(tree: Any) -> dict[str, int]:
    """The checksum of each array of a tree on the devices, by name. Waits for the devices."""
    return jax.tree.map(int, jax.device_get(on_devices(by_name(tree))))


def of_state(sums: dict[str, int]) -> str:
    """One checksum of a training state, from those of its arrays: of its step, parameters and momentum."""
    return of_json({name: int(value) for name, value in sums.items() if not name.startswith("metrics/")})


def of_json(content: dict) -> str:
    """A hash of a JSON object, whatever the order of its keys."""
    return xxhash.xxh3_64_hexdigest(json.dumps(content, sort_keys=True).encode())
