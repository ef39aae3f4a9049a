"""Where arrays live, and what crosses between devices, read from the compiled program."""

import jax
import numpy as np
import pytest

from alexnet_jax import model, sharding, steps
from alexnet_jax.augment import Statistics
from alexnet_jax.bench import scale
from alexnet_jax.configs import paper
from alexnet_jax.errors import UserError
from alexnet_jax.run import config_files
from tests.conftest import random_batch
from tests.test_parity import RATES


def collectives(compiled) -> list[tuple[str, int]]:
    """Each collective of a compiled program with the bytes of its result on one device.

    A collective over a mesh axis of one device sends nothing, but costs a copy: it would be listed too.
    """
    found = scale.collectives(compiled.as_text(), {"data": 1, "tower": 1})
    return [(one.kind, sum(size for _, size in one.results)) for one in found]


def lowered_step(values, data: int, tower: int, batch: int):
    values.mesh.update(data=data, tower=tower)
    values.train.batch_size = values.train.eval_batch_size = batch
    cfg = config_files.parse(values)
    mesh = sharding.make_mesh(data, tower, cfg.model.towers)
    size = cfg.data.size
    statistics = Statistics(
        np.zeros((size, size, 3), np.float32), np.zeros(3, np.float32), np.zeros((3, 3), np.float32)
    )
    arguments = (
        steps.abstract_state(cfg, mesh),
        sharding.put(random_batch(batch, size), mesh, sharding.EXAMPLES),
        RATES,
        sharding.put(statistics, mesh, sharding.REPLICATED),
        sharding.votes(False, mesh),
    )
    return steps.make_train_step(cfg, mesh, steps_per_epoch=10).lower(*arguments)


