"""The variants of the paper's network, the four-layer network, and the networks of `reproduce`."""

import json
import math
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from alexnet_jax import model
from alexnet_jax.configs import code2012, digits, paper, scales, variants
from alexnet_jax.errors import UserError
from alexnet_jax.run import config_files
from tests.recipes import flat

PAPER = 60_965_224
PARAMETERS = {  # with 1000 classes; by hand, or from the authors' logs
    "one_gpu": 59_798_312,
    "one_tower": PAPER + 25 * 48 * 256 + 9 * 192 * 384 + 9 * 192 * 256,
    "no_links": 60_698_712,
    "without=conv3": PAPER - 885_120 - 663_936 + 9 * 256 * 384 + 384,
    "without=conv2": PAPER - 307_456 - 885_120 + 9 * 96 * 384 + 384,
    "without=conv4": PAPER - 663_936,
    "without=conv5": PAPER - 442_624 + 36 * 128 * 4096,
    "without=fc6": PAPER - 37_752_832 - 16_781_312 + 37_752_832,
    "without=fc7": PAPER - 16_781_312,
    "batch_norm": PAPER + 3 * (96 + 256 + 384 + 384 + 256 + 4096 + 4096),
    "width": 592_576 + 4608 * 2048 + 2048 + 2048 * 2048 + 2048 + 2_049_000,
    "six_conv": 61_555_304,
    "from_pretrained": 61_555_304,
    "one_weird_trick": 61_100_840,
    "cifar_one_fc": 2_472_266,
    "cntk": 62_003_496,
    "slim": 50_303_912,
}

