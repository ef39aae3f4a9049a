"""Another bias at the start of the layers where the paper has 1 (5: it "accelerates the early stages").

python -m alexnet_jax.main --config configs/variants/bias.py:0.1 ...
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import paper


def get_config(bias: str = "0") -> ConfigDict:
    config = paper.get_config()
    change(config, bias)
    return config


def change(config: ConfigDict, bias: str) -> None:
    for name in ("conv2", "conv4", "conv5", "fc6", "fc7"):
        config.model[name].init_bias = float(bias)
