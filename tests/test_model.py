"""The network's shapes and counts, against the paper and the authors' code."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import model, model_config, sharding
from alexnet_jax.configs import paper
from alexnet_jax.run import config_files

# Layer: the kernel of a tower, the output of a tower before pooling, the parameters of the whole layer.
TABLE = {
    "conv1": ((11, 11, 3, 48), (55, 55, 48), 34_944),
    "conv2": ((5, 5, 48, 128), (27, 27, 128), 307_456),
    "conv3": ((3, 3, 256, 192), (13, 13, 192), 885_120),
    "conv4": ((3, 3, 192, 192), (13, 13, 192), 663_936),
    "conv5": ((3, 3, 192, 128), (13, 13, 128), 442_624),
    "fc6": ((9216, 2048), (2048,), 37_752_832),
    "fc7": ((4096, 2048), (2048,), 16_781_312),
    "fc8": ((4096, 500), (500,), 4_097_000),
}


def paper_model(**changes) -> model_config.Model:
    values = paper.get_config()
    for name, change in changes.items():
        if isinstance(change, dict) and values.model[name] is not None:
            values.model[name].update(change)
        else:
            values.model[name] = change
    return config_files.parse(values).model


def shapes_of(spec: model_config.Model) -> dict:
    return jax.eval_shape(lambda: model.init(spec, jax.random.key(0)))


def init(spec: model_config.Model) -> dict:
    return jax.jit(lambda key: model.init(spec, key))(jax.random.key(0))


def count(params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_the_paper_table():
    spec = paper_model()
    params = shapes_of(spec)
    assert list(params) == list(TABLE)

    def run(params):
        image = jnp.zeros((1, 224, 224, 3))
        capture = lambda module, _: isinstance(module, (model.Conv, model.Dense))  # noqa: E731
        return model.Tower(spec).apply({"params": params}, image, None, capture_intermediates=capture)[1]

    outputs = jax.eval_shape(jax.vmap(run, axis_name=sharding.TOWER), params)[model.INTERMEDIATES]
    neurons = 0
    for name, (kernel, output, parameters) in TABLE.items():
        assert params[name]["kernel"].shape == (2, *kernel), name
        assert params[name]["bias"].shape == (2, kernel[-1]), name
        assert count(params[name]) == parameters, name
        assert outputs[name]["__call__"][0].shape == (2, 1, *output), name
        neurons += 2 * int(np.prod(output))
    assert count(params) == 60_965_224
    assert neurons == 659_272  # "650,000 neurons", paper 1


@pytest.mark.parametrize(
    ("changes", "parameters"),
    [
        # Other networks of the authors' code: half of the network on one GPU, and six convolutional layers.
        (
            {
                "towers": 1,
                **{f"conv{i}": {"features": n} for i, n in enumerate((48, 128, 192, 192), start=1)},
            },
            59_798_312,
        ),
        (
            {
                "conv5": {"then": paper.POOL},
                "conv6": paper.conv(256, 3, (1, 1), stride=1, exchange=True, then=paper.PLAIN, init_bias=1.0),
            },
            61_555_304,
        ),
        ({"conv4": None}, 60_965_224 - 663_936),
        ({"fc7": None}, 60_965_224 - 16_781_312),
    ],
)
def test_variants(changes, parameters):
    assert count(shapes_of(paper_model(**changes))) == parameters


def test_initial_values(tiny):
    tiny.model.conv2.init_bias = 1.0
    spec = config_files.parse(tiny).model
    params = init(spec)
    assert list(params) == list(spec.layers())
    for name, layer in spec.layers().items():
        kernel = np.asarray(params[name]["kernel"])
        inputs = dict(conv2=25 * 4, conv3=9 * 8, conv4=9 * 8, conv5=9 * 8, fc6=4 * 8, fc7=32)  # of He's layers
        std = math.sqrt(2 / inputs[name]) if layer.init_std == "he" else layer.init_std
        assert kernel.std() == pytest.approx(std, rel=0.2), name
        assert (params[name]["bias"] == layer.init_bias).all(), name
        assert not (kernel[0] == kernel[1]).any(), f"both towers of {name} start alike"


def forward(spec, params, image, keys):
    return jax.vmap(lambda p: model.logits(spec, p, image, keys), axis_name=sharding.TOWER)(params)


@pytest.mark.slow
@pytest.mark.parametrize("change", ["exchange", "lrn", "pool", "activation", "dropout"])
def test_every_ingredient_matters(tiny, change):
    """Switching an ingredient off in the config changes the output; without the exchange, the shapes too."""
    on = config_files.parse(tiny).model
    if change == "activation":
        tiny.model.activation = "tanh"
    elif change == "dropout":
        tiny.model.dropout_rate = 0.0
    elif change == "exchange":
        tiny.model.conv3.exchange = False
    else:
        tiny.model.conv2.then = tuple(name for name in tiny.model.conv2.then if name != change)
    off = config_files.parse(tiny).model
    before, after = (init(spec) for spec in (on, off))
    image = np.random.default_rng(0).normal(size=(2, 28, 28, 3)).astype(np.float32) * 50
    assert not np.allclose(forward(on, before, image, None), forward(off, after, image, None))
    if change == "exchange":
        assert after["conv3"]["kernel"].shape[3] * 2 == before["conv3"]["kernel"].shape[3]


@pytest.mark.slow
def test_dropout(tiny):
    """Training drops half of the units, different ones in each tower and example; at test time all are halved."""
    tiny.model.fc7 = None
    tiny.model.fc8.init_std = 1.0
    spec = config_files.parse(tiny).model
    params = init(spec)
    params["fc6"] = jax.tree.map(jnp.zeros_like, params["fc6"]) | {"bias": jnp.ones((2, 16))}
    params["fc8"] = {"kernel": jnp.stack([jnp.eye(32)[:, :5], jnp.eye(32)[:, 16:21]]), "bias": jnp.zeros((2, 5))}
    image = np.zeros((500, 28, 28, 3), np.float32)
    units = np.asarray(forward(spec, params, image, jax.random.split(jax.random.key(1), 500)))  # five from each tower
    assert set(np.unique(units)) == {0.0, 1.0}
    assert units.mean() == pytest.approx(0.5, abs=0.02)
    assert (units[0] != units[1]).mean() == pytest.approx(0.5, abs=0.05)
    assert (units[:, 0] != units[:, 1]).any() and (units[..., 0] != units[..., 1]).any()
    np.testing.assert_array_equal(forward(spec, params, image[:1], None), 0.5 * np.ones((2, 1, 5), np.float32))


def test_classes_that_do_not_divide_by_the_towers(tiny):
    tiny.model.num_classes = 7
    spec = config_files.parse(tiny).model
    params = init(spec)
    logits = np.asarray(forward(spec, params, np.zeros((1, 28, 28, 3), np.float32), None))
    assert logits.shape == (2, 1, 4)
    assert logits[1, 0, 3] == np.finfo(np.float32).min
    assert np.isfinite(logits.reshape(-1)[:7]).all() and (np.abs(logits.reshape(-1)[:7]) < 100).all()


@pytest.mark.slow
def test_bfloat16_is_used_between_layers(tiny):
    spec = config_files.parse(tiny).model
    params = init(spec)
    image = np.random.default_rng(0).normal(size=(2, 28, 28, 3)).astype(np.float32) * 50
    exact = forward(spec, params, image, None)
    half = forward(spec, params, jnp.asarray(image, jnp.bfloat16), None)
    assert half.dtype == jnp.float32
    assert 1e-4 < np.abs(half - exact).max() / np.abs(exact).max() < 0.05
