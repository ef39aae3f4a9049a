"""The one-GPU network of paper 3.2: half the kernels in each convolutional layer, but conv5 and fc6-8 as they are.

Paper 3.2: "the one-GPU net actually has the same number of kernels as the two-GPU net in the final convolutional
layer", as most parameters lie behind it. 59,798,312 parameters. The two-GPU network has 1.7 and 1.2 points less error.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import paper


def get_config() -> ConfigDict:
    config = paper.get_config()
    change(config)
    return config


def change(config: ConfigDict) -> None:
    model = config.model
    model.towers = 1
    for layer in (model.conv1, model.conv2, model.conv3, model.conv4):
        layer.features //= 2
