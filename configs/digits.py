"""The handwritten digits that come with scikit-learn: two towers on two simulated devices, in about a minute.

    alexnet train --config digits --workdir runs/digits --simulated_devices=2

The paper's network for small images, with few kernels: the same layers, connections between the towers and training.
Expect less than 5 % top-1 error on the test digits, whose writers are not those of the training digits.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import paper


def get_config() -> ConfigDict:
    config = paper.get_config()
    small_images(config.model, image_size=28, kernels=(32, 64, 96, 96, 64), units=512)
    config.model.num_classes = 10
    config.augment.flip = False  # a mirrored digit is no digit
    config.optim.schedule.name = "steps"
    config.optim.schedule.boundaries_epochs = (30, 36)
    config.data.update(source="digits", size=32, eval_split="test")
    config.train.update(batch_size=32, epochs=40, eval_batch_size=120, eval_every_epochs=5, log_every_steps=45)
    return config


def small_images(model: ConfigDict, image_size: int, kernels: tuple, units: int) -> None:
    """Adapt strides, widths and initial weights to small images; conv1 is 5x5 with stride 1.

    For an image size of 28 the maps are 28 -> pool 13 -> pool 6 -> pool 2. In layers this small, signals fade at the
    paper's standard deviation of 0.01, so weights start with He's and biases at 0; conv1 and fc8 keep 0.01.

    Args:
        model: the section to change.
        image_size: height and width of the crops, pixels.
        kernels: the number of kernels of conv1, ..., conv5.
        units: the number of units of fc6 and of fc7.
    """
    model.image_size = image_size
    model.conv1.update(features=kernels[0], kernel=5, stride=1, padding=(2, 2))
    layers = (model.conv2, model.conv3, model.conv4, model.conv5, model.fc6, model.fc7)
    for layer, features in zip(layers, (*kernels[1:], units, units), strict=True):
        layer.update(features=features, init_std="he", init_bias=0.0)


def grey_levels(config: ConfigDict) -> None:
    """Adapt conv1's initial weights and learning rate to inputs of 0..255, for networks that start with He's weights.

    Grey levels are some 60 times as large as the inputs of the other layers. Weights that are as much smaller than He's
    make the outputs of conv1 as large as theirs. Its gradients remain as much larger, so that at the same learning rate
    conv1 alone would limit how fast the others can learn. The authors, too, gave some layers rates of their own.
    """
    conv1 = config.model.conv1
    conv1.init_std = (2 / (3 * conv1.kernel**2)) ** 0.5 / 60
    config.optim.layers.conv1 = paper.layer(lr_multipliers=((0, 0.001, 0.001),))
