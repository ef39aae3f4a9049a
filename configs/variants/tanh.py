"""tanh in the place of ReLU (paper 3.1)."""

from ml_collections import ConfigDict

from configs import paper


def get_config() -> ConfigDict:
    config = paper.get_config()
    config.model.activation = "tanh"
    return config
