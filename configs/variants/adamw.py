"""AdamW in the place of SGD with momentum."""

from ml_collections import ConfigDict

from alexnet_jax.configs import paper


def get_config() -> ConfigDict:
    config = paper.get_config()
    change(config)
    return config


def change(config: ConfigDict) -> None:
    config.optim.update(name="adamw", learning_rate=3e-4)
    config.optim.weights.weight_decay = 0.05
    config.optim.biases.weight_decay = 0.0
