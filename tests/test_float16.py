"""`train.compute_dtype=float16`: the scale of the loss, the steps that are skipped, and what is said of them."""

import itertools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from alexnet_jax import optim, run_config, sharding, steps, training
from alexnet_jax.configs import digits
from alexnet_jax.errors import NonFinite
from alexnet_jax.run import checksums, config_files
from alexnet_jax.run.workdir import CHECKPOINTS, NONFINITE
from tests import runs
from tests.conftest import made_up_statistics, random_batch
from tests.meshes import train, worst_difference
from tests.tiny import tiny_config


def half(**loss_scale):
    values = tiny_config()
    values.train.compute_dtype = "float16"
    values.train.loss_scale.update(loss_scale)
    return values


def test_the_scale_halves_and_doubles_and_a_skipped_step_moves_nothing():
    settings = run_config.LossScale(initial=8.0, largest=16.0, growth_interval_steps=2)
    plain = optax.GradientTransformationExtraArgs(*optax.trace(0.9))
    rule = optim.with_loss_scale(plain, settings)
    params = {"bias": jnp.array([1.0, -0.0], jnp.float32)}
    state, expected = rule.init(params), plain.init(params)
    wanted = [(8, 1, 0), (16, 0, 0), (8, 0, 1), (8, 1, 1), (4, 0, 2), (2, 0, 3), (2, 1, 3)]  # scale, steps, skipped
    wanted += [(4, 0, 3), (4, 1, 3), (8, 0, 3), (8, 1, 3), (16, 0, 3), (16, 1, 3), (16, 0, 3)]  # no further than that
    for number, loss_scale in enumerate(wanted):
        overflow = {2: np.inf, 4: np.nan, 5: -np.inf}.get(number)
        true = jnp.array([number + 1.0, 1.0], jnp.float32)
        scaled = true * state.loss_scale.scale if overflow is None else true.at[1].set(overflow)
        updates, state = rule.update({"bias": scaled}, state, params)
        after = jax.tree.map(jnp.add, params, updates)
        if overflow is None:
            update, expected = plain.update({"bias": true}, expected)
            np.testing.assert_array_equal(updates["bias"], update["bias"])
        else:
            assert np.asarray(after["bias"]).tobytes() == np.asarray(params["bias"]).tobytes()
        np.testing.assert_array_equal(state.rule.trace["bias"], expected.trace["bias"])
        assert tuple(state.loss_scale) == loss_scale


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_other_types_have_no_scale(dtype):
    values = tiny_config()
    values.train.compute_dtype = dtype
    config, mesh = config_files.parse(values), sharding.make_mesh(1, 1, 2)
    state = steps.abstract_state(config, mesh)
    expected = optim.update_rule(config.optim).init(state.params)
    assert checksums.by_name(state.opt_state).keys() == checksums.by_name(expected).keys()


@pytest.mark.slow
def test_a_run_that_overflows_resumes_and_can_be_verified(tmp_path, capsys, verify):
    """Its first steps are skipped. A stop among them changes no bit, and the log shows the scale and their number."""
    values = half(initial=2.0**20, growth_interval_steps=2)
    values.train.update(batch_size=64, log_every_steps=1, save_every_steps=2, eval_batch_size=120, max_steps=1)
    values.train.keep_checkpoints = 9
    training.train_and_evaluate(config_files.parse(values), tmp_path / "parts")
    saved, _ = runs.final_state(tmp_path / "parts")
    assert optim.loss_scale(saved.opt_state) == (2.0**19, 0, 1)
    values.train.max_steps = 8
    config = config_files.parse(values)
    for name in ("parts", "whole"):
        training.train_and_evaluate(config, tmp_path / name)
    (state, position), (other, other_position) = (runs.final_state(tmp_path / name) for name in ("whole", "parts"))
    jax.tree.map(np.testing.assert_array_equal, state, other)
    assert position.validation == other_position.validation
    lines = [line for line in runs.log(tmp_path / "whole") if line["phase"] == "train"]
    scales, skipped = ([line[key] for line in lines] for key in ("loss_scale", "skipped_steps"))
    assert skipped[0] == 1 and skipped[-1] < 8 and min(scales) < max(scales[scales.index(min(scales)) :])
    for number, (before, after) in enumerate(itertools.pairwise(scales)):  # two good steps in a row double it
        skips = skipped[number + 1] - skipped[number]
        assert after in ((before / 2,) if skips else (before, 2 * before))
    shown = re.findall(r"step (\d)/8 .*loss scale (\d+)  skipped steps (\d)", capsys.readouterr().out)
    expected = [(line["step"], line["loss_scale"], line["skipped_steps"]) for line in lines]
    assert [tuple(map(int, row)) for row in shown] == [*expected[1:], *expected]  # the first one is 1/1
    assert verify(tmp_path / "whole")["verified"]


