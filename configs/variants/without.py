"""One layer less (paper 7: "removing any of the middle layers results in a loss of about 2%" of top-1).

    python -m alexnet_jax.main --config configs/variants/without.py:conv4 ...

Its pooling moves to the layer before it, its connection between the towers to the one after it.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import paper


def get_config(layer: str = "conv4") -> ConfigDict:
    config = paper.get_config()
    change(config, layer)
    return config


def change(config: ConfigDict, layer: str) -> None:
    model = config.model
    order = ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]
    before, after = (model[order[order.index(layer) + step]] for step in (-1, 1))
    if "pool" in model[layer].get("then", ()):
        before.then = (*before.then, "pool")
    after.exchange = after.exchange or model[layer].exchange
    model[layer] = None
