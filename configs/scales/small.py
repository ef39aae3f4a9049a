"""The paper's network at the size of CIFAR-10, for its claims on two CPU cores: 10,000 images, a minute or two a run.

    alexnet reproduce --scale small --data CIFAR10

Crops of 23x23 out of 32x32: then pooling with z = 3 and with z = 2 gives the same sizes, 11, 5 and 2, as the paper's.
A sixth of the paper's kernels, both towers on one device.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import digits, paper


def get_config() -> ConfigDict:
    config = paper.get_config()
    digits.small_images(config.model, image_size=23, kernels=(16, 48, 64, 64, 48), units=256)
    config.model.num_classes = 10
    config.model.dropout_rate = 0.25  # the paper's half is more than so few units and epochs can bear
    config.optim.learning_rate = 0.005  # at 0.01 it does not bear to be without normalization
    config.optim.schedule.update(name="steps", boundaries_epochs=(8, 9))
    config.augment.colour_noise_scale = "sqrt_eigenvalue"
    config.data.update(size=32, eval_split="test", train_examples=10000)
    config.train.update(
        batch_size=64, epochs=10, eval_batch_size=500, eval_every_epochs=10, log_every_steps=100, plateau_steps=300
    )
    config.mesh.tower = 1
    return config
