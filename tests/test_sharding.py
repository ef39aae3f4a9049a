"""Where arrays live, and what devices send each other, read from the compiled program."""

import dataclasses
import itertools
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from alexnet_jax import model, sharding, steps
from alexnet_jax.augment import Statistics
from alexnet_jax.bench import hlo, programs, scale
from alexnet_jax.configs import paper
from alexnet_jax.errors import UserError
from alexnet_jax.run import config_files
from tests.conftest import random_batch
from tests.meshes import uniform_rates


def collectives(compiled) -> list[tuple[str, int]]:
    """The kind of each collective in a compiled program, and the bytes of its result on one device.

    A collective over a mesh axis of one device sends nothing, but costs a copy, so it is listed too.
    """
    return [
        (collective.kind, sum(size for _, size in collective.results))
        for collective in scale.collectives(programs.read(compiled), {"data": 1, "tower": 1})
    ]


def lowered_step(values, data: int, tower: int, batch: int):
    values.mesh.update(data=data, tower=tower)
    values.train.batch_size = values.train.eval_batch_size = batch
    cfg = config_files.parse(values)
    mesh = sharding.make_mesh(data, tower, cfg.model.towers)
    size = cfg.data.size
    statistics = Statistics(
        np.zeros((size, size, 3), np.float32), np.zeros(3, np.float32), np.zeros((3, 3), np.float32)
    )
    state = steps.abstract_state(cfg, mesh)
    arguments = (
        state,
        sharding.put(random_batch(batch, size), mesh, sharding.EXAMPLES),
        uniform_rates(state.params),
        sharding.put(statistics, mesh, sharding.REPLICATED),
        sharding.votes(False, mesh),
    )
    return steps.make_train_step(cfg, mesh, steps_per_epoch=10).lower(*arguments)


