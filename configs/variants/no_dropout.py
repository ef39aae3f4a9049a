"""Without dropout (paper 4.2): "substantial overfitting"."""

from ml_collections import ConfigDict

from alexnet_jax.configs import paper


def get_config() -> ConfigDict:
    config = paper.get_config()
    change(config)
    return config


def change(config: ConfigDict) -> None:
    config.model.dropout_rate = 0.0
