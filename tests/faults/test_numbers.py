"""Losses that are not finite, data that never arrives: the run ends, and says where and why."""

import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax import errors, sharding, steps
from alexnet_jax.data.loader import Order
from alexnet_jax.run import config_files, nonfinite
from alexnet_jax.run.workdir import CHECKPOINTS, CONFIG, METRICS, NONFINITE
from tests import runs
from tests.conftest import made_up_statistics, random_batch
from tests.tiny import tiny_config

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("rate", ["1e20", pytest.param("3e3", marks=pytest.mark.long)])
def test_a_loss_that_is_not_finite(rate, tmp_path, survived):
    """The state before that step and its examples are kept, and the layer where it began is named."""
    flags = [f"--config.optim.learning_rate={rate}", "--config.train.save_every_steps=1000"]
    said = runs.run(runs.command(tmp_path, "run", *flags), errors.EXIT_NON_FINITE)
    kept = tmp_path / "run" / NONFINITE
    recorded = json.loads((kept / "batch.json").read_text())
    step, first = recorded["step"], next(iter(recorded["not_finite"]))
    assert f"is not finite at step {step}; first {first}" in said
    assert "NaN" not in (tmp_path / "run" / METRICS).read_text()
    assert first.startswith(("conv", "fc")) and "before the step" not in first
    examples, mask = Order(1437, 64, 0).batch(step - 1)
    assert recorded["examples"] == examples[mask].tolist()
    assert not list((tmp_path / "run" / CHECKPOINTS).glob("*"))  # nothing unsound is ever saved
    runs.run(runs.command(tmp_path, "before", *flags, f"--config.train.max_steps={step - 1}"))
    (kept / CONFIG).write_text((tmp_path / "run" / CONFIG).read_text())
    (state, position), (expected, _) = runs.final_state(kept), runs.final_state(tmp_path / "before")
    assert position.next_batch == step - 1
    ours, theirs = ((x.step, x.params, x.opt_state) for x in (state, expected))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    reported = f"layer and examples named, the state before kept; exit code {errors.EXIT_NON_FINITE}"
    survived("A loss or gradient that is not finite", 1, "at most one save interval", reported)


@pytest.mark.parametrize(("data", "tower"), [(1, 1), (2, 2)])
def test_where_it_began(data, tower):
    """In parameters, in activations, in gradients alone, or nowhere."""
    cfg = config_files.parse(tiny_config())
    devices = sharding.make_mesh(data, tower, 2)
    state = steps.init_state(cfg, devices)
    batch = sharding.put(random_batch(), devices, sharding.EXAMPLES)
    statistics = sharding.put(made_up_statistics(), devices, sharding.REPLICATED)
    replay = nonfinite.Replay(cfg, devices, Order(80, 8, 0), statistics)  # 10 steps an epoch

    def origin(**changes: float) -> dict[str, int]:
        params = {
            layer: {kind: leaf * jnp.float32(changes.get(f"{layer}_{kind}", 1.0)) for kind, leaf in kinds.items()}
            for layer, kinds in state.params.items()
        }
        return replay.origin(state.replace(params=params), batch)

    assert origin() == {}
    assert next(iter(origin(fc6_kernel=np.inf))) == "kernel of fc6 before the step"
    assert next(iter(origin(conv3_kernel=1e38))) == "conv3_response of the batch"
    names = origin(conv1_kernel=1e-20, fc6_kernel=1e10, fc7_kernel=1e10, fc8_kernel=1e20)  # logits are still finite
    assert names and all(name.startswith("gradient of ") for name in names), names


def test_hardware_that_errs(tmp_path):
    """A loss that is finite when the step is repeated points to the hardware: the run says so."""
    erring = """
import itertools, runpy
import jax
from alexnet_jax import steps
make, count = steps.make_train_step, itertools.count()
def err(*arguments, donate=True):
    step = make(*arguments, donate=donate)
    def once(*inputs):
        state, report = step(*inputs)
        return state, report._replace(loss=report.loss * (float("nan") if next(count) == 20 else 1))
    return once
steps.make_train_step = err
runpy.run_module("alexnet_jax.main", run_name="__main__")
"""
    python, _, _, *flags = runs.command(tmp_path, "run", "--config.train.save_every_steps=8")
    said = runs.run([python, "-c", erring, *flags], errors.EXIT_NON_FINITE)
    assert "repeating the steps from 16" in said and "suspect the hardware" in said
    assert not (tmp_path / "run" / NONFINITE).exists()


@pytest.mark.long
def test_data_that_never_arrives(tmp_path, survived):
    """Reading hangs at the 20th batch, as a network disk may: the watchdog ends the run and shows where it hangs."""
    hanging = """
import itertools, runpy, time
from alexnet_jax.data.streaming import Streamed
read, count = Streamed.read, itertools.count()
def hang(*arguments):
    if next(count) == 20:
        time.sleep(1000)
    return read(*arguments)
Streamed.read = hang
runpy.run_module("alexnet_jax.main", run_name="__main__")
"""
    python, _, _, *flags = runs.command(tmp_path, "run", "--config.train.stall_seconds=20")
    said = runs.end(runs.start([python, "-c", hanging, *flags]), errors.EXIT_STALLED)
    assert "stalled: no progress for 20 s (config.train.stall_seconds) while waiting for data" in said
    assert "in hang" in said  # among the stacks shown
    runs.run([*runs.command(tmp_path, "run"), "--config.train.max_steps=3"])  # the lock is gone with the process
    reported = f"by config.train.stall_seconds, with all stacks; exit code {errors.EXIT_STALLED}"
    survived("A stalled data source", 1, "at most one save interval", reported)


def test_sigusr1_is_a_stop(tmp_path, survived):
    process = runs.start(runs.command(tmp_path, "run", "--config.train.epochs=2000"))
    runs.until(process, "step 3/")
    process.send_signal(signal.SIGUSR1)
    assert "is saved in" in runs.end(process, errors.EXIT_INTERRUPTED)
    survived("SIGTERM, SIGINT, SIGUSR1", 3, "nothing: saved after the step", f"exit code {errors.EXIT_INTERRUPTED}")