def test_only_the_papers_connections_cross_between_the_towers():
    """Paper, Figure 2: activations at conv3, fc6, fc7 and fc8, their gradients back, and scalars for the softmax."""
    batch = 4
    found = collectives(lowered_step(paper.get_config(), 1, 2, batch).compile())
    gathers = [size for kind, size in found if kind == "all-gather"]
    scatters = [size for kind, size in found if kind == "reduce-scatter"]
    reduces = [size for kind, size in found if kind == "all-reduce"]
    assert {kind for kind, _ in found} == {"all-gather", "reduce-scatter", "all-reduce"}
    # What a device receives of each gather is half of its result; of each scatter, as much as its result.
    halves = {name: batch * 4 * units for name, units in SHARES.items()}
    assert sorted(size // 2 for size in gathers) == sorted(halves.values())
    assert sorted(scatters) == sorted(halves.values())
    both_ways = 2 * (sum(gathers) // 2 + sum(scatters))
    assert both_ways == batch * 485_376
    # The softmax: maximum, sum, label's score, better classes; and their gradients: a few scalars an example.
    # And whether to stop.
    assert max(reduces) <= batch * 4 * 3 and sum(reduces) <= batch * 4 * 6 + 1


SHARES = {"conv3": 13 * 13 * 128, "fc6": 6 * 6 * 128, "fc7": 2048, "fc8": 2048}


def test_bfloat16_halves_what_crosses(tiny):
    """Read before XLA's passes for CPU, which has no bfloat16 collectives and widens them."""
    tiny.train.compute_dtype = "bfloat16"
    lines = lowered_step(tiny, 1, 2, 8).as_text().splitlines()
    gathers = [line for line in lines if "stablehlo.all_gather" in line]
    assert len(gathers) == 4 and all("bf16" in line for line in gathers)


def test_data_parallel_adds_only_the_sum_of_gradients(tiny):
    """On a mesh of 2 x 1 nothing crosses but the gradients of all parameters, once, and scalars."""
    found = collectives(lowered_step(tiny, 2, 1, 8).compile())
    params = jax.eval_shape(lambda: model.init(config_files.parse(tiny).model, jax.random.key(0)))
    gradient_bytes = sum(4 * leaf.size for leaf in jax.tree.leaves(params))
    assert {kind for kind, _ in found} == {"all-reduce"}
    assert gradient_bytes <= sum(size for _, size in found) <= gradient_bytes + 64


def test_the_state_is_born_sharded(tiny):
    """No device ever holds the other's tower: parameters and momentum are made where they live."""
    cfg = config_files.parse(tiny)
    mesh = sharding.make_mesh(2, 2, 2)
    state = steps.init_state(cfg, mesh)
    arrays = jax.tree.leaves((state.params, state.opt_state))
    assert len(arrays) == 4 * 8
    for leaf in arrays:
        assert leaf.sharding.spec == sharding.TOWERS
        assert leaf.addressable_shards[0].data.shape == (1, *leaf.shape[1:])
    step = steps.make_train_step(cfg, mesh, steps_per_epoch=10)
    statistics = Statistics(np.zeros((32, 32, 3), np.float32), np.zeros(3, np.float32), np.eye(3, dtype=np.float32))
    batch = sharding.put(random_batch(), mesh, sharding.EXAMPLES)
    constants = sharding.put(statistics, mesh, sharding.REPLICATED)
    votes = sharding.votes(False, mesh)
    after, seen = step(state, batch, RATES, constants, votes)
    assert not seen.stop
    assert jax.tree.map(lambda x: x.sharding, after) == jax.tree.map(lambda x: x.sharding, steps.init_state(cfg, mesh))
    assert all(leaf.is_deleted() for leaf in arrays)  # donated
    after, seen = step(steps.clear_metrics(after), batch, 2 * RATES, constants, sharding.votes(True, mesh))
    assert seen.stop
    assert int(after.metrics["loss"].count) == 7
    assert step._cache_size() == 1  # type: ignore[attr-defined]  # neither its own output nor cleared metrics make it compile again


def test_automatic_layout():
    assert dict(sharding.make_mesh(1, 0, 2).shape) == {"data": 1, "tower": 2}
    assert dict(sharding.make_mesh(4, 0, 2).shape) == {"data": 4, "tower": 1}
    assert "one tower a device" in sharding.describe(sharding.make_mesh(1, 2, 2), 2)
    assert "all 2 towers on each device" in sharding.describe(sharding.make_mesh(4, 1, 2), 2)


def test_too_few_devices():
    with pytest.raises(UserError, match=r"needs 4 x 2 = 8 devices .* --simulated_devices=8"):
        sharding.make_mesh(4, 2, 2)


@pytest.mark.parametrize("data", [1, 2])
@pytest.mark.parametrize("fc_sharding", ["tower", "data_tower"])
def test_what_devices_send_is_what_the_layers_say(tiny, data, fc_sharding):
    """All but the scalars for the softmax, to the byte."""
    tiny.mesh.update(data=data, tower=2, fc_sharding=fc_sharding)
    tiny.train.batch_size = tiny.train.eval_batch_size = 8 * data
    cfg = config_files.parse(tiny)
    seen = scale.measured(cfg, sharding.make_mesh(data, 2, 2))
    expected = scale.predicted(cfg, data, 2)
    assert 0 < seen.pop("scalars") < 1000 and expected.pop("scalars") == 0
    assert seen["between towers"] == expected["between towers"]
    assert sum(seen.values()) == pytest.approx(sum(expected.values()))  # biases of both kinds of layers are alike here
    assert (expected["conv gradients"] > 0) == (data > 1)


def test_groups_of_devices_in_all_forms():
    line = "%x = f32[4,6]{1,0} all-gather(%y), channel_id=1, replica_groups=GROUPS, dimensions={1}"
    forms = {
        "{{0,2,4,6},{1,3,5,7}}": (4, "data"),
        "{{0,1},{2,3}}": (2, "tower"),
        "[4,2]<=[8]": (2, "tower"),
        "[2,4]<=[4,2]T(1,0)": (4, "data"),
        "mesh['axis_0'=4,'axis_1'=2] {'axis_0'}": (4, "data"),
        "mesh['axis_0'=4,'axis_1'=2] {'axis_1'}": (2, "tower"),
        "mesh['axis_0'=2,'axis_1'=4,'axis_2'=1], device_ids=([4,2]T(1,0)) {'axis_1'}": (4, "data"),
        "mesh['axis_0'=2,'axis_1'=4], device_ids=([4,2]T(1,0)) {'axis_0'}": (2, "tower"),
        "{}": (8, "tower"),
    }
    for form, (devices, axis) in forms.items():
        (found,) = scale.collectives(line.replace("GROUPS", form), {"data": 4, "tower": 2})
        assert (found.kind, found.results, found.devices, found.axis) == ("all-gather", [(24, 96)], devices, axis)
        assert found.sent(96) == 96 * (devices - 1) / devices
