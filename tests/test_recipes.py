"""The networks of the two recipes, the paper's text and the authors' program, against NumPy in float64.

test_recipe_images.py and test_recipe_training.py hold the same for their images and their training. Expected values
never come from the package: they are those of recipes.py, of the paper, and of the authors' configs and logs.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import model, model_config, ops, pooling, sharding
from alexnet_jax.configs import code2012, paper
from alexnet_jax.run import config_files
from tests import recipes
from tests.conftest import ROOT
from tests.recipes import CODE, TEXT, flat
from tests.tiny import tiny_config

# --- Normalization: paper 3.3; within maps only in the authors' code ---


def our_lrn(lrn: model_config.Lrn) -> Callable:
    return lambda x: ops.local_response_norm(x, lrn.k, lrn.n, lrn.alpha, lrn.beta)


def our_map_norm(x):
    settings = CODE.model.map_norm
    return ops.map_norm(x, settings.n, settings.alpha, settings.beta)


NORMS: dict[str, tuple[Callable, Callable]] = {
    "lrn, paper": (our_lrn(TEXT.model.lrn), lambda x: recipes.lrn(x, alpha=1e-4)),
    "lrn, code": (our_lrn(CODE.model.lrn), lambda x: recipes.lrn(x, alpha=2e-5)),
    "map_norm": (our_map_norm, recipes.map_norm),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NORMS)
def test_normalizations_and_their_gradients(name):
    """Where the sums are at least as large as the constant: values, and gradients against differences in float64."""
    ours, reference = NORMS[name]
    rng = np.random.default_rng(0)
    x = 150 * rng.normal(size=(2, 4, 6, 8))
    weights = rng.normal(size=x.shape)
    np.testing.assert_allclose(ours(x.astype(np.float32)), reference(x), rtol=2e-6, atol=1e-5)
    grad = jax.grad(lambda x: (ours(x) * weights.astype(np.float32)).sum())(jnp.asarray(x, jnp.float32))
    differences = np.empty_like(x)
    for index in np.ndindex(*x.shape):
        shift = np.zeros_like(x)
        shift[index] = 1e-3
        differences[index] = ((reference(x + shift) - reference(x - shift)) * weights).sum() / 2e-3
    np.testing.assert_allclose(grad, differences, rtol=1e-4, atol=1e-5 * np.abs(differences).max())


def test_the_order_of_activation_normalization_and_pooling():
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


# --- Geometry ---


def test_the_last_windows_of_conv1_extend_three_pixels_beyond_the_image():
    rng = np.random.default_rng(0)
    layer = TEXT.model.conv1
    assert (layer.padding, layer.stride, layer.kernel) == ((0, 3), 4, 11)
    assert CODE.model.conv1 == layer.model_copy(update={"then": CODE.model.conv1.then})
    image, kernel = rng.normal(size=(1, 224, 224, 3)), rng.normal(size=(11, 11, 3, 2))
    inputs = [x.astype(np.float32) for x in (image, kernel, np.zeros(2))]
    maps = np.asarray(ops.conv(*inputs, layer.stride, layer.padding))
    assert maps.shape == (1, 55, 55, 2)
    for i, j in ((0, 0), (53, 20), (54, 30), (12, 54), (54, 54)):
        window = image[0, 4 * i : 4 * i + 11, 4 * j : 4 * j + 11]  # ends where the image ends
        assert window.shape[:2] == (8 if i == 54 else 11, 8 if j == 54 else 11)
        expected = np.einsum("ijc,ijcf->f", window, kernel[: window.shape[0], : window.shape[1]])
        np.testing.assert_allclose(maps[0, i, j], expected, rtol=1e-4, atol=1e-4)


USUAL = [55, 27, 27, 13, 13, 13, 13, 6]  # conv1 and pool, conv2 and pool, conv3, conv4, conv5 and pool
GEOMETRY = {
    "paper": USUAL,
    "code2012": USUAL,
    "variants:one_gpu": USUAL,
    "variants:one_weird_trick": USUAL,
    "variants:caffe": USUAL,
    "variants:no_links": USUAL,
    "variants:no_lrn": USUAL,
    "variants:non_overlapping_pooling": USUAL,
    "variants:pooling_147": [55, 28, 26, 13, 13, 13, 11, 6],
    "variants:six_conv": [*USUAL, 6],
    "variants:without=conv2": [55, 27, 13, 13, 13, 13, 6],
    "variants:without=conv3": [55, 27, 27, 13, 13, 13, 6],
    "variants:without=conv4": [55, 27, 27, 13, 13, 13, 6],
    "variants:without=conv5": [55, 27, 27, 13, 13, 13, 6],
}


@pytest.mark.parametrize("name", GEOMETRY)
def test_sizes_of_the_maps(name, monkeypatch):
    """After each convolution and each pooling, and 6 x 6 before fc6."""
    spec = config_files.parse(config_files.load(name)).model
    sizes, max_pool = [], pooling.max_pool

    def record_conv(call, arguments, keywords, context):
        output = call(*arguments, **keywords)
        if isinstance(context.module, model.Conv) and context.method_name == "__call__":
            sizes.append(output.shape[1:3])
        return output

    def record_pool(*arguments):
        output = max_pool(*arguments)
        sizes.append(output.shape[-3:-1])
        return output

    monkeypatch.setattr(pooling, "max_pool", record_pool)
    with nn.intercept_methods(record_conv):
        params = jax.eval_shape(lambda: model.init(spec, jax.random.key(0)))
    assert sizes == [(size, size) for size in GEOMETRY[name]]
    channels = spec.convs()[-1][1].features // (1 if spec.fc6 and spec.fc6.exchange else spec.towers)
    assert params["fc6"]["kernel"].shape[1] == 6 * 6 * channels


# --- The whole network ---


def our_logits(spec: model_config.Model, params: dict, image: np.ndarray) -> np.ndarray:
    run = jax.jit(jax.vmap(lambda p, x: model.logits(spec, p, x, None), (0, None), axis_name=sharding.TOWER))
    return np.concatenate(list(np.asarray(run(params, image.astype(np.float32)))), axis=-1)


@pytest.mark.slow
@pytest.mark.parametrize("ceil", [False, True], ids=["whole windows", "ceil"])
@pytest.mark.parametrize("recipe", [paper, code2012], ids=["paper", "code2012"])
def test_the_whole_network(recipe, ceil):
    spec = recipes.small(recipe, ceil).model
    params = recipes.large_parameters(spec)
    image = np.random.default_rng(1).uniform(-128, 128, (3, 92, 92, 3)).astype(np.float32)
    expected = recipes.logits(recipe, params, image, ceil)
    scale = np.abs(expected).max()
    assert np.abs(our_logits(spec, params, image) - expected).max() < 1e-5 * scale
    others = recipes.logits(code2012 if recipe is paper else paper, params, image, ceil)
    assert np.abs(others - expected).max() > 0.01 * scale  # the recipes can be told apart


@pytest.mark.slow
@pytest.mark.parametrize(("scaling", "kept", "tested"), [("test", 1.0, 0.5), ("training", 2.0, 1.0)])
def test_dropout_scaling(scaling, kept, tested):
    """Units of 1 (paper 4.2): in training half of them are 0 and the others `kept`; at test time all are `tested`."""
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


@pytest.mark.parametrize(("stride", "padding"), [(1, (1, 1)), (2, (0, 1))])
def test_a_locally_connected_layer(stride, padding):
    """Each position has kernels of its own, [H', W', k * k * C, F], with a patch's rows slowest (paper 3.3)."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, 7, 7, 3))
    positions = (7 + sum(padding) - 3) // stride + 1
    kernel = rng.normal(size=(positions, positions, 3 * 3 * 3, 4))
    padded = np.pad(image, [(0, 0), padding, padding, (0, 0)])
    expected = np.zeros((2, positions, positions, 4))
    for i, j, c, row, column in np.ndindex(positions, positions, 3, 3, 3):
        pixel = padded[:, stride * i + row, stride * j + column, c]
        expected[:, i, j] += pixel[:, None] * kernel[i, j, 9 * row + 3 * column + c]
    ours = ops.local_conv(image.astype(np.float32), kernel.astype(np.float32), 3, stride, padding)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


# --- The documents ---


def test_every_difference_is_in_the_documents():
    """The page names each key in which the recipes differ in full."""
    page = (ROOT / "docs/recipes.md").read_text()
    text, code = (flat(recipe.get_config()) for recipe in (paper, code2012))
    different = [key for key, value in code.items() if value is not None and text.get(key) != value]
    assert different and not [key for key in different if f"`{key}`" not in page]
