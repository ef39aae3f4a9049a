"""The recipes and variants under configs/: their shapes, and that a small form of each trains."""

import math
from pathlib import Path

import jax
import numpy as np
import pytest

from alexnet_jax import model
from alexnet_jax.configs import code2012, paper, variants
from alexnet_jax.configs.variants import (
    adamw,
    bias,
    caffe,
    cifar_four_layer,
    cifar_lrn,
    from_pretrained,
    no_colour_noise,
    no_dropout,
    no_links,
    no_lrn,
    non_overlapping_pooling,
    one_gpu,
    one_weird_trick,
    pooling_147,
    six_conv,
    tanh,
    without,
)
from alexnet_jax.run import config_files

PAPER = 60_965_224
PARAMETERS = {  # with 1000 classes; computed by hand or from the authors' logs
    "code2012": (code2012.get_config, PAPER),
    "one_gpu": (one_gpu.get_config, 59_798_312),
    "no_lrn": (no_lrn.get_config, PAPER),
    "non_overlapping_pooling": (non_overlapping_pooling.get_config, PAPER),
    "pooling_147": (pooling_147.get_config, PAPER),
    "no_links": (no_links.get_config, 60_698_712),
    "tanh": (tanh.get_config, PAPER),
    "no_colour_noise": (no_colour_noise.get_config, PAPER),
    "no_dropout": (no_dropout.get_config, PAPER),
    "without conv3": (lambda: without.get_config("conv3"), PAPER - 885_120 - 663_936 + 9 * 256 * 384 + 384),
    "without conv2": (lambda: without.get_config("conv2"), PAPER - 307_456 - 885_120 + 9 * 96 * 384 + 384),
    "without conv4": (lambda: without.get_config("conv4"), PAPER - 663_936),
    "without conv5": (lambda: without.get_config("conv5"), PAPER - 442_624 + 36 * 128 * 4096),
    "without fc6": (lambda: without.get_config("fc6"), PAPER - 37_752_832 - 16_781_312 + 37_752_832),
    "without fc7": (lambda: without.get_config("fc7"), PAPER - 16_781_312),
    "six_conv": (six_conv.get_config, 61_555_304),
    "from_pretrained": (from_pretrained.get_config, 61_555_304),
    "bias": (bias.get_config, PAPER),
    "adamw": (adamw.get_config, PAPER),
    "one_weird_trick": (one_weird_trick.get_config, 61_100_840),
    "caffe": (caffe.get_config, PAPER),
}


def shapes(spec):
    return jax.eval_shape(lambda: model.init(spec, jax.random.key(0)))


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name):
    make, expected = PARAMETERS[name]
    parsed = config_files.parse(make())
    assert config_files.from_json(config_files.to_json(parsed)) == parsed
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes(parsed.model))) == expected


def test_every_variant_is_tested():
    files = {path.stem for path in Path(variants.__file__).parent.glob("*.py")} - {
        "__init__",
        "cifar_four_layer",
        "cifar_lrn",
    }  # these have a test of their own
    assert files <= {name.split()[0] for name in PARAMETERS}


def test_the_four_layer_network_for_cifar():
    for make in (cifar_four_layer.get_config, cifar_lrn.get_config):
        spec = config_files.parse(make()).model
        found = jax.tree.map(lambda leaf: leaf.shape, shapes(spec))
        assert found["conv1"]["kernel"] == (1, 5, 5, 3, 64)
        assert found["conv3"] == {"kernel": (1, 6, 6, 3 * 3 * 64, 32), "bias": (1, 6, 6, 32)}
        assert found["fc8"]["kernel"] == (1, 6 * 6 * 32, 10)
        params = model.init(spec, jax.random.key(0))
        image = np.random.default_rng(0).normal(size=(2, 24, 24, 3)).astype(np.float32)
        run = jax.vmap(lambda p, spec=spec, x=image: model.logits(spec, p, x, None), axis_name="tower")
        assert run(params).shape == (1, 2, 10)


def test_every_difference_of_the_code_stands_alone():
    """Each key that code2012 changes can be put back to the paper's value, and the config is still a valid one."""
    ours, theirs = (flat(module.get_config()) for module in (paper, code2012))
    different = [key for key in theirs if ours.get(key) != theirs[key] and key in ours]
    assert len(different) >= 17
    for key in different:
        values = code2012.get_config()
        *sections, last = key.split(".")
        section = values
        for name in sections:
            section = section[name]
        section[last] = ours[key]
        config_files.parse(values)


def flat(values, prefix="") -> dict:
    found: dict = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if hasattr(value, "items") else {prefix + key: value}
    return found
