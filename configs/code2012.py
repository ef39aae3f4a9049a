"""The authors' program, where their released source and logs differ from the paper or say what the paper does not.

    alexnet train --config code2012 --config.data.directory=DATA --workdir runs/code2012

This is configuration 145 of https://github.com/computerhistory/AlexNet-Source-Code. Its logs agree with the paper's
numbers to every printed digit: 40.664 % top-1 and 18.210 % top-5 error on the ILSVRC-2012 validation set, ten views.
The lines below are independent: remove one, and that setting alone is the paper's. They hold on one device and on two.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import paper


def get_config() -> ConfigDict:
    config = paper.get_config()
    apply(config)
    return config


def apply(config: ConfigDict) -> None:
    """Turn the paper's config, or a variant of it, into that of the authors' program."""
    model, optim, augment = config.model, config.optim, config.augment
    # Network
    for layer in (model.conv3, model.conv4, model.conv5):
        layer.init_std = 0.03  # with the paper's 0.01 the signal nearly vanishes here
    model.lrn.alpha = 1e-4 / 5  # the program divides alpha by the number of channels
    model.conv1.then = ("lrn", "pool", "activation")  # normalizes before the ReLU
    model.conv2.then = ("activation", "lrn", "map_norm", "pool")  # map_norm is not in the paper
    model.conv5.then = ("pool", "activation")  # gives the same result
    # Training
    optim.biases.update(lr_multiplier=2.0, weight_decay=0.0, max_drops=1)
    optim.schedule.update(name="steps", boundaries_epochs=(23, 51, 78))  # done by hand; epochs of the log of 2010
    optim.layers.conv1 = paper.layer(lr_multipliers=((68, 0.1, 1.0), (72, 0.0, 0.0)))  # weights slowed, then all frozen
    config.train.epochs = 93
    # Images
    augment.shared_by = 32  # 32 images share a crop and a flip
    augment.mean_crop = "centre"  # the mean image's centre is subtracted, wherever the crop is
    augment.colour_noise_scale = "sqrt_eigenvalue"
    augment.colour_noise_shrinks = True  # divides by 1.1
    augment.colour_noise_epochs = 68  # no noise after that
    config.data.reshuffle = False
