"""Six convolutional layers, for whole releases of ImageNet (paper 6); the authors' configuration 146.

conv6 sees both towers. Train it on `imagenet_full`, and go on from it with configs/variants/from_pretrained.py.
61,555,304 parameters with 1000 classes.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import paper


def get_config() -> ConfigDict:
    config = paper.get_config()
    change(config)
    return config


def change(config: ConfigDict) -> None:
    config.model.conv5.then = paper.POOL
    config.model.conv6 = paper.conv(
        256, 3, (1, 1), stride=1, exchange=True, then=paper.PLAIN, init_bias=1.0, init_std=0.03
    )
