"""Six convolutional layers that another run has trained, and a new fc8 (paper 6: 39.0 and 16.6 %, Table 2).

python -m alexnet_jax.main --config configs/variants/from_pretrained.py --config.start.workdir=runs/six_conv ...
"""

from ml_collections import ConfigDict

from alexnet_jax.configs.variants import six_conv


def get_config() -> ConfigDict:
    config = six_conv.get_config()
    config.start.layers = ("conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "fc6", "fc7")
    return config