@pytest.mark.slow
def test_only_the_papers_connections_cross_between_the_towers():
    """Paper, Figure 2: activations into conv3, fc6, fc7 and fc8, their gradients, and scalars for the softmax."""
    batch = 4
    sent = collectives(lowered_step(paper.get_config(), 1, 2, batch).compile())
    gathers = [size for kind, size in sent if kind == "all-gather"]
    scatters = [size for kind, size in sent if kind == "reduce-scatter"]
    reduces = [size for kind, size in sent if kind == "all-reduce"]
    assert {kind for kind, _ in sent} == {"all-gather", "reduce-scatter", "all-reduce"}
    # A device receives half of the result of each gather, and as much as the result of each scatter.
    halves = {name: batch * 4 * units for name, units in SHARES.items()}
    assert sorted(size // 2 for size in gathers) == sorted(halves.values())
    assert sorted(scatters) == sorted(halves.values())
    both_ways = 2 * (sum(gathers) // 2 + sum(scatters))
    assert both_ways == batch * 485_376
    # The softmax (maximum, sum, label's score, better classes) and its gradients: a few scalars per example.
    # The last byte is whether to stop.
    assert max(reduces) <= batch * 4 * 3 and sum(reduces) <= batch * 4 * 6 + 1


SHARES = {"conv3": 13 * 13 * 128, "fc6": 6 * 6 * 128, "fc7": 2048, "fc8": 2048}


def test_bfloat16_halves_what_crosses(tiny):
    """Read before XLA's passes for CPU, which widen bfloat16 collectives, as CPUs have none."""
    tiny.train.compute_dtype = "bfloat16"
    lines = lowered_step(tiny, 1, 2, 8).as_text().splitlines()
    gathers = [line for line in lines if "stablehlo.all_gather" in line]
    assert len(gathers) == 4 and all("bf16" in line for line in gathers)


@pytest.mark.slow
def test_data_parallel_adds_only_the_sum_of_gradients(tiny):
    """On a 2 x 1 mesh, devices exchange only the gradients of all parameters, once, and scalars."""
    sent = collectives(lowered_step(tiny, 2, 1, 8).compile())
    params = jax.eval_shape(lambda: model.init(config_files.parse(tiny).model, jax.random.key(0)))
    gradient_bytes = sum(4 * leaf.size for leaf in jax.tree.leaves(params))
    assert {kind for kind, _ in sent} == {"all-reduce"}
    assert gradient_bytes <= sum(size for _, size in sent) <= gradient_bytes + 64


@pytest.mark.slow
def test_the_state_is_born_sharded(tiny):
    """Parameters, average and momentum are created in place: no device ever holds the other's tower."""
    tiny.optim.ema_decay = 0.9
    cfg = config_files.parse(tiny)
    mesh = sharding.make_mesh(2, 2, 2)
    state = steps.init_state(cfg, mesh)
    state = state.starting_from(jax.tree.map(lambda x: x + 1, state.params))
    jax.tree.map(np.testing.assert_array_equal, state.average, state.params)
    arrays = jax.tree.leaves((state.params, state.average, state.opt_state))
    assert len(arrays) == 6 * 8
    for leaf in arrays:
        assert leaf.sharding.spec == sharding.TOWERS
        assert leaf.addressable_shards[0].data.shape == (1, *leaf.shape[1:])
    step = steps.make_train_step(cfg, mesh, steps_per_epoch=10)
    statistics = Statistics(np.zeros((32, 32, 3), np.float32), np.zeros(3, np.float32), np.eye(3, dtype=np.float32))
    batch = sharding.put(random_batch(), mesh, sharding.EXAMPLES)
    constants = sharding.put(statistics, mesh, sharding.REPLICATED)
    rates, lower_rates = uniform_rates(state.params), uniform_rates(state.params, 0.001)
    after, report = step(state, batch, rates, constants, sharding.votes(False, mesh))
    assert not report.stop
    assert jax.tree.map(lambda x: x.sharding, after) == jax.tree.map(lambda x: x.sharding, steps.init_state(cfg, mesh))
    assert all(leaf.is_deleted() for leaf in arrays)  # donated
    after, report = step(steps.clear_metrics(after), batch, lower_rates, constants, sharding.votes(True, mesh))
    assert report.stop
    assert int(after.metrics["loss"].count) == 7
    # Neither its own output, nor cleared metrics, nor other rates make it compile again.
    assert step._cache_size() == 1


def test_automatic_layout():
    assert dict(sharding.make_mesh(1, 0, 2).shape) == {"data": 1, "tower": 2}
    assert dict(sharding.make_mesh(4, 0, 2).shape) == {"data": 4, "tower": 1}
    assert "one tower per device" in sharding.describe(sharding.make_mesh(1, 2, 2), 2)
    assert "all 2 towers on each device" in sharding.describe(sharding.make_mesh(4, 1, 2), 2)


def test_too_few_devices():
    with pytest.raises(UserError, match=r"needs 4 x 2 = 8 devices .* --simulated_devices=8"):
        sharding.make_mesh(4, 2, 2)


@pytest.mark.parametrize(
    ("processes", "parts"),  # the process of each device, a row for each on the data axis -> the part that each reads
    [
        ([[0, 0], [0, 0], [1, 1], [1, 1]], {0: (0, 2), 1: (1, 2)}),
        ([[0, 1], [0, 1]], {0: (0, 1), 1: (0, 1)}),  # a tower each, of the same examples
        ([[0, 1], [2, 3]], {0: (0, 2), 1: (0, 2), 2: (1, 2), 3: (1, 2)}),
        ([[0, 0], [1, 1], [0, 0], [1, 1]], {0: None, 1: None}),  # not side by side
        ([[0, 0], [0, 0], [0, 0], [1, 1]], {0: None}),
        ([[0, 0], [1, 1], [1, 1], [2, 2]], {1: None}),
    ],
)
def test_the_part_of_a_batch_that_a_process_reads(processes, parts, monkeypatch):
    """The devices of several processes are made up; runs in real processes are in faults/test_processes.py."""
    devices = np.array([[SimpleNamespace(process_index=process) for process in row] for row in processes])
    mesh = SimpleNamespace(devices=devices, shape={"data": len(devices), "tower": 2})
    for process, part in parts.items():
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        if part is not None:
            assert sharding.part_of_batch(mesh) == part
            continue
        with pytest.raises(UserError, match=rf"process {process} holds rows .* not an equal part of the batch"):
            sharding.part_of_batch(mesh)


@dataclasses.dataclass(frozen=True)
class Chip:
    """A device of a TPU slice, with what JAX reads to order devices."""

    device_kind: str
    id: int
    process_index: int
    coords: tuple[int, int, int]
    core_on_chip: int = 0
    platform: str = "tpu"


@pytest.mark.parametrize(
    ("kind", "topology"),
    [
        pytest.param("TPU v4", (2, 2, 2), id="v4-16"),
        pytest.param("TPU v4", (2, 2, 4), id="v4-32"),
        pytest.param("TPU v5", (2, 2, 4), id="v5p-32"),
        pytest.param("TPU v5 lite", (4, 4, 1), id="v5e-16"),
        pytest.param("TPU v6 lite", (4, 4, 1), id="v6e-16"),
        pytest.param("TPU v6 lite", (4, 8, 1), id="v6e-32"),
    ],
)
def test_tpu_slices_of_several_hosts(kind, topology, monkeypatch):
    """The chips are made up, four a host as 2x2: on each host one part of the batch, and towers that are neighbours."""
    width, height, depth = topology
    chips = []
    for number, (z, y, x) in enumerate(itertools.product(range(depth), range(height), range(width))):
        process = x // 2 + width // 2 * (y // 2 + height // 2 * z)
        chips.append(Chip(kind, number, process, (x, y, z)))
    hosts = len(chips) // 4
    monkeypatch.setattr(jax, "devices", lambda: chips)
    monkeypatch.setattr(jax, "process_count", lambda: hosts)
    mesh = sharding.make_mesh(len(chips) // 2, 2, 2)
    parts = []
    for process in range(hosts):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        parts.append(sharding.part_of_batch(mesh))
    assert sorted(parts) == [(part, hosts) for part in range(hosts)]
    for one, other in mesh.devices:
        assert one.process_index == other.process_index and np.abs(np.subtract(one.coords, other.coords)).sum() == 1


def test_inputs_that_do_not_divide_over_the_data_axis():
    """Here fc6 has 18 inputs, and there are four devices. Biases and convolutional layers are not split."""
    mesh = SimpleNamespace(shape={"data": 4, "tower": 2})
    kernels = {"fc6": {"kernel": np.zeros((2, 18, 8))}}
    with pytest.raises(UserError, match=r"the 18 inputs of fc6 do not divide by mesh.data=4"):
        sharding.specs(kernels, mesh, "data_tower")
    assert sharding.specs(kernels, mesh, "tower") == {"fc6": {"kernel": sharding.TOWERS}}
    others = {"fc6": {"kernel": np.zeros((2, 16, 9)), "bias": np.zeros((2, 9))}, "conv1": {"kernel": np.zeros((2, 5))}}
    assert sharding.specs(others, mesh, "data_tower") == {
        "fc6": {"kernel": sharding.TOWERS_INPUTS, "bias": sharding.TOWERS},
        "conv1": {"kernel": sharding.TOWERS},
    }


def test_both_towers_on_a_device_give_classes_side_by_side():
    """The classes of tower 0 first, then those of tower 1: [B, tower, C / towers] -> [B, C]."""

    def program(params, batch, constants):
        return params[None] + batch[:, None]

    mesh = sharding.make_mesh(1, 1, 2)
    result = sharding.over_towers(program, mesh, sharding.CLASSES)(np.array([[1, 2], [3, 4]]), np.array([10, 20]), None)
    np.testing.assert_array_equal(result, [[11, 12, 13, 14], [21, 22, 23, 24]])


@pytest.mark.slow
@pytest.mark.parametrize("data", [1, 2])
@pytest.mark.parametrize("fc_sharding", ["tower", "data_tower"])
def test_devices_send_what_the_layers_predict(tiny, data, fc_sharding):
    """To the byte, except for the scalars of the softmax."""
    tiny.mesh.update(data=data, tower=2, fc_sharding=fc_sharding)
    tiny.train.batch_size = tiny.train.eval_batch_size = 8 * data
    cfg = config_files.parse(tiny)
    measured = scale.measured(cfg, sharding.make_mesh(data, 2, 2))
    expected = scale.predicted(cfg, data, 2)
    assert 0 < measured.pop("scalars") < 1000 and expected.pop("scalars") == 0
    assert measured["between towers"] == expected["between towers"]
    # Only the sum: biases of convolutional and fully connected layers have the same sizes here.
    assert sum(measured.values()) == pytest.approx(sum(expected.values()))
    assert (expected["conv gradients"] > 0) == (data > 1)


def test_groups_of_devices_in_all_forms():
    line = (
        "ENTRY %f () -> f32[4,6] {\n  %x = f32[4,6] all-gather(%y), channel_id=1, replica_groups=GROUPS, dimensions={1}"
    )
    forms = {
        "{{0,2,4,6},{1,3,5,7}}": (4, "data"),
        "{{0,1},{2,3}}": (2, "tower"),
        "[4,2]<=[8]": (2, "tower"),
        "[2,4]<=[4,2]T(1,0)": (4, "data"),
        "mesh['axis_0'=4,'axis_1'=2] {'axis_0'}": (4, "data"),
        "mesh['axis_0'=4,'axis_1'=2] {'axis_1'}": (2, "tower"),
        "mesh['axis_0'=2,'axis_1'=4,'axis_2'=1], device_ids=([4,2]T(1,0)) {'axis_1'}": (4, "data"),
        "mesh['axis_0'=2,'axis_1'=4], device_ids=([4,2]T(1,0)) {'axis_0'}": (2, "tower"),
        "{}": (8, "data and tower"),
    }
    for form, (devices, axis) in forms.items():
        (gather,) = scale.collectives(hlo.Program(line.replace("GROUPS", form)), {"data": 4, "tower": 2})
        assert (gather.kind, gather.results, gather.devices, gather.axis) == ("all-gather", [(24, 96)], devices, axis)
        assert gather.sent(96) == 96 * (devices - 1) / devices
