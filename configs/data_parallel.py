"""The paper's network, whole, on each of two devices, with half of every batch: the same numbers again.

    python -m alexnet_jax.main --config configs/data_parallel.py --config.data.directory=DATA --workdir runs/dp

For more devices give --config.mesh.data=N; --config.mesh.tower=2 splits each copy over two devices as well.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import paper


def get_config() -> ConfigDict:
    config = paper.get_config()
    config.mesh.update(data=2, tower=1)
    return config
