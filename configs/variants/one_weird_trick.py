"""torchvision's alexnet, 61,100,840 parameters: the one tower of "One weird trick" (Krizhevsky 2014).

Not here: that paper's logistic units in place of the softmax with biases of -7, and its rates.
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
    for number, features in enumerate((64, 192, 384, 256, 256), start=1):
        model[f"conv{number}"].features = features
    for layer in (model.conv3, model.conv4, model.conv5):
        layer.init_std = 0.03
    model.conv1.padding = (2, 2)
    for layer in (model.conv1, model.conv2):
        layer.then = paper.POOL
