"""Pooling with s = 2, z = 2 in the geometry of the authors' configuration 147: maps of 55-28-26-13-13-13-11-6."""

from ml_collections import ConfigDict

from alexnet_jax.configs import paper


def get_config() -> ConfigDict:
    config = paper.get_config()
    change(config)
    return config


def change(config: ConfigDict) -> None:
    config.model.pool.update(window=2, ceil=True)
    config.model.conv2.padding = (1, 1)
    config.model.conv5.padding = (0, 0)