@pytest.mark.long
def test_a_run_that_diverges_ends(tmp_path):
    """Infinite in float16, its parameters are finite in float32: the loss is not, and no scale can cure that."""
    values = half(initial=4.0, growth_interval_steps=2)
    values.train.update(batch_size=64, log_every_steps=2, save_every_steps=20, eval_batch_size=120)
    values.optim.learning_rate = 1e20
    with pytest.raises(NonFinite, match=r"first conv\d_\w+ of the batch .* --config.train.compute_dtype=float32, as"):
        training.train_and_evaluate(config_files.parse(values), tmp_path)
    recorded = json.loads((tmp_path / NONFINITE / "batch.json").read_text())
    (line,) = runs.log(tmp_path)
    assert (line["step"], line["skipped_steps"], line["count"]) == (2, 1, 64)  # the step that was skipped adds no loss
    assert recorded["step"] == 4  # at scales of 4, 2 and 1
    assert not list((tmp_path / CHECKPOINTS).glob("*"))


BATCHES = [random_batch(seed=seed) for seed in range(9)]


@pytest.fixture(scope="module")
def on_one_device():
    """Nine steps, some of them skipped."""
    return train(half(initial=2.0**20, growth_interval_steps=2), "1x1", made_up_statistics(), BATCHES)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["1x2", "2x1", "2x2 split"])
def test_meshes_agree(mesh, statistics, on_one_device):
    """In which steps are skipped, and on the others up to the rounding of float16; float32 is as near."""
    losses, _, state = train(half(initial=2.0**20, growth_interval_steps=2), mesh, statistics, BATCHES)
    expected, _, serial = on_one_device
    assert state.opt_state.loss_scale == serial.opt_state.loss_scale and 2 < serial.opt_state.loss_scale.skipped < 9
    np.testing.assert_allclose(losses, expected, rtol=1e-3)
    assert worst_difference(state.params, serial.params) < 0.3
    first, momentum, _ = train(half(initial=2.0**10), mesh, statistics, BATCHES[:1])
    plain, plain_momentum, _ = train(tiny_config(), mesh, statistics, BATCHES[:1])
    np.testing.assert_allclose(first, plain, rtol=1e-3)
    assert worst_difference(momentum.rule, plain_momentum) < 0.3


@pytest.mark.long
@pytest.mark.slow
def test_virtual_shards(statistics):
    """The same bits on any data axis, skipped steps included."""
    values = half(initial=2.0**20, growth_interval_steps=2)
    values.train.virtual_shards = 4
    (losses, _, state), (expected, _, serial) = (train(values, mesh, statistics, BATCHES) for mesh in ("2x1", "1x1"))
    assert losses == expected and 2 < serial.opt_state.loss_scale.skipped < 9
    jax.tree.map(np.testing.assert_array_equal, state, serial)


@pytest.mark.long
@pytest.mark.slow
def test_digits_to_the_same_error(tmp_path):
    errors = {}
    for dtype in ("float16", "float32"):
        values = digits.get_config()
        values.train.update(compute_dtype=dtype, epochs=12, eval_every_epochs=12)
        values.optim.schedule.boundaries_epochs = (9, 11)
        training.train_and_evaluate(config_files.parse(values), tmp_path / dtype)
        errors[dtype] = runs.log(tmp_path / dtype)[-1]["top1_error"]
    assert max(errors.values()) < 0.08 and abs(errors["float16"] - errors["float32"]) < 0.03, errors
