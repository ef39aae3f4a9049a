"""Ten handwritten digits that come with scikit-learn: two towers on two simulated devices, in about a minute.

    python -m alexnet_jax.main --config configs/digits.py --workdir runs/digits --simulated_devices=2

The paper's network with small images and few kernels: the same layers, the same connections between the towers,
the same training. Expect under 5 % top-1 error on the test digits, by other writers than the training digits.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import paper


def get_config() -> ConfigDict:
    config = paper.get_config()
    small_images(config.model, image_size=28, kernels=(32, 64, 96, 96, 64), units=512)
    config.model.num_classes = 10
    config.augment.flip = False  # a mirrored digit is another sign
    config.optim.schedule.name = "steps"
    config.optim.schedule.boundaries_epochs = (30, 36)
    config.data.update(source="digits", size=32, eval_split="test")
    config.train.update(batch_size=32, epochs=40, eval_batch_size=120, eval_every_epochs=5, log_every_steps=45)
    return config


def small_images(model: ConfigDict, image_size: int, kernels: tuple, units: int) -> None:
    """Strides and kernels for small images: conv1 5x5 with stride 1, so 28 -> 28 -> pool 13 -> pool 6 -> pool 2.

    At the paper's deviation of 0.01 signals fade in layers as small as these, so weights start with one of
    sqrt(2 / inputs of a kernel); but conv1, whose inputs are grey levels, and fc8 keep 0.01. Biases start at 0.
    """
    model.image_size = image_size
    model.conv1.update(features=kernels[0], kernel=5, stride=1, padding=(2, 2))
    inputs = [5 * 5 * kernels[0] // 2, 3 * 3 * kernels[1], 3 * 3 * kernels[2] // 2, 3 * 3 * kernels[3] // 2]
    for number, (features, fan_in) in enumerate(zip(kernels[1:], inputs, strict=True), start=2):
        model[f"conv{number}"].update(features=features, init_std=(2 / fan_in) ** 0.5, init_bias=0.0)
    model.fc6.update(features=units, init_std=(2 / (2 * 2 * kernels[4])) ** 0.5, init_bias=0.0)
    model.fc7.update(features=units, init_std=(2 / units) ** 0.5, init_bias=0.0)
