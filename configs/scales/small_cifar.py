"""The four-layer network of the paper's CIFAR-10 claim (3.3) at half its kernels: 6,000 images, 10 epochs."""

from ml_collections import ConfigDict

from alexnet_jax.configs.variants import cifar_four_layer


def get_config() -> ConfigDict:
    config = cifar_four_layer.get_config()
    halve(config)
    return config


def halve(config: ConfigDict) -> None:
    """Half the kernels, deviations for so few inputs, and a rate for so few steps."""
    model = config.model
    stds = {"conv1": (32, 0.002), "conv2": (32, 0.05), "conv3": (16, 0.08), "conv4": (16, 0.1)}
    for name, (features, std) in stds.items():
        model[name].update(features=features, init_std=std)
    config.optim.learning_rate = 0.001
    config.optim.schedule.boundaries_epochs = (8,)
    config.data.train_examples = 6000
    config.train.update(batch_size=64, epochs=10, eval_every_epochs=10, log_every_steps=47, plateau_steps=282)
