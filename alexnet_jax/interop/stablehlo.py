"""Export as a StableHLO program, which JAX runs without this package:

import jax
program = jax.export.deserialize(open("network.stablehlo", "rb").read())
probabilities = program.call(images)   # [batch, size, size, 3] uint8 -> [batch, classes] float32
"""

from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp

from alexnet_jax import sharding
from alexnet_jax.inference import activations
from alexnet_jax.inference.network import Network

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def write(path: Path, network: Network) -> None:
    """Write the program with its weights, for any batch size and all PLATFORMS. All towers run on one device."""
    config = network.config
    logits = activations.logits(config, sharding.make_mesh(1, 1, config.model.towers))
    params, statistics = jax.tree.map(jnp.asarray, jax.device_get((network.params, network.statistics)))

    def program(image):
        return jax.nn.softmax(logits(params, image, statistics), axis=-1)

    size = config.data.size
    image = jax.ShapeDtypeStruct((*jax.export.symbolic_shape("batch"), size, size, 3), jnp.uint8)
    path.write_bytes(jax.export.export(jax.jit(program), platforms=PLATFORMS)(image).serialize())
