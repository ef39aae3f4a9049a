"""CIFAR-10, images of 32x32, on two towers.

    alexnet prepare --source folder --input CIFAR10 --size 32 --output data/cifar10
    alexnet train --config cifar10 --config.data.directory=data/cifar10 --workdir runs/cifar10

CIFAR10 holds train/ and test/, each with one folder of images per class. Layers, connections and training are the
paper's; the widths are small, so that training takes twelve minutes on two fast CPU cores, half an hour on slow
ones. Expect about 19 % top-1 error on the test images.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import digits, paper


def get_config() -> ConfigDict:
    config = paper.get_config()
    digits.small_images(config.model, image_size=28, kernels=(32, 64, 96, 96, 64), units=512)
    digits.grey_levels(config)
    config.model.pool.ceil = True  # maps of 28 -> 14 -> 7 -> 3: no pixel is left over
    config.model.num_classes = 10
    config.model.dropout_rate = 0.1  # the paper's 0.5 is too much for so few units and epochs
    config.optim.schedule.name = "steps"
    config.optim.schedule.boundaries_epochs = (21, 26)
    config.augment.colour_noise_scale = "sqrt_eigenvalue"
    config.data.update(size=32, eval_split="test")
    config.train.update(batch_size=64, epochs=28, eval_batch_size=500)
    return config
