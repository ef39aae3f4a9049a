"""The patches that units respond to: receptive fields, and where they are cut."""

import jax
import numpy as np
import pytest

from alexnet_jax import model, sharding
from alexnet_jax.inference import activations, patches
from alexnet_jax.run import config_files
from tests.tiny import tiny_config


def code_like():
    """The order of operations of the authors' code, strides, and windows that extend beyond the edges."""
    values = tiny_config()
    values.model.conv1.update(kernel=7, stride=2, padding=(0, 3), then=("lrn", "activation"))
    values.model.conv2.then = ("activation", "lrn", "map_norm", "pool")
    values.model.map_norm.alpha = 0.1
    values.model.pool.ceil = True
    return values


@pytest.mark.slow
@pytest.mark.parametrize("make", [tiny_config, code_like])
def test_a_receptive_field_is_all_that_a_response_depends_on(make):
    config = config_files.parse(make())
    spec = config.model
    params = jax.jit(lambda key: model.init(spec, key))(jax.random.key(3))
    _, shapes = activations.shapes(spec)
    rng = np.random.default_rng(0)
    image = rng.normal(0, 50, (6, spec.image_size, spec.image_size, 3)).astype(np.float32)
    compute = jax.jit(jax.vmap(lambda p, x: model.activations(spec, p, x), in_axes=(0, None), axis_name=sharding.TOWER))
    before = compute(params, image)
    for layer in ("conv1", "conv2", "conv3", "conv5"):
        side = shapes[f"{layer}_response"][0]
        for place in {0, side // 2, side - 1}:
            first, last = patches.receptive_field(spec, layer, place)
            low, high = patches.receptive_field(spec, layer, place, clipped=False)
            assert 0 <= first <= last < spec.image_size and low <= first and last <= high

            def changed(rows: slice | list[int], layer=layer, place=place) -> bool:
                other = image.copy()
                other[:, rows] += rng.normal(0, 100, other[:, rows].shape).astype(np.float32)
                name = f"{layer}_response"
                after = compute(params, other)[name][:, :, place]
                return not np.array_equal(after, before[name][:, :, place])

            outside = [row for row in range(spec.image_size) if not first <= row <= last]
            assert not outside or not changed(outside)
            assert changed([first]) and changed([last])


def test_a_patch_is_cut_at_its_position():
    spec = config_files.parse(tiny_config()).model
    image = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    patch = patches.cut(image, spec, "conv1", (10, 0))
    assert patch.shape == (5, 5, 3)  # rows 8..12, columns -2..2
    assert (patch[:, :2] == patches.GREY).all() and (patch[:, 2:] == image[8:13, :3]).all()