# Every key in which a variant differs from the paper's config, and its value there.
BIASES = ("conv2.init_bias", "conv4.init_bias", "conv5.init_bias", "fc6.init_bias", "fc7.init_bias")
HE = ("conv2", "conv3", "conv4", "conv5", "fc6", "fc7")
POOL, NORM_POOL, POOL_NORM = ("activation", "pool"), ("activation", "lrn", "pool"), ("activation", "pool", "lrn")
CONV6 = dict(features=256, kernel=3, stride=1, padding=(1, 1), exchange=True, shared=True, batch_norm=False)
SIX_CONV = {
    f"model.conv6.{key}": value
    for key, value in (CONV6 | dict(then=("activation",), init_std=0.03, init_bias=1.0)).items()
}
CAFFE = {f"model.{key}": 0.1 for key in BIASES} | {
    "model.image_size": 227,
    "model.conv1.padding": (0, 0),
    "model.lrn.k": 1.0,
    "model.lrn.alpha": 2e-5,
    "model.lrn.across_towers": True,
    "model.dropout_scaling": "training",
    "model.fc6.init_std": 0.005,
    "model.fc7.init_std": 0.005,
    "optim.weights.max_drops": 4,
    "optim.biases.lr_multiplier": 2.0,
    "optim.biases.weight_decay": 0.0,
    "optim.biases.max_drops": 4,
    "optim.schedule.name": "steps",
    "optim.schedule.boundaries_epochs": (20, 40, 60, 80),
    "augment.colour_noise_std": 0.0,
    "train.batch_size": 256,
}
WEIRD = {
    "model.towers": 1,
    "model.conv1.features": 64,
    "model.conv2.features": 192,
    "model.conv4.features": 256,
    "model.conv3.init_std": 0.03,
    "model.conv4.init_std": 0.03,
    "model.conv5.init_std": 0.03,
    "model.conv1.padding": (2, 2),
    "model.conv1.then": POOL,
    "model.conv2.then": POOL,
}
CHANGES: dict[str, dict[str, Any]] = {
    "tanh": {"model.activation": "tanh"},
    "one_gpu": {
        "model.towers": 1,
        "model.conv1.features": 48,
        "model.conv2.features": 128,
        "model.conv3.features": 192,
        "model.conv4.features": 192,
    },
    "no_links": {
        "model.conv3.exchange": False,
        "model.fc6.exchange": False,
        "model.fc7.exchange": False,
        "model.fc6.features": 6600,
        "model.fc7.features": 6600,
    },
    "no_lrn": {"model.conv1.then": POOL, "model.conv2.then": POOL},
    "non_overlapping_pooling": {"model.pool.window": 2},
    "pooling_147": {
        "model.pool.window": 2,
        "model.pool.ceil": True,
        "model.conv2.padding": (1, 1),
        "model.conv5.padding": (0, 0),
    },
    "no_colour_noise": {"augment.colour_noise_std": 0.0},
    "no_dropout": {"model.dropout_rate": 0.0},
    "bias": {f"model.{key}": 0.0 for key in BIASES},
    "bias=0.1": {f"model.{key}": 0.1 for key in BIASES},
    "without": {"model.conv4": None},
    "without=conv2": {"model.conv2": None, "model.conv1.then": (*NORM_POOL, "pool")},
    "without=conv3": {"model.conv3": None, "model.conv4.exchange": True},
    "without=conv4": {"model.conv4": None},
    "without=conv5": {"model.conv5": None, "model.conv4.then": POOL},
    "without=fc6": {"model.fc6": None},
    "without=fc7": {"model.fc7": None},
    "batch_norm": {f"model.{key}": 0.0 for key in BIASES}
    | {f"model.{name}.batch_norm": True for name in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7")}
    | {"model.conv1.then": POOL, "model.conv2.then": POOL},
    "resized_crops": {"augment.crop": "resized"},
    "six_conv": SIX_CONV,
    "from_pretrained": SIX_CONV
    | {"start.layers": ("conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "fc6", "fc7")},
    "caffe": CAFFE,
    "caffenet": {key: value for key, value in CAFFE.items() if not key.endswith("init_bias")}
    | {"model.conv1.then": POOL_NORM, "model.conv2.then": POOL_NORM},
    "cntk": {key: value for key, value in CAFFE.items() if not re.search("across_towers|biases.(lr|weight)", key)}
    | {
        "model.towers": 1,
        "model.conv2.features": 192,
        "optim.schedule.boundaries_epochs": (25, 50, 75, 100),
        "train.epochs": 112,
    },
    "one_weird_trick": WEIRD,
    "cifar_one_fc": WEIRD
    | {
        "model.image_size": 32,
        "model.num_classes": 10,
        "model.conv1.padding": (5, 5),
        "model.pool.window": 2,
        "model.fc6": None,
        "model.fc7": None,
        "data.size": 32,
    },
    "slim": {key: value for key, value in WEIRD.items() if key not in ("model.conv4.features", "model.conv1.padding")}
    | {f"model.{layer}.init_bias": 0.1 for layer in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7")}
    | {  # Glorot's: 2 / (inputs and outputs of a kernel)
        "model.conv1.padding": (0, 0),
        "model.conv1.init_std": math.sqrt(2 / (121 * 3 + 121 * 64)),
        "model.conv2.init_std": math.sqrt(2 / (25 * 64 + 25 * 192)),
        "model.conv3.init_std": math.sqrt(2 / (9 * 192 + 9 * 384)),
        "model.conv4.init_std": math.sqrt(2 / (9 * 384 + 9 * 384)),
        "model.conv5.init_std": math.sqrt(2 / (9 * 384 + 9 * 256)),
        "model.fc6.init_std": 0.0044,
        "model.fc7.init_std": 0.0044,
        "model.fc8.init_std": 0.0044,
        "model.dropout_scaling": "training",
        "optim.biases.weight_decay": 0.0,
        "augment.colour_noise_std": 0.0,
    },
    "epochs=31": {
        "train.epochs": 31,
        "optim.schedule.name": "steps",
        "optim.schedule.boundaries_epochs": (8, 17, 26),
    },
    "half_size": {
        "data.size": 128,
        "model.image_size": 112,
        "model.conv1.stride": 2,
        "model.conv1.padding": (3, 4),
    },
    "paper_start": {},  # the paper's own
    "width": {f"model.conv{i}.features": n // 2 for i, n in enumerate((96, 256, 384, 384, 256), start=1)}
    | {f"model.{layer}.features": 2048 for layer in ("fc6", "fc7")},
    "he": {f"model.{layer}.init_std": "he" for layer in HE} | {f"model.{key}": 0.0 for key in BIASES},
    "grey_levels": {
        "model.conv1.init_std": (2 / 363) ** 0.5 / 60,
        "optim.layers.conv1.lr_multipliers": ((0, 0.001, 0.001),),
        "optim.layers.conv1.weight_decay": None,
    },
    "cosine": {"optim.schedule.name": "cosine", "optim.schedule.warmup_epochs": 5.0},
    "nesterov": {"optim.name": "nesterov"},
    "adamw": {
        "optim.name": "adamw",
        "optim.learning_rate": 3e-4,
        "optim.weights.weight_decay": 0.05,
        "optim.biases.weight_decay": 0.0,
    },
    "one_tower": {"model.towers": 1},
    "label_smoothing": {"train.label_smoothing": 0.1},
    "ema": {"optim.ema_decay": 0.999},
    "one_device": {"mesh.tower": 1},
    "data_parallel": {"mesh.data": 2, "mesh.tower": 1},
    "no_lrn+tanh": {"model.conv1.then": POOL, "model.conv2.then": POOL, "model.activation": "tanh"},
}


def changes(name: str) -> dict:
    """The keys in which a config differs from the paper's, with its values. A removed layer is one key, None."""
    text, other = flat(paper.get_config()), flat(config_files.load(name))
    removed = {key for key, value in other.items() if value is None and key not in text}
    assert all(key in other or key.rpartition(".")[0] in removed or text[key] is None for key in text)
    return {key: value for key, value in other.items() if key not in text or text[key] != value}


@pytest.mark.parametrize("variant", CHANGES)
def test_a_variant_changes_these_keys_and_no_others(variant):
    changed = changes(f"variants:{variant}").items()
    rounded = {key: round(value, 9) if isinstance(value, float) else value for key, value in changed}
    assert rounded == {key: round(v, 9) if isinstance(v, float) else v for key, v in CHANGES[variant].items()}


def test_every_variant_is_tested():
    """code2012 is a recipe, with tests of its own."""
    names = {name.partition("=")[0] for name in CHANGES}
    assert names - {"no_lrn+tanh"} == set(variants.VARIANTS) - {"code2012"}
    assert set(PARAMETERS) <= set(CHANGES)


def shapes(spec):
    return jax.eval_shape(lambda: model.init(spec, jax.random.key(0)))


@pytest.mark.slow
@pytest.mark.parametrize("variant", [*CHANGES, "code2012"])
def test_parameters(variant):
    parsed = config_files.parse(config_files.load(f"variants:{variant}"))
    assert config_files.from_json(config_files.to_json(parsed)) == parsed
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes(parsed.model)))
    assert parameters == PARAMETERS.get("without=conv4" if variant == "without" else variant, PAPER)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (
            "no_norm",
            r"there is no variant no_norm; give one of code2012, tanh, .*data_parallel, or several joined by \+",
        ),
        ("tanh+", "no variant is given; give one of code2012, tanh"),
        ("tanh=2", "the variant tanh takes no value; write tanh instead of tanh=2"),
        ("without=conv1", "without=conv1 names no layer that can be removed; give one of conv2, .*fc7"),
        ("without=fc8", "without=fc8 names no layer that can be removed"),
        ("bias=x", "could not convert string to float: 'x'"),
    ],
)
def test_an_unknown_variant_is_an_error_that_lists_them(argument, message):
    with pytest.raises(UserError, match=message) as error:
        config_files.load(f"variants:{argument}")
    assert str(error.value).startswith(f"the config variants:{argument} fails: ")


def test_two_neighbours_can_be_removed():
    model = config_files.parse(config_files.load("variants:without=conv4+without=conv5")).model
    assert [*model.layers()] == ["conv1", "conv2", "conv3", "fc6", "fc7", "fc8"]
    assert model.conv3 and model.conv3.then == POOL


def test_variants_apply_to_other_networks():
    values = digits.get_config()
    variants.apply(values, ("no_links", "tanh"))
    assert values.model.fc6.features == 824 and not values.model.conv3.exchange and values.model.activation == "tanh"
    assert values.model.image_size == 28


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar_four_layer", "cifar_four_layer:lrn"])
def test_the_four_layer_network_for_cifar(name):
    spec = config_files.parse(config_files.load(name, {"model.conv3.init_std": "he"})).model
    leaves = jax.tree.map(lambda leaf: leaf.shape, shapes(spec))
    assert leaves["conv1"]["kernel"] == (1, 5, 5, 3, 64)
    assert leaves["conv3"] == {"kernel": (1, 6, 6, 3 * 3 * 64, 32), "bias": (1, 6, 6, 32)}
    assert leaves["fc8"]["kernel"] == (1, 6 * 6 * 32, 10)
    params = model.init(spec, jax.random.key(0))
    image = np.random.default_rng(0).normal(size=(2, 24, 24, 3)).astype(np.float32)
    assert params["conv3"]["kernel"].std() == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.01)
    run = jax.vmap(lambda p: model.logits(spec, p, image, None), axis_name="tower")
    assert run(params).shape == (1, 2, 10)


