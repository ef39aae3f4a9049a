"""`train.matmul_precision`: which products it reaches, and that it is part of a run's identity."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import augment, compiling, ops, sharding, steps
from alexnet_jax.inference import activations
from alexnet_jax.run import config_files, workdir
from tests.test_sharding import lowered_step
from tests.tiny import tiny_config


def precisions(lowered) -> list[str]:
    """Those of every product and convolution in a program."""
    found = re.findall(r"precision(?:_config)? = \[(?:#stablehlo<precision )?(\w+)", lowered.as_text())
    products = re.findall(r"stablehlo\.(?:dot_general|convolution)", lowered.as_text())
    assert len(found) == len(products) > 0
    return found


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["default", "high", "highest"])
def test_every_product_has_the_precision_of_the_config(precision):
    """In training, both directions, in prediction and in what is computed of single layers."""
    values = tiny_config()
    values.train.matmul_precision = precision
    config, mesh = config_files.parse(values), sharding.make_mesh(1, 1, 2)
    size, params = config.data.size, steps.abstract_state(config, mesh).params
    image = jax.ShapeDtypeStruct((8, size, size, 3), jnp.uint8)
    shapes = ((size, size, 3), (3,), (3, 3))
    inputs = params, image, augment.Statistics(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes))
    programs = [
        lowered_step(values, 1, 1, 8),
        steps.make_log_predict_step(config, mesh, views=1).lower(*inputs),
        activations.make_features_step(config, mesh, ("fc7",)).lower(*inputs),
        activations.make_step(config, mesh, "response").lower(*inputs),
        jax.jit(activations.logits(config, mesh)).lower(*inputs),
    ]
    for program in programs:
        assert set(precisions(program)) == {precision.upper()}


def test_on_cpu_the_precision_changes_no_bit():
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in ((4, 9, 9, 3), (3, 3, 3, 8), (8,), (648, 5))]

    def loss(image, kernel, bias, weights):
        maps = ops.conv(image, kernel, bias, 1, (1, 1))
        return (ops.dense(maps.reshape(4, -1), weights) ** 2).sum()

    def gradients(precision: str):
        with jax.default_matmul_precision(precision):
            return jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3)), compiler_options=compiling.CPU_OPTIONS)(*arrays)

    jax.tree.map(np.testing.assert_array_equal, gradients("default"), gradients("highest"))


def test_a_run_is_not_resumed_with_another_precision():
    one, other = tiny_config(), tiny_config()
    other.train.matmul_precision = "highest"
    listed = workdir.differences(config_files.parse(one), config_files.parse(other))
    assert listed == ["train.matmul_precision: default -> highest"]
