"""Caffe's bvlc_alexnet: crops of 227 without padding, k = 1, biases of 0.1, batches of 256, inverted dropout.

Its readme reports 42.9 and 19.8 % error, centre view. It normalizes across its two groups of kernels, so here the
towers meet there too.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import paper


def get_config() -> ConfigDict:
    config = paper.get_config()
    change(config)
    return config


def change(config: ConfigDict) -> None:
    model, optim = config.model, config.optim
    model.image_size = 227
    model.conv1.padding = (0, 0)
    model.lrn.update(k=1.0, alpha=1e-4 / 5, across_towers=True)
    model.dropout_scaling = "training"
    for name in ("conv2", "conv4", "conv5", "fc6", "fc7"):
        model[name].init_bias = 0.1
    model.fc6.init_std = model.fc7.init_std = 0.005
    optim.biases.update(lr_multiplier=2.0, weight_decay=0.0)
    optim.schedule.update(name="steps", boundaries_epochs=(20, 40, 60, 80))  # each 100,000 steps, about
    optim.weights.max_drops = optim.biases.max_drops = 4
    config.augment.colour_noise_std = 0.0
    config.train.batch_size = 256