def test_arguments_of_the_other_configs():
    with pytest.raises(UserError, match="the argument norm is unknown; write cifar_four_layer or cifar_four_layer:lrn"):
        config_files.load("cifar_four_layer:norm")
    for width in ("half", "nan", "0", "9"):
        with pytest.raises(UserError, match=f"the width {width} is no number from 0.02 to 4; 0.5 is half"):
            config_files.load(f"photos:{width}")
    quarter = config_files.parse(config_files.load("photos:0.25")).model
    assert [conv.features for _, conv in quarter.convs()] == [24, 64, 96, 96, 64]
    assert [dense.features for _, dense in quarter.hidden()] == [1024, 1024]
    for name in ("scales", "scales:large"):
        with pytest.raises(UserError, match=r"there is no scale .*; write scales:NAME with one of small, "):
            config_files.load(name)


def test_configs_stay_as_they_are():
    """configs.json holds the paper's config, and what others change in it, as of the published results."""
    stored = json.loads((Path(__file__).parent / "configs.json").read_text())
    assert json.loads(json.dumps(flat(paper.get_config()))) == stored.pop("paper")
    assert {f"scales:{name}" for name in scales.SCALES} < set(stored)
    for name, expected in stored.items():
        assert json.loads(json.dumps(changes(name))) == expected, name


def test_every_difference_of_the_code_stands_alone():
    """With any single key of code2012 set back to the paper's value, the config is still valid."""
    text, code = flat(paper.get_config()), flat(code2012.get_config())
    different = [key for key in code if text.get(key) != code[key] and key in text]
    assert len(different) >= 17
    for key in different:
        values = code2012.get_config()
        *sections, last = key.split(".")
        section = values
        for name in sections:
            section = section[name]
        section[last] = text[key]
        config_files.parse(values)
