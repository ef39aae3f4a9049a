"""The two recipes, the paper's text and the authors' program, and a reference for their networks in NumPy, float64.

The reference is written from the sources: the paper, the authors' configs and logs (configuration 145), and their
published eigenvectors. It calls nothing of the package.
"""

import jax
import numpy as np

from alexnet_jax import augment, model, model_config, run_config
from alexnet_jax.configs import code2012, paper
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.run import config_files

CODE, TEXT = (config_files.parse(recipe.get_config()) for recipe in (code2012, paper))

# The authors' standard deviations of colours in 0..255 along the eigenvectors, one row each.
DEVIATIONS = np.array([121.780, 37.094, 19.721])
COMPONENTS = np.array([[-0.5635, -0.5762, -0.5920], [-0.7126, -0.0235, 0.7012], [0.4180, -0.8170, 0.3973]])


def flat(values, prefix: str = "") -> dict:
    """The keys of nested sections, joined by dots, with their values."""
    keys: dict = {}
    for key, value in values.items():
        keys |= flat(value, f"{prefix}{key}.") if hasattr(value, "items") else {prefix + key: value}
    return keys


def published_statistics(size: int, mean: float = 0.0) -> Statistics:
    """A grey mean image, with the authors' colours."""
    return Statistics(
        np.full((size, size, 3), mean, np.float32),
        (DEVIATIONS**2).astype(np.float32),
        COMPONENTS.T.astype(np.float32),
    )


def training_views(
    image: np.ndarray, settings: run_config.Augment, statistics: Statistics, size: int, epoch: int = 0
) -> np.ndarray:
    """The package's training views of images [B, H, W, 3]: [B, size, size, 3]."""
    keys, _ = augment.example_keys(0, np.int32(epoch), np.arange(len(image), dtype=np.int32))
    view = jax.jit(augment.training_view, static_argnums=(3, 4))
    return np.asarray(view(image, keys, statistics, size, settings, np.int32(epoch)))


def small(recipe, ceil: bool = False, mean_crop: str | None = None) -> run_config.Config:
    """A recipe's network for 92x92 images with few kernels: the same layers, strides, padding, norms and links."""
    values = recipe.get_config()
    values.model.update(image_size=92, num_classes=10)
    for name, features in zip(("conv1", "conv2", "conv3", "conv4", "conv5"), (16, 16, 24, 24, 16), strict=True):
        values.model[name].features = features
    values.model.fc6.features = values.model.fc7.features = 32
    values.model.pool.ceil = ceil
    values.data.size = 100
    values.augment.shared_by = 1
    values.augment.mean_crop = mean_crop or values.augment.mean_crop
    return config_files.parse(values)


def large_parameters(spec: model_config.Model) -> dict:
    """Random parameters, [tower, ...] float32, so large that every normalization has an effect."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: model.init(spec, jax.random.key(0)))

    def draw(path, leaf):
        layer, fan_in = path[0].key, int(np.prod(leaf.shape[1:-1]))
        std = 1.0 if path[-1].key == "bias" else 0.07 if layer == "conv1" else (2 / fan_in) ** 0.5
        return (std * rng.normal(size=leaf.shape)).astype(np.float32)

    return jax.tree.map_with_path(draw, shapes)


# --- The reference ---


def lrn(x: np.ndarray, alpha: float, k: float = 2.0, n: int = 5, beta: float = 0.75) -> np.ndarray:
    """The formula of paper 3.3 with its min and max, channel by channel."""
    y, channels = np.empty_like(x), x.shape[-1]
    for i in range(channels):
        low, high = max(0, i - n // 2), min(channels - 1, i + n // 2)
        y[..., i] = x[..., i] / (k + alpha * sum(x[..., j] ** 2 for j in range(low, high + 1))) ** beta
    return y


def map_norm(x: np.ndarray) -> np.ndarray:
    """5 x 5 pixels of the same map, k = 1, scale 0.001 divided by 25, power 0.75; clipped at the edges."""
    y, (height, width) = np.empty_like(x), x.shape[1:3]
    for i in range(height):
        for j in range(width):
            window = x[:, max(0, i - 2) : i + 3, max(0, j - 2) : j + 3]
            y[:, i, j] = x[:, i, j] / (1 + 0.001 / 25 * (window**2).sum(axis=(1, 2))) ** 0.75
    return y


def conv(x: np.ndarray, kernel: np.ndarray, stride: int, padding: tuple[int, int]) -> np.ndarray:
    x = np.pad(x, [(0, 0), padding, padding, (0, 0)])
    size = kernel.shape[0]
    rows, columns = ((side - size) // stride + 1 for side in x.shape[1:3])
    y = np.zeros((len(x), rows, columns, kernel.shape[-1]))
    for i in range(size):
        for j in range(size):
            y += x[:, i : i + stride * rows : stride, j : j + stride * columns : stride] @ kernel[i, j]
    return y


def pool(x: np.ndarray, ceil: bool) -> np.ndarray:
    """3 x 3 every 2 pixels; with `ceil` the last windows may extend beyond the map, where they hold nothing."""
    size = x.shape[1]
    windows = 1 + int((np.ceil if ceil else np.floor)((size - 3) / 2))
    y = np.empty((len(x), windows, windows, x.shape[-1]))
    for i in range(windows):
        for j in range(windows):
            y[:, i, j] = x[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max(axis=(1, 2))
    return y


def logits(recipe, params: dict, image: np.ndarray, ceil: bool = False) -> np.ndarray:
    """The two towers at test time, layer by layer: [B, 92, 92, 3] -> [B, 10] float64."""
    towers: list = [jax.tree.map(lambda p, t=t: np.asarray(p[t], np.float64), params) for t in (0, 1)]

    def both(maps: list) -> list:
        return [np.concatenate(maps, axis=-1)] * 2

    def convolved(name: str, maps: list, stride: int, padding: tuple[int, int]) -> list:
        return [
            conv(x, tower[name]["kernel"], stride, padding) + tower[name]["bias"]
            for tower, x in zip(towers, maps, strict=True)
        ]

    def relu(x):
        return np.maximum(x, 0)

    maps = convolved("conv1", [image.astype(np.float64)] * 2, 4, (0, 3))
    if recipe is code2012:
        maps = [relu(pool(lrn(x, alpha=2e-5), ceil)) for x in maps]
        maps = convolved("conv2", maps, 1, (2, 2))
        maps = [pool(map_norm(lrn(relu(x), alpha=2e-5)), ceil) for x in maps]
    else:
        maps = [pool(lrn(relu(x), alpha=1e-4), ceil) for x in maps]
        maps = [pool(lrn(relu(x), alpha=1e-4), ceil) for x in convolved("conv2", maps, 1, (2, 2))]
    maps = [relu(x) for x in convolved("conv3", both(maps), 1, (1, 1))]
    maps = [relu(x) for x in convolved("conv4", maps, 1, (1, 1))]
    units = [relu(pool(x, ceil)) for x in convolved("conv5", maps, 1, (1, 1))]
    for name in ("fc6", "fc7"):
        units = [x.reshape(len(x), -1) for x in both(units)]
        dense = [x @ tower[name]["kernel"] + tower[name]["bias"] for tower, x in zip(towers, units, strict=True)]
        units = [0.5 * relu(x) for x in dense]
    heads = [x @ tower["fc8"]["kernel"] + tower["fc8"]["bias"] for tower, x in zip(towers, both(units), strict=True)]
    return np.concatenate(heads, axis=-1)
