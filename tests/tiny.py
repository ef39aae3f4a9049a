"""The config that most tests train, in this process or in processes of their own."""

from ml_collections import ConfigDict

from alexnet_jax.configs import digits


def tiny_config() -> ConfigDict:
    """The paper's layers at toy size: 28x28 images, 8 to 16 kernels, 10 classes, batches of 8."""
    config = digits.get_config()
    digits.small_images(config.model, image_size=28, kernels=(8, 8, 16, 16, 8), units=32)
    config.augment.flip = True
    config.optim.weights.weight_decay = 0.01
    config.train.batch_size = 8
    config.train.eval_batch_size = 8
    return config
