"""`train.virtual_shards`: the same bits on any data axis. In several processes: tests/faults/test_virtual_shards.py."""

import jax
import numpy as np
import pytest

from alexnet_jax import metrics, sharding, steps
from alexnet_jax.errors import UserError
from alexnet_jax.run import checksums, config_files
from tests.conftest import made_up_statistics, random_batch
from tests.meshes import uniform_rates, worst_difference
from tests.tiny import tiny_config

pytestmark = pytest.mark.slow


def config(mesh: str, shards: int, **train):
    values = tiny_config()
    values.mesh.data, values.mesh.tower = map(int, mesh.split("x"))
    values.train.update(virtual_shards=shards, batch_size=16, eval_batch_size=16, **train)
    return config_files.parse(values)


def batches(count: int) -> list:
    """With examples that do not count: in the first one a whole part of them."""
    made = [random_batch(16, seed=seed) for seed in range(count)]
    made[0].mask[:3] = False
    return made


def trained(mesh_name: str, shards: int):
    """The state after three steps, and the metrics of an evaluation: both on the host."""
    cfg = config(mesh_name, shards)
    mesh = sharding.make_mesh(cfg.mesh.data, cfg.mesh.tower, 2)
    state, statistics = steps.init_state(cfg, mesh), sharding.put(made_up_statistics(), mesh, sharding.REPLICATED)
    step, votes = steps.make_train_step(cfg, mesh, steps_per_epoch=2), sharding.votes(False, mesh)
    for batch in batches(3):
        batch = sharding.put(batch, mesh, sharding.EXAMPLES)
        state, _ = step(state, batch, uniform_rates(state.params, 0.1), statistics, votes)
    measured = steps.make_eval_step(cfg, mesh, views=1)(state.params, batch, statistics)
    return jax.device_get((state, measured))


@pytest.mark.long
@pytest.mark.parametrize("meshes", [["1x1", "2x1", "4x1"], ["1x2", "2x2"]], ids=" ".join)
def test_the_same_bits_on_any_data_axis(meshes):
    """And without, the same up to rounding."""
    (state, measured), *others = (trained(mesh, 8) for mesh in meshes)
    for other, other_measured in others:
        assert checksums.of_arrays(other) == checksums.of_arrays(state)
        jax.tree.map(np.testing.assert_array_equal, other_measured, measured)
    plain, plain_measured = trained(meshes[1], 0)
    assert worst_difference(state.opt_state, plain.opt_state) < 1e-5
    assert worst_difference(state.params, plain.params) < 1e-6
    assert metrics.summary(measured) == pytest.approx(metrics.summary(plain_measured), rel=1e-6)


@pytest.mark.parametrize(
    ("shards", "changes", "problem"),
    [
        (3, {}, "train.virtual_shards=3 is no power of two"),
        (2, {"mesh.data": 4}, "train.virtual_shards=2 does not divide by mesh.data=4"),
        (4, {"mesh.fc_sharding": "data_tower", "mesh.tower": 2}, "needs mesh.fc_sharding=tower"),
        (4, {"train.batch_size": 6}, "batches of 6 images do not divide into train.virtual_shards=4"),
        (4, {"train.eval_batch_size": 10}, "batches of 10 images do not divide into train.virtual_shards=4"),
        (8, {"augment.shared_by": 4}, "augment.shared_by=4 does not divide the parts of train.virtual_shards=8"),
        (-1, {}, "config.train.virtual_shards=-1"),
        (4, {"train.keep_every_steps": 3, "train.save_every_steps": 2}, "keep_every_steps=3 is no multiple"),
    ],
)
def test_what_does_not_divide_is_refused(shards, changes, problem):
    values = tiny_config()
    values.train.virtual_shards = shards
    values.update_from_flattened_dict({"train.batch_size": 16, "train.eval_batch_size": 16} | changes)
    with pytest.raises(UserError, match=problem):
        config_files.parse(values)
