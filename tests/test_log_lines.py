"""What follows from a run's log lines; and runs that start from another run's layers."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

from alexnet_jax import sharding, steps
from alexnet_jax.data.records import spread
from alexnet_jax.errors import UserError
from alexnet_jax.run import checkpoint, config_files, warm_start, workdir
from tests import runs
from tests.splits import in_memory
from tests.tiny import tiny_config


def run(home: Path, directory: str, *flags: str, code: int = 0) -> str:
    return runs.run(runs.command(home, directory, "--config.train.log_every_steps=5", *flags), code)


@pytest.mark.long
@pytest.mark.slow
def test_a_loss_that_stays_at_that_of_guessing_is_reported_once_with_its_cures(tmp_path):
    flat = ["--config.optim.learning_rate=1e-9", "--config.train.plateau_steps=10", "--config.train.max_steps=25"]
    flat += [f"--config.model.{layer}.init_std=1e-6" for layer in ("conv1", "conv4", "fc8")]
    output = run(tmp_path, "flat", *flat)
    assert output.count("that of guessing, for") == 1
    assert re.search(r"step 10: the loss has been at ln\(10\) = 2.303, that of guessing, for 10 steps", output)
    assert "--config.model.conv4.init_std=he" in output and f"facts --workdir\n{tmp_path / 'flat'} --start" in output
    learning = run(tmp_path, "learning", "--config.train.plateau_steps=30", "--config.train.epochs=4")
    assert "that of guessing" not in learning


@pytest.mark.slow
def test_training_stops_at_the_target_error(tmp_path):
    output = run(tmp_path, "run", "--config.train.stop_error=0.85", "--config.train.epochs=18")
    step = int(re.findall(r"finished step (\d+)", output)[0])
    assert 5 < step < 18 * 23 and re.search(rf"step {step} .*test: loss", output)
    errors = [float(found) for found in re.findall(r"top-1 error ([\d.]+)%  \d+ images/s", output)]
    assert errors[-1] <= 85 < min(errors[:-1], default=100)


def test_images_spread_over_a_split():
    pixels = np.arange(10, dtype=np.uint8)[:, None, None, None].repeat(3, axis=-1)
    subset = spread(in_memory(np.arange(10, dtype=np.int32), pixels), 4)
    assert subset.labels.tolist() == [0, 2, 5, 7]
    out = np.empty((2, 1, 1, 3), np.uint8)
    assert subset.read(np.array([3, 1]), out) == {}
    assert out[:, 0, 0, 0].tolist() == [7, 2]
    assert subset.name(3) == "image/7"


def test_more_images_than_there_are(tmp_path):
    output = run(tmp_path, "run", "--config.data.train_examples=5000", code=2)
    assert "the data has 1437 images; give --config.data.train_examples=0" in output


@pytest.mark.slow
def test_layers_of_another_run(tmp_path):
    first = tmp_path / "first"
    run(tmp_path, "first", "--config.train.max_steps=3")
    values = tiny_config()
    values.start.update(workdir=str(first), layers=("conv1", "fc6"))
    config = config_files.parse(values)
    mesh = sharding.make_mesh(1, 2, 2)
    _, there = checkpoint.restore_params(first / workdir.CHECKPOINTS, steps.abstract_state(config, mesh).params)
    params = warm_start.params(config, mesh)
    assert set(params) == {"conv1", "fc6"}
    jax.tree.map(np.testing.assert_array_equal, params, {name: there[name] for name in params})
    assert params["conv1"]["kernel"].sharding.spec == sharding.TOWERS
    flags = [f"--config.start.workdir={first}", "--config.start.layers=('conv1','fc6')", "--config.train.max_steps=1"]
    assert "finished step 1" in run(tmp_path, "second", *flags, "--config.optim.learning_rate=1e-9", "--config.seed=1")
    placed = steps.abstract_state(config, mesh).params
    _, after = checkpoint.restore_params(tmp_path / "second" / workdir.CHECKPOINTS, placed)
    np.testing.assert_allclose(after["conv1"]["kernel"], there["conv1"]["kernel"], atol=1e-6)
    assert not np.allclose(after["conv2"]["kernel"], there["conv2"]["kernel"], atol=1e-3)

    values.model.conv1.features = 48
    with pytest.raises(UserError, match=r"conv1 of .*first has the shapes .* leave it out of config.start.layers"):
        warm_start.params(config_files.parse(values), mesh)
    values.start.workdir = str(tmp_path)
    with pytest.raises(UserError, match="is not a workdir"):
        warm_start.params(config_files.parse(values), mesh)
