"""One layer less (paper 7: "removing any of the middle layers results in a loss of about 2%" of top-1).

    python -m alexnet_jax.main --config configs/variants/without.py:conv4 ...

What comes after the layer moves to the one before it: without conv5, conv4 is pooled.
"""

from ml_collections import ConfigDict

from configs import paper


def get_config(layer: str = "conv4") -> ConfigDict:
    config = paper.get_config()
    change(config, layer)
    return config


def change(config: ConfigDict, layer: str) -> None:
    model = config.model
    order = ["conv1", "conv2", "conv3", "conv4", "conv5"]
    if layer in order:
        before = model[order[order.index(layer) - 1]]
        before.then = model[layer].then if "pool" in model[layer].then else before.then
    model[layer] = None
