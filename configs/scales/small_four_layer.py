"""Figure 1 (paper 3.1) for two CPU cores: half the kernels, 10,000 images, some minutes a run.

alexnet reproduce --scale small --claims relu --data CIFAR10
"""

from ml_collections import ConfigDict

from alexnet_jax.configs.scales import full_four_layer


def get_config() -> ConfigDict:
    config = full_four_layer.get_config()
    model = config.model
    for layer, features in ((model.conv1, 32), (model.conv2, 32), (model.conv3, 16), (model.conv4, 16)):
        layer.features = features
    config.data.train_examples = 10000
    config.train.log_every_steps = 39
    return config
