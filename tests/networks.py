"""Networks with random weights, and photos to compare their outputs on."""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from alexnet_jax import sharding, steps
from alexnet_jax.configs import variants
from alexnet_jax.data.images import stored_pixels
from alexnet_jax.inference.network import Network
from alexnet_jax.run import config_files
from alexnet_jax.run_config import Config
from tests.conftest import ROOT, encoded, made_up_statistics
from tests.tiny import tiny_config

PHOTOS = sorted((ROOT.parent / "shared/data/imagenet-samples").glob("*/*.JPEG"))


def pictures(size: int = 256, count: int = 3) -> np.ndarray:
    """[count, size, size, 3] uint8: photos where they are available, otherwise random images of many colours."""
    if PHOTOS:
        return np.stack([stored_pixels(path.read_bytes(), size)[0] for path in PHOTOS[:count]])
    rng = np.random.default_rng(0)
    coarse = [encoded(rng.integers(0, 256, (9, 11, 3), dtype=np.uint8), "PNG") for _ in range(count)]
    return np.stack([stored_pixels(content, size)[0] for content in coarse])


def log_probabilities(network: Network, images: np.ndarray) -> np.ndarray:
    """[B, classes], nats, of stored images."""
    return network.ask(network.log_predict(1), images)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def small(make: Callable[[], ConfigDict] = tiny_config, **model) -> Config:
    """The tiny config with other values in `model`."""
    values = make()
    values.model.update({name: value for name, value in model.items() if value is not None})
    for name in (name for name, value in model.items() if value is None):
        values.model[name] = None
    return config_files.parse(values)


def random_network(config: Config, seed: int = 0) -> Network:
    """A network whose weights, biases and means all differ, so that nothing agrees by chance."""
    rng = np.random.default_rng(seed)
    state = steps.init_state(config, sharding.make_mesh(1, 1, config.model.towers))
    params = jax.tree.map(
        lambda leaf: rng.normal(0, np.sqrt(2 / max(1, np.prod(leaf.shape[1:-1]))), leaf.shape).astype(np.float32),
        jax.device_get(state.params),
    )
    for name in config.model.normalized():
        params[name] |= {kind: np.exp(params[name][kind] / 10) for kind in ("scale", "variance")}
    params["conv1"]["kernel"] /= 60  # pixels are large, and the probabilities should be neither 0 nor 1
    padding = config.model.towers * params["fc8"]["bias"].shape[1] - config.model.num_classes
    if padding:  # columns without a class
        params["fc8"]["bias"][-1, -padding:] = 0
        params["fc8"]["kernel"][-1, :, -padding:] = 0
    classes = [f"class <{i}>, 图" for i in range(config.model.num_classes)]
    return Network(config, made_up_statistics(), params, classes, step=7, path=Path("random"))


def assert_same(a: Network, b: Network) -> None:
    """Two networks are equal bit for bit."""
    assert a.config == b.config and a.classes == b.classes
    jax.tree.map(np.testing.assert_array_equal, (a.statistics, a.params), (b.statistics, b.params))


NETWORKS: dict[str, Callable[[], Config]] = {
    "two towers": lambda: small(),
    "across towers, inverted dropout": lambda: small(
        lrn=dict(k=1.0, n=5, alpha=0.1, beta=0.75, across_towers=True), dropout_scaling="training"
    ),
    "odd classes, no conv4, tanh, rounded up": lambda: small(
        num_classes=7, conv4=None, activation="tanh", pool=dict(window=3, stride=2, ceil=True)
    ),
    "as the authors' code": lambda: small(_authors_config),
    "batch normalization": lambda: small(_normalized_config),
    "one tower, no hidden layers": lambda: small(towers=1, fc6=None, fc7=None),
}


def _normalized_config() -> ConfigDict:
    values = tiny_config()
    variants.apply(values, ["batch_norm"])
    return values


def _authors_config() -> ConfigDict:
    values = tiny_config()
    values.model.conv1.update(then=("lrn", "pool", "activation"), padding=(0, 3))
    values.model.conv2.then = ("activation", "lrn", "map_norm", "pool")
    values.model.map_norm.alpha = 0.01
    values.augment.mean_crop = "centre"
    return values
