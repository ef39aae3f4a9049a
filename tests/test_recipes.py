"""The two recipes, the paper's text and the authors' program, against NumPy in float64 written from those sources.

Nothing here calls what it checks to find out what is expected; numbers are those of the paper, of the authors' configs
and logs (configuration 145) and of the eigenvectors that they published.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import augment, model, model_config, ops, optim, run_config, sharding, steps
from alexnet_jax.configs import code2012, paper
from alexnet_jax.configs.variants import (
    caffe,
    no_links,
    no_lrn,
    non_overlapping_pooling,
    one_gpu,
    one_weird_trick,
    pooling_147,
    six_conv,
    without,
)
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.run import config_files
from tests.conftest import ROOT, made_up_statistics, random_batch
from tests.meshes import MESHES, train, worst_difference
from tests.test_variants import flat
from tests.tiny import tiny_config

CODE, TEXT = (config_files.parse(recipe.get_config()) for recipe in (code2012, paper))

# --- update rules: paper 5; the authors' logs of 2010 ---


def text_rates(epoch: int) -> dict[str, tuple[float, float]]:
    """Of weights and biases. The rate is cut three times, for everything alike; here when the authors cut theirs."""
    rate = 0.01 * 10.0 ** -((epoch >= 23) + (epoch >= 51) + (epoch >= 78))
    return {"conv1": (rate, rate), "conv2": (rate, rate), "fc8": (rate, rate)}


def code_rates(epoch: int) -> dict[str, tuple[float, float]]:
    """The log: .01; 23 .001; 51 1e-4; 68 conv1 1e-5; 72 conv1 0; 78 the rest 1e-5. Biases .02, and .002 from 23 on."""
    weights = 0.01 if epoch < 23 else 1e-3 if epoch < 51 else 1e-4 if epoch < 78 else 1e-5
    biases = 0.02 if epoch < 23 else 0.002
    conv1 = (weights, biases) if epoch < 68 else (1e-5, biases) if epoch < 72 else (0.0, 0.0)
    return {"conv1": conv1, "conv2": (weights, biases), "fc8": (weights, biases)}


@pytest.mark.parametrize(("recipe", "rates_there", "bias_decay"), [(TEXT, text_rates, 0.0005), (CODE, code_rates, 0.0)])
def test_update_rules_over_93_short_epochs(recipe: run_config.Config, rates_there: Callable, bias_decay: float):
    """v <- 0.9 v - decay rate w - rate g; w <- w + v; what has a rate of 0 is left alone. Four steps an epoch."""
    rng = np.random.default_rng(0)
    there = {
        name: {"kernel": rng.normal(size=(3, 4)), "bias": rng.normal(size=4)} for name in ("conv1", "conv2", "fc8")
    }
    speed = jax.tree.map(np.zeros_like, there)
    rule = optim.update_rule(recipe.optim)
    here = jax.tree.map(np.float32, there)
    state = rule.init(here)
    step = jax.jit(lambda g, s, p, rates: rule.update(g, s, p, rates=rates))
    frozen = {}
    for epoch in range(93):
        cuts = optim.Validation(drops=(epoch >= 23) + (epoch >= 51) + (epoch >= 78))  # what a plateau would have found
        rates = optim.rates(recipe.optim, there, epoch, cuts)
        for name, of_kinds in rates_there(epoch).items():
            np.testing.assert_allclose([rates[name]["kernel"], rates[name]["bias"]], of_kinds, rtol=1e-6)
        for _ in range(4):
            grads = jax.tree.map(lambda w: 0.05 * rng.normal(size=w.shape) + 0.02 * w, there)
            updates, state = step(jax.tree.map(np.float32, grads), state, here, rates)
            here = jax.tree.map(np.add, here, updates)
            for name, layer in there.items():
                for leaf, rate, decay in zip(
                    ("kernel", "bias"), rates_there(epoch)[name], (0.0005, bias_decay), strict=True
                ):
                    if rate:
                        v, w, g = speed[name][leaf], layer[leaf], grads[name][leaf]
                        speed[name][leaf] = 0.9 * v - decay * rate * w - rate * g
                        layer[leaf] = w + speed[name][leaf]
                        seen = np.asarray(updates[name][leaf])
                        np.testing.assert_allclose(seen, speed[name][leaf], rtol=2e-5, atol=1e-5 * np.abs(seen).max())
                    else:
                        assert not np.asarray(updates[name][leaf]).any()
        if epoch == 71:
            frozen = jax.device_get(here["conv1"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), here, there)
    kept = all((here["conv1"][leaf] == frozen[leaf]).all() for leaf in frozen)
    assert kept == (recipe is CODE)


def test_a_cut_of_the_rate_keeps_the_speed():
    """The first update after a cut is nine tenths of the last one before it, not nine hundredths."""
    rule = optim.update_rule(CODE.optim)
    params = {"conv2": {"kernel": np.zeros((1, 1), np.float32), "bias": np.zeros(1, np.float32)}}
    grads = jax.tree.map(np.ones_like, params)
    before, after = (optim.rates(CODE.optim, params, epoch, optim.Validation()) for epoch in (22, 23))
    first, state = rule.update(grads, rule.init(params), params, rates=before)
    second, _ = rule.update(jax.tree.map(np.zeros_like, grads), state, params, rates=after)
    assert np.asarray(second["conv2"]["kernel"]) == pytest.approx(0.9 * np.asarray(first["conv2"]["kernel"]), rel=1e-6)


# --- colour noise: paper 4.1; the authors' published eigenvectors and standard deviations, 0..255 ---

DEVIATIONS = np.array([121.780, 37.094, 19.721])
COMPONENTS = np.array(
    [[-0.5635, -0.5762, -0.5920], [-0.7126, -0.0235, 0.7012], [0.4180, -0.8170, 0.3973]]
)  # a row each


def published(size: int, mean: float = 0.0) -> Statistics:
    return Statistics(
        np.full((size, size, 3), mean, np.float32),
        (DEVIATIONS**2).astype(np.float32),
        COMPONENTS.T.astype(np.float32),
    )


def views(image, settings: run_config.Augment, statistics: Statistics, size: int, epoch: int = 0) -> np.ndarray:
    keys, _ = augment.example_keys(0, np.int32(epoch), np.arange(len(image), dtype=np.int32))
    run = jax.jit(augment.training_view, static_argnums=(3, 4))
    return np.asarray(run(image, keys, statistics, size, settings, np.int32(epoch)))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (CODE.augment, (11.07, 3.37, 1.79)),
        (CODE.augment.model_copy(update={"colour_noise_shrinks": False}), (12.18, 3.71, 1.97)),
        (TEXT.augment, tuple(0.1 * DEVIATIONS**2 / 255)),  # 5.8, 0.54 and 0.15
    ],
    ids=["code", "code before / 1.1", "paper"],
)
def test_colour_noise_along_the_principal_components(settings, expected):
    noise = views(np.zeros((32_000, 4, 4, 3), np.uint8), settings, published(4), 2)
    assert (noise == noise[:, :1, :1]).all()  # one colour for all pixels of an image
    along = noise[:, 0, 0] @ np.linalg.inv(COMPONENTS)
    np.testing.assert_allclose(along.std(axis=0), expected, rtol=0.015)
    scaled = along / along.std(axis=0)
    assert np.abs(scaled.mean(axis=0)).max() < 0.025
    np.testing.assert_allclose(scaled.T @ scaled / len(scaled), np.eye(3), atol=0.025)  # independent
    np.testing.assert_allclose((scaled**4).mean(axis=0), 3, atol=0.15)  # Gaussian
    assert len(np.unique(noise[:, 0, 0, 0])) > 31_000  # one an image, where 32 share their crop


def test_the_code_divides_the_whole_image_and_stops_at_epoch_68():
    image = np.full((3200, 4, 4, 3), 200, np.uint8)
    quiet, loud = (views(image, CODE.augment, published(4, mean=90), 2, epoch) for epoch in (68, 67))
    assert (quiet == 110).all()
    assert loud.mean() == pytest.approx(110 / 1.1, abs=0.5) and loud.std() > 5
    assert (views(image, CODE.augment, published(4, mean=90), 2, 92) == 110).all()
    assert views(image, TEXT.augment, published(4, mean=90), 2, 89).std() > 1  # the paper knows of no end
    for settings in (CODE.augment, TEXT.augment):
        tested = augment.evaluation_views(image[:2], published(4, mean=90), 2, 10, settings.mean_crop)
        assert (np.asarray(tested) == 110).all()  # neither noise nor division at test


# --- normalization: paper 3.3; within maps in the authors' code only ---


def lrn_there(x: np.ndarray, alpha: float, k: float = 2.0, n: int = 5, beta: float = 0.75) -> np.ndarray:
    """Channel by channel, as the paper's formula with its min and max."""
    y, channels = np.empty_like(x), x.shape[-1]
    for i in range(channels):
        low, high = max(0, i - n // 2), min(channels - 1, i + n // 2)
        y[..., i] = x[..., i] / (k + alpha * sum(x[..., j] ** 2 for j in range(low, high + 1))) ** beta
    return y


def map_norm_there(x: np.ndarray) -> np.ndarray:
    """5 x 5 pixels of the same map, k = 1, scale 0.001 divided by 25, power 0.75; clipped at the edges."""
    y, (height, width) = np.empty_like(x), x.shape[1:3]
    for i in range(height):
        for j in range(width):
            around = x[:, max(0, i - 2) : i + 3, max(0, j - 2) : j + 3]
            y[:, i, j] = x[:, i, j] / (1 + 0.001 / 25 * (around**2).sum(axis=(1, 2))) ** 0.75
    return y


def lrn_here(lrn: model_config.Lrn) -> Callable:
    return lambda x: ops.local_response_norm(x, lrn.k, lrn.n, lrn.alpha, lrn.beta)


def map_norm_here(x):
    of = CODE.model.map_norm
    return ops.map_norm(x, of.n, of.alpha, of.beta)


NORMS: dict[str, tuple[Callable, Callable]] = {
    "lrn, paper": (lrn_here(TEXT.model.lrn), lambda x: lrn_there(x, alpha=1e-4)),
    "lrn, code": (lrn_here(CODE.model.lrn), lambda x: lrn_there(x, alpha=2e-5)),
    "map_norm": (map_norm_here, map_norm_there),
}


@pytest.mark.parametrize("name", NORMS)
def test_normalizations_and_their_gradients(name):
    """Values, and gradients against differences in float64, where the sums are as large as the constant or larger."""
    here, there = NORMS[name]
    rng = np.random.default_rng(0)
    x = 150 * rng.normal(size=(2, 4, 6, 8))
    weights = rng.normal(size=x.shape)
    np.testing.assert_allclose(here(x.astype(np.float32)), there(x), rtol=2e-6, atol=1e-5)
    grad = jax.grad(lambda x: (here(x) * weights.astype(np.float32)).sum())(jnp.asarray(x, jnp.float32))
    differences = np.empty_like(x)
    for place in np.ndindex(*x.shape):
        moved = np.zeros_like(x)
        moved[place] = 1e-3
        differences[place] = ((there(x + moved) - there(x - moved)) * weights).sum() / 2e-3
    np.testing.assert_allclose(grad, differences, rtol=1e-4, atol=1e-5 * np.abs(differences).max())


def test_what_is_normalized_where():
    """The paper: ReLU, LRN, pool in layers 1 and 2. Configuration 145: LRN, pool, ReLU and ReLU, LRN, rnorm, pool."""
    text = {name: layer.then for name, layer in TEXT.model.convs()}
    code = {name: layer.then for name, layer in CODE.model.convs()}
    assert text["conv1"] == text["conv2"] == ("activation", "lrn", "pool")
    assert text["conv3"] == text["conv4"] == code["conv3"] == code["conv4"] == ("activation",)
    assert (text["conv5"], code["conv5"]) == (("activation", "pool"), ("pool", "activation"))
    assert code["conv1"] == ("lrn", "pool", "activation")
    assert code["conv2"] == ("activation", "lrn", "map_norm", "pool")
    stds = {name: (getattr(TEXT.model, name).init_std, getattr(CODE.model, name).init_std) for name in code}
    assert stds == {f"conv{i}": (0.01, 0.03 if i >= 3 else 0.01) for i in range(1, 6)}


# --- geometry ---


def test_the_last_windows_of_conv1_hang_three_pixels_over():
    rng = np.random.default_rng(0)
    layer = TEXT.model.conv1
    assert (layer.padding, layer.stride, layer.kernel) == ((0, 3), 4, 11) and CODE.model.conv1 == layer.model_copy(
        update={"then": CODE.model.conv1.then}
    )
    image, kernel = rng.normal(size=(1, 224, 224, 3)), rng.normal(size=(11, 11, 3, 2))
    inputs = [x.astype(np.float32) for x in (image, kernel, np.zeros(2))]
    maps = np.asarray(ops.conv(*inputs, layer.stride, layer.padding))
    assert maps.shape == (1, 55, 55, 2)
    for i, j in ((0, 0), (53, 20), (54, 30), (12, 54), (54, 54)):
        window = image[0, 4 * i : 4 * i + 11, 4 * j : 4 * j + 11]  # ends where the image ends
        assert window.shape[:2] == (8 if i == 54 else 11, 8 if j == 54 else 11)
        there = np.einsum("ijc,ijcf->f", window, kernel[: window.shape[0], : window.shape[1]])
        np.testing.assert_allclose(maps[0, i, j], there, rtol=1e-4, atol=1e-4)


USUAL = [55, 27, 27, 13, 13, 13, 13, 6]  # conv1 and pool, conv2 and pool, conv3, conv4, conv5 and pool
GEOMETRY = {
    "paper": (paper.get_config, USUAL),
    "code2012": (code2012.get_config, USUAL),
    "one_gpu": (one_gpu.get_config, USUAL),
    "one_weird_trick": (one_weird_trick.get_config, USUAL),
    "caffe": (caffe.get_config, USUAL),
    "no_links": (no_links.get_config, USUAL),
    "no_lrn": (no_lrn.get_config, USUAL),
    "non_overlapping_pooling": (non_overlapping_pooling.get_config, USUAL),
    "pooling_147": (pooling_147.get_config, [55, 28, 26, 13, 13, 13, 11, 6]),
    "six_conv": (six_conv.get_config, [*USUAL, 6]),
    "without conv2": (lambda: without.get_config("conv2"), [55, 27, 13, 13, 13, 13, 6]),
    "without conv3": (lambda: without.get_config("conv3"), [55, 27, 27, 13, 13, 13, 6]),
    "without conv4": (lambda: without.get_config("conv4"), [55, 27, 27, 13, 13, 13, 6]),
    "without conv5": (lambda: without.get_config("conv5"), [55, 27, 27, 13, 13, 13, 6]),
}


@pytest.mark.parametrize("name", GEOMETRY)
def test_sizes_of_the_maps(name, monkeypatch):
    """After each convolution and each pooling; fc6 sees 6 x 6."""
    make, expected = GEOMETRY[name]
    spec, sizes, max_pool = config_files.parse(make()).model, [], ops.max_pool

    def note(call, arguments, keywords, context):
        output = call(*arguments, **keywords)
        if isinstance(context.module, model.Conv) and context.method_name == "__call__":
            sizes.append(output.shape[1:3])
        return output

    def pool(*arguments):
        output = max_pool(*arguments)
        sizes.append(output.shape[-3:-1])
        return output

    monkeypatch.setattr(ops, "max_pool", pool)
    with nn.intercept_methods(note):
        params = jax.eval_shape(lambda: model.init(spec, jax.random.key(0)))
    assert sizes == [(size, size) for size in expected]
    last = spec.convs()[-1][1].features
    assert params["fc6"]["kernel"].shape[1] == 6 * 6 * last // (1 if spec.fc6 and spec.fc6.exchange else spec.towers)


# --- the whole network ---


def small(recipe, ceil: bool = False, mean_crop: str | None = None) -> run_config.Config:
    """A recipe's network with 92x92 images and few kernels: the same layers, strides, padding, norms and links."""
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


def parameters(spec: model_config.Model) -> dict:
    """So large that every normalization matters: [tower, ...] float32."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: model.init(spec, jax.random.key(0)))

    def draw(path, leaf):
        layer, fan_in = path[0].key, int(np.prod(leaf.shape[1:-1]))
        std = 1.0 if path[-1].key == "bias" else 0.07 if layer == "conv1" else (2 / fan_in) ** 0.5
        return (std * rng.normal(size=leaf.shape)).astype(np.float32)

    return jax.tree.map_with_path(draw, shapes)


def conv_there(x: np.ndarray, kernel: np.ndarray, stride: int, padding: tuple[int, int]) -> np.ndarray:
    x = np.pad(x, [(0, 0), padding, padding, (0, 0)])
    size = kernel.shape[0]
    rows, columns = ((side - size) // stride + 1 for side in x.shape[1:3])
    y = np.zeros((len(x), rows, columns, kernel.shape[-1]))
    for i in range(size):
        for j in range(size):
            y += x[:, i : i + stride * rows : stride, j : j + stride * columns : stride] @ kernel[i, j]
    return y


def pool_there(x: np.ndarray, ceil: bool) -> np.ndarray:
    """3 x 3 every 2; with `ceil` a window may hang over, and sees nothing there."""
    size = x.shape[1]
    places = 1 + int((np.ceil if ceil else np.floor)((size - 3) / 2))
    y = np.empty((len(x), places, places, x.shape[-1]))
    for i in range(places):
        for j in range(places):
            y[:, i, j] = x[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max(axis=(1, 2))
    return y


def logits_there(recipe, params: dict, image: np.ndarray, ceil: bool = False) -> np.ndarray:
    """The two towers at test time, layer by layer, from the sources: [B, 92, 92, 3] -> [B, 10] float64."""
    towers: list = [jax.tree.map(lambda p, t=t: np.asarray(p[t], np.float64), params) for t in (0, 1)]

    def both(maps: list) -> list:
        return [np.concatenate(maps, axis=-1)] * 2

    def convolved(name: str, maps: list, stride: int, padding: tuple[int, int]) -> list:
        return [
            conv_there(x, of[name]["kernel"], stride, padding) + of[name]["bias"]
            for of, x in zip(towers, maps, strict=True)
        ]

    def relu(x):
        return np.maximum(x, 0)

    maps = convolved("conv1", [image.astype(np.float64)] * 2, 4, (0, 3))
    if recipe is code2012:
        maps = [relu(pool_there(lrn_there(x, alpha=2e-5), ceil)) for x in maps]
        maps = convolved("conv2", maps, 1, (2, 2))
        maps = [pool_there(map_norm_there(lrn_there(relu(x), alpha=2e-5)), ceil) for x in maps]
    else:
        maps = [pool_there(lrn_there(relu(x), alpha=1e-4), ceil) for x in maps]
        maps = [pool_there(lrn_there(relu(x), alpha=1e-4), ceil) for x in convolved("conv2", maps, 1, (2, 2))]
    maps = [relu(x) for x in convolved("conv3", both(maps), 1, (1, 1))]
    maps = [relu(x) for x in convolved("conv4", maps, 1, (1, 1))]
    units = [relu(pool_there(x, ceil)) for x in convolved("conv5", maps, 1, (1, 1))]
    for name in ("fc6", "fc7"):
        units = [x.reshape(len(x), -1) for x in both(units)]
        dense = [x @ of[name]["kernel"] + of[name]["bias"] for of, x in zip(towers, units, strict=True)]
        units = [0.5 * relu(x) for x in dense]
    heads = [x @ of["fc8"]["kernel"] + of["fc8"]["bias"] for of, x in zip(towers, both(units), strict=True)]
    return np.concatenate(heads, axis=-1)


def logits_here(spec: model_config.Model, params: dict, image: np.ndarray) -> np.ndarray:
    run = jax.jit(jax.vmap(lambda p, x: model.logits(spec, p, x, None), (0, None), axis_name=sharding.TOWER))
    return np.concatenate(list(np.asarray(run(params, image.astype(np.float32)))), axis=-1)


@pytest.mark.parametrize("ceil", [False, True], ids=["whole windows", "ceil"])
@pytest.mark.parametrize("recipe", [paper, code2012], ids=["paper", "code2012"])
def test_the_whole_network(recipe, ceil):
    spec = small(recipe, ceil).model
    params = parameters(spec)
    image = np.random.default_rng(1).uniform(-128, 128, (3, 92, 92, 3)).astype(np.float32)
    there = logits_there(recipe, params, image, ceil)
    scale = np.abs(there).max()
    assert np.abs(logits_here(spec, params, image) - there).max() < 1e-5 * scale
    other = logits_there(code2012 if recipe is paper else paper, params, image, ceil)
    assert np.abs(other - there).max() > 0.01 * scale  # what tells the recipes apart is seen


def softmax(x: np.ndarray) -> np.ndarray:
    exponential = np.exp(x - x.max(axis=-1, keepdims=True))
    return exponential / exponential.sum(axis=-1, keepdims=True)


# --- views ---


@pytest.mark.parametrize("mean_crop", ["same", "centre"])
def test_ten_views(mean_crop):
    """Offsets 0, 16 and 32; with "centre" the same crop of the mean image everywhere, not mirrored."""
    rng = np.random.default_rng(0)
    image, mean = rng.integers(0, 256, (1, 256, 256, 3), dtype=np.uint8), rng.uniform(90, 150, (256, 256, 3))
    statistics = Statistics(mean.astype(np.float32), np.ones(3, np.float32), np.eye(3, dtype=np.float32))
    found = np.asarray(augment.evaluation_views(image, statistics, 224, 10, mean_crop))[0]
    centre = mean[16:240, 16:240]
    seen = []
    for i, j in ((16, 16), (0, 0), (0, 32), (32, 0), (32, 32)):
        crop, own = image[0, i : i + 224, j : j + 224].astype(np.float64), mean[i : i + 224, j : j + 224]
        if mean_crop == "same":
            expected = [crop - own, (crop - own)[:, ::-1]]
        else:
            expected = [crop - centre, crop[:, ::-1] - centre]
        for view in expected:
            seen.append([np.abs(view - ours).max() < 1e-3 for ours in found])
    np.testing.assert_array_equal(np.array(seen).sum(axis=0), 1)
    np.testing.assert_array_equal(np.array(seen).sum(axis=1), 1)
    one = np.asarray(augment.evaluation_views(image, statistics, 224, 1, mean_crop))[0]
    np.testing.assert_allclose(one, image[:, 16:240, 16:240] - centre, atol=1e-3)


@pytest.mark.parametrize("recipe", [paper, code2012], ids=["paper", "code2012"])
def test_ten_views_average_probabilities_not_logits(recipe):
    of = small(recipe)
    params = parameters(of.model)
    rng = np.random.default_rng(0)
    image, mean = rng.integers(0, 256, (2, 100, 100, 3), dtype=np.uint8), rng.uniform(90, 150, (100, 100, 3))
    statistics = Statistics(mean.astype(np.float32), np.ones(3, np.float32), np.eye(3, dtype=np.float32))
    of_views = []
    for i, j in ((0, 0), (0, 8), (4, 4), (8, 0), (8, 8)):
        for mirror in (1, -1):
            crop, own = image[:, i : i + 92, j : j + 92], mean[i : i + 92, j : j + 92]
            view = (crop - own)[:, :, ::mirror] if recipe is paper else crop[:, :, ::mirror] - mean[4:96, 4:96]
            of_views.append(logits_there(recipe, params, view))
    apart = 0.5 / np.std(of_views, axis=0).mean()  # random weights see little difference between views
    of_views = [apart * logits for logits in of_views]
    params["fc8"] = jax.tree.map(lambda p: np.float32(apart) * p, params["fc8"])
    predict = steps.make_log_predict_step(of, sharding.make_mesh(1, 1, 2), views=10)
    probabilities = np.exp(predict(params, image, statistics))
    np.testing.assert_allclose(probabilities, softmax(np.array(of_views)).mean(axis=0), rtol=1e-4, atol=1e-6)
    assert np.abs(probabilities - softmax(np.mean(of_views, axis=0))).max() > 1e-3


def test_crops_and_mirror_images_are_shared_by_32():
    """Pixels that hold their own row and column tell the crop; the centre mean neither moves nor turns with it."""
    coordinates = np.zeros((256, 256, 3), np.uint8)
    coordinates[..., 0], coordinates[..., 1] = np.indices((256, 256))
    image = coordinates[None].repeat(128, axis=0)
    mean = np.random.default_rng(0).integers(0, 99, (256, 256, 3)).astype(np.float32)
    statistics = published(256)._replace(mean_image=mean)
    quiet = CODE.augment.model_copy(update={"colour_noise_std": 0.0})

    def places(settings: run_config.Augment) -> list[tuple]:
        found = []
        for view in views(image, settings, statistics, 224):
            candidates = []
            if settings.mean_crop == "centre":
                raw = view + mean[16:240, 16:240]
                candidates.append((*raw[0, :, 1][[0, -1]].astype(int), int(raw[0, 0, 0]), raw))
            else:  # the mean went with the crop: look for the one that leaves coordinates
                for mirror in (1, -1):
                    rows = view[:, ::mirror][:, :, 2]  # the third colour is the mean alone
                    windows = np.lib.stride_tricks.sliding_window_view(-mean[..., 2], (8, 8))[:33, :33]
                    for i, j in np.argwhere((windows == rows[:8, :8]).all(axis=(2, 3))):
                        raw = view + mean[i : i + 224, j : j + 224][:, ::mirror]
                        candidates.append((*raw[0, :, 1][[0, -1]].astype(int), int(raw[0, 0, 0]), raw))
            ((left, right, top, raw),) = candidates
            mirrored = left > right
            first = min(left, right)
            crop = coordinates[top : top + 224, first : first + 224]
            np.testing.assert_array_equal(raw, crop[:, ::-1] if mirrored else crop)
            found.append((top, first, mirrored))
        return found

    shared = places(quiet)
    groups = [set(shared[i : i + 32]) for i in range(0, 128, 32)]
    assert [len(group) for group in groups] == [1, 1, 1, 1] and len(set.union(*groups)) == 4
    apart = places(TEXT.augment.model_copy(update={"colour_noise_std": 0.0}))
    assert len(set(apart)) > 110


def test_2178_crops_and_mirror_images():
    """33 x 33 offsets of 256 - 224, and mirrored, each as often; seen in 2x2 pixels of 34x34."""
    pixels = np.arange(34 * 34, dtype=np.uint16).reshape(34, 34)
    image = np.stack([pixels % 256, pixels // 256, 0 * pixels], axis=-1).astype(np.uint8)
    quiet = TEXT.augment.model_copy(update={"colour_noise_std": 0.0})
    seen = views(np.broadcast_to(image, (40_000, 34, 34, 3)), quiet, published(34), 2).astype(int)
    corner = (seen[:, 0, :, 0] + 256 * seen[:, 0, :, 1]).tolist()
    counts = np.unique([min(pair) + 34 * 34 * (pair[0] > pair[1]) for pair in corner], return_counts=True)[1]
    assert len(counts) == 33 * 33 * 2 == 2178
    expected = 40_000 / 2178
    assert ((counts - expected) ** 2 / expected).sum() == pytest.approx(2177, abs=5 * (2 * 2177) ** 0.5)  # chi squared


def test_shared_crops_do_not_depend_on_the_mesh():
    """A device with half of the batch crops as one with all of it does."""
    statistics, batch = made_up_statistics(), random_batch(16)
    settings = CODE.augment.model_copy(update={"shared_by": 4})

    def program(params, batch, statistics):
        keys, _ = augment.example_keys(0, jnp.int32(0), batch.example)
        return augment.training_view(batch.image, keys, statistics, 28, settings, jnp.int32(0))

    found = {}
    for name, (data, tower, _) in MESHES.items():
        mesh = sharding.make_mesh(data, tower, 2)
        placed = sharding.put(batch, mesh, sharding.EXAMPLES)
        constants = sharding.put(statistics, mesh, sharding.REPLICATED)
        params = sharding.put(np.zeros(2, np.float32), mesh, sharding.TOWERS)
        run = jax.jit(sharding.over_towers(program, mesh, sharding.EXAMPLES))
        found[name] = np.asarray(run(params, placed, constants))
    for name in MESHES:
        np.testing.assert_allclose(found[name], found["1x1"], rtol=1e-5, atol=1e-4, err_msg=name)


def small_code() -> object:
    """The authors' recipe on the layers of tests.conftest.tiny_config, without noise from the second epoch on."""
    values, code = tiny_config(), code2012.get_config()
    for name in ("conv1", "conv2", "conv5"):
        values.model[name].then = code.model[name].then
    values.model.lrn.update(code.model.lrn)
    values.augment.update(code.augment)
    values.augment.update(shared_by=4, colour_noise_epochs=1)
    values.optim.update(code.optim)
    return values


def test_training_as_the_code_does_not_depend_on_the_mesh():
    batches, statistics = [random_batch(seed=i) for i in range(4)], made_up_statistics()
    (losses, first, state), (losses_there, first_there, state_there) = (
        train(small_code(), mesh, statistics, batches) for mesh in ("2x2", "1x1")
    )
    np.testing.assert_allclose(losses, losses_there, rtol=1e-5)
    assert worst_difference(first, first_there) < 1e-5
    assert worst_difference(state.params, state_there.params) < 1e-5


# --- dropout: paper 4.2 ---


@pytest.mark.parametrize(("scaling", "kept", "tested"), [("test", 1.0, 0.5), ("training", 2.0, 1.0)])
def test_dropout_scaling(scaling, kept, tested):
    """Units that are 1: in training 0 or `kept`, half of them each; at test `tested`."""
    assert TEXT.model.dropout_scaling == CODE.model.dropout_scaling == "test"
    assert TEXT.model.dropout_rate == CODE.model.dropout_rate == 0.5
    values = tiny_config()
    values.model.update(dropout_scaling=scaling, num_classes=32)
    values.model.fc7 = None
    spec = config_files.parse(values).model
    params = jax.tree.map(
        lambda p: np.zeros(p.shape, np.float32), jax.eval_shape(lambda: model.init(spec, jax.random.key(0)))
    )
    params["fc6"]["bias"] += 1
    params["fc8"]["kernel"] += np.eye(32, dtype=np.float32).reshape(32, 2, 16).swapaxes(0, 1)
    image = np.zeros((400, 28, 28, 3), np.float32)
    run = jax.vmap(lambda p, keys: model.logits(spec, p, image, keys), (0, None), axis_name=sharding.TOWER)
    trained = np.asarray(run(params, jax.random.split(jax.random.key(0), 400)))
    assert set(np.unique(trained)) == {0.0, kept}
    assert (trained > 0).mean() == pytest.approx(0.5, abs=0.02)
    assert (np.asarray(run(params, None)) == tested).all()


# --- locally connected layers: paper 3.3, the network for CIFAR-10 ---


@pytest.mark.parametrize(("stride", "padding"), [(1, (1, 1)), (2, (0, 1))])
def test_a_locally_connected_layer(stride, padding):
    """Kernels [H', W', k * k * C, F] of their own for every place, a patch's rows slowest."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, 7, 7, 3))
    places = (7 + sum(padding) - 3) // stride + 1
    kernel = rng.normal(size=(places, places, 3 * 3 * 3, 4))
    padded = np.pad(image, [(0, 0), padding, padding, (0, 0)])
    there = np.zeros((2, places, places, 4))
    for i, j, c, row, column in np.ndindex(places, places, 3, 3, 3):
        pixel = padded[:, stride * i + row, stride * j + column, c]
        there[:, i, j] += pixel[:, None] * kernel[i, j, 9 * row + 3 * column + c]
    ours = ops.local_conv(image.astype(np.float32), kernel.astype(np.float32), 3, stride, padding)
    np.testing.assert_allclose(ours, there, rtol=1e-5, atol=1e-5)


# --- README ---


def test_every_difference_is_in_the_readme():
    """The keys in which the recipes differ, each by its full name."""
    readme = (ROOT / "README.md").read_text()
    ours, theirs = (flat(recipe.get_config()) for recipe in (paper, code2012))
    different = [key for key, value in theirs.items() if value is not None and ours.get(key) != value]
    assert not [key for key in different if f"`{key}`" not in readme]
