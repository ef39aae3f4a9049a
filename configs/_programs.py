"""The networks that other programs call AlexNet, as variants of the paper's: docs/which-alexnet.md compares them."""

from ml_collections import ConfigDict

from alexnet_jax.configs import paper


def caffe(config: ConfigDict) -> None:
    """Caffe's bvlc_alexnet; its readme reports 42.9 and 19.8 % error, centre view.

    Crops of 227 without padding, k = 1, biases of 0.1, batches of 256, inverted dropout. Caffe normalizes across its
    two groups of kernels, so the towers meet there too.
    """
    model, optim = config.model, config.optim
    model.image_size = 227
    model.conv1.padding = (0, 0)
    model.lrn.update(k=1.0, alpha=1e-4 / 5, across_towers=True)
    model.dropout_scaling = "training"
    _set_biases(config, 0.1)
    model.fc6.init_std = model.fc7.init_std = 0.005
    optim.biases.update(lr_multiplier=2.0, weight_decay=0.0)
    optim.schedule.update(name="steps", boundaries_epochs=(20, 40, 60, 80))  # about every 100,000 steps
    optim.weights.max_drops = optim.biases.max_drops = 4
    config.augment.colour_noise_std = 0.0
    config.train.batch_size = 256


def caffenet(config: ConfigDict) -> None:
    """Caffe's CaffeNet: `caffe`, but pooled before normalized, and with biases of 1; 42.6 and 19.6 % error there."""
    caffe(config)
    _set_biases(config, 1.0)
    for layer in (config.model.conv1, config.model.conv2):
        layer.then = ("activation", "pool", "lrn")


def cntk(config: ConfigDict) -> None:
    """CNTK's: `caffe`, but without groups and trained longer; its readme reports 40.1 and 17.8 % error, centre view."""
    caffe(config)
    config.model.towers, config.model.lrn.across_towers = 1, False
    config.model.conv2.features = 192
    config.optim.biases.update(lr_multiplier=1.0, weight_decay=config.optim.weights.weight_decay)
    config.optim.schedule.boundaries_epochs = (25, 50, 75, 100)
    config.train.epochs = 112


def slim(config: ConfigDict) -> None:
    """TF-Slim's alexnet_v2, after "One weird trick"; no errors are published. 50,303,912 parameters.

    Its convolutions start from Glorot's deviations, drawn uniformly there, and its other layers from normals cut off at
    two deviations, which leaves 0.88 of 0.005. It names no optimizer: the paper's is kept, but biases do not decay.
    """
    one_weird_trick(config)
    model, maps = config.model, 3
    model.conv1.padding, model.conv4.features = (0, 0), 384
    for layer in (model.conv1, model.conv2, model.conv3, model.conv4, model.conv5):
        layer.init_std, layer.init_bias = (2 / layer.kernel**2 / (maps + layer.features)) ** 0.5, 0.1
        maps = layer.features
    model.fc6.init_bias = model.fc7.init_bias = 0.1
    model.fc6.init_std = model.fc7.init_std = model.fc8.init_std = 0.88 * 0.005
    model.dropout_scaling = "training"
    config.optim.biases.weight_decay = 0.0
    config.augment.colour_noise_std = 0.0


def one_weird_trick(config: ConfigDict) -> None:
    """torchvision's alexnet: the single tower of "One weird trick" (Krizhevsky 2014). 61,100,840 parameters.

    That paper's learning rates, and its logistic units with biases of -7 in place of the softmax, are not reproduced.
    """
    model = config.model
    model.towers = 1
    for number, features in enumerate((64, 192, 384, 256, 256), start=1):
        model[f"conv{number}"].features = features
    for layer in (model.conv3, model.conv4, model.conv5):
        layer.init_std = 0.03
    model.conv1.padding = (2, 2)
    model.conv1.then = model.conv2.then = paper.POOL


def cifar_one_fc(config: ConfigDict) -> None:
    """pytorch-classification's alexnet for CIFAR-10: `one_weird_trick` for 32x32 pixels, without fc6 and fc7.

    For importing its weights; its recipe is not reproduced. 2,472,266 parameters.
    """
    one_weird_trick(config)
    config.model.update(image_size=32, num_classes=10)
    config.model.conv1.padding, config.model.pool.window = (5, 5), 2
    config.model.fc6 = config.model.fc7 = None
    config.data.size = 32


def _set_biases(config: ConfigDict, value: float) -> None:
    for name in paper.BIASED:
        config.model[name].init_bias = value


PROGRAMS = (caffe, caffenet, cntk, slim, one_weird_trick, cifar_one_fc)
