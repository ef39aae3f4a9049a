"""The paper's network with both towers on one device: the same numbers, one program.

python -m alexnet_jax.main --config configs/one_device.py --config.data.directory=DATA --workdir runs/one_device
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import paper


def get_config() -> ConfigDict:
    config = paper.get_config()
    config.mesh.tower = 1
    return config
