"""Figure 1 (paper 3.1) at full scale: all kernels of the authors' cuda-convnet "18 %" file, all images of CIFAR-10."""

from ml_collections import ConfigDict

from configs.scales import small_four_layer


def get_config() -> ConfigDict:
    config = small_four_layer.get_config()
    for layer, features in ((config.model.conv1, 32), (config.model.conv2, 32), (config.model.conv3, 64)):
        layer.features = features
    config.data.train_examples = 0
    config.train.log_every_steps = 195
    return config
