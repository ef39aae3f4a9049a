"""The authors' own program: what their released source and its logs do where the paper says otherwise or nothing.

    python -m alexnet_jax.main --config configs/code2012.py --config.data.directory=DATA --workdir runs/code2012

Configuration 145 of https://github.com/computerhistory/AlexNet-Source-Code, whose logs give the paper's numbers to
every printed digit: 40.664 % top-1 and 18.210 % top-5 error on the ILSVRC-2012 validation set, ten views. Each line
below stands alone: leave it out, and that one thing is as in the paper. On one device and on two alike.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import paper


def get_config() -> ConfigDict:
    config = paper.get_config()
    apply(config)
    return config


def apply(config: ConfigDict) -> None:
    model, optim, augment = config.model, config.optim, config.augment
    # The network.
    for layer in (model.conv3, model.conv4, model.conv5):
        layer.init_std = 0.03  # with the paper's 0.01 the signal nearly vanishes in them
    model.lrn.alpha = 1e-4 / 5  # the code divides by the number of channels
    model.conv1.then = ("lrn", "pool", "activation")  # normalizes before the ReLU
    model.conv2.then = ("activation", "lrn", "map_norm", "pool")  # a normalization that the paper does not tell of
    model.conv5.then = ("pool", "activation")  # the same result
    # Its training.
    optim.biases.update(lr_multiplier=2.0, weight_decay=0.0, max_drops=1)
    optim.schedule.update(name="steps", boundaries_epochs=(23, 51, 78))  # by hand then; as the log of 2010 has it
    optim.layers.conv1 = paper.layer(lr_multipliers=((68, 0.1), (72, 0.0)))  # slowed, then frozen
    config.train.epochs = 93
    # Its images.
    augment.shared_by = 32  # a crop and a flip for each 32 images
    augment.mean_crop = "centre"  # of the mean image, wherever the crop is
    augment.colour_noise_scale = "sqrt_eigenvalue"
    augment.colour_noise_shrinks = True  # divides by 1.1
    augment.colour_noise_epochs = 68  # none after that
    config.data.reshuffle = False
