"""A run that is stopped and started again ends bit for bit where an uninterrupted one ends."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from alexnet_jax import checkpoint, config_files, errors, sharding, steps, train, workdir
from alexnet_jax.errors import StorageError
from tests.conftest import ROOT, tiny_config

# A config file for the command, of the tests' own.
CONFIG = """
from tests.conftest import tiny_config

def get_config():
    config = tiny_config()
    config.train.update(batch_size=64, epochs=2, log_every_steps=3, eval_every_epochs=1, eval_batch_size=120)
    config.optim.schedule.update(name="plateau", patience_epochs=1)
    return config
"""


@pytest.fixture
def command(tmp_path):
    (tmp_path / "tiny.py").write_text(CONFIG)

    def make(directory: str, *flags: str) -> list[str]:
        base = [sys.executable, "-m", "alexnet_jax.main", f"--config={tmp_path / 'tiny.py'}", "--simulated_devices=2"]
        return [*base, f"--workdir={tmp_path / directory}", *flags]

    return make


def run(command: list[str], code: int = 0) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment())
    assert done.returncode == code, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def environment() -> dict[str, str]:
    """As a user's: without the simulated devices that the tests run on."""
    return {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_PLATFORMS")}


def final_state(directory: Path):
    """The newest state of a workdir on the host, and its position."""
    cfg = config_files.from_json((directory / workdir.CONFIG).read_text())
    mesh = sharding.make_mesh(1, 2, 2)
    with checkpoint.open_directory(directory / workdir.CHECKPOINTS, keep=9) as checkpoints:
        restored = checkpoint.restore(checkpoints, steps.abstract_state(cfg, mesh))
    assert restored is not None
    return jax.device_get(restored[0]), restored[1]


def log(directory: Path) -> list[dict]:
    """The lines of metrics.jsonl, without the times, which no two runs share."""
    lines = [json.loads(line) for line in (directory / workdir.METRICS).read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("images_per_s", "data_wait")} for line in lines]


def assert_same(one: Path, other: Path) -> None:
    (state, position), (other_state, other_position) = final_state(one), final_state(other)
    jax.tree.map(np.testing.assert_array_equal, state, other_state)
    assert position._replace(log_bytes=0) == other_position._replace(log_bytes=0)
    assert log(one) == log(other)


def test_two_steps_exit_and_two_more_are_four(command, tmp_path):
    """Parameters, momentum, data order and metrics, over an exit in the middle of a log interval."""
    run(command("whole", "--config.train.max_steps=4"))
    run(command("parts", "--config.train.max_steps=2"))
    assert final_state(tmp_path / "parts")[1].next_batch == 2
    output = run(command("parts", "--config.train.max_steps=4"))
    assert f"going on from step 2 of {tmp_path / 'parts'}" in output
    lines = [
        line for line in (tmp_path / "parts" / workdir.METRICS).read_text().splitlines() if '"step": 2' not in line
    ]
    (tmp_path / "parts" / workdir.METRICS).write_text("\n".join(lines) + "\n")  # the validation at the first end
    assert_same(tmp_path / "whole", tmp_path / "parts")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The workdir of the run that nobody stops."""
    home = tmp_path_factory.mktemp("whole")
    (home / "tiny.py").write_text(CONFIG)
    flags = [f"--config={home / 'tiny.py'}", f"--workdir={home / 'run'}", "--simulated_devices=2"]
    run([sys.executable, "-m", "alexnet_jax.main", *flags])
    return home / "run"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_stopped_by_a_signal_and_started_again(number, whole, command, tmp_path):
    stopped = command("stopped", "--config.train.save_every_steps=10")
    process = subprocess.Popen(
        stopped, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )
    metrics = tmp_path / "stopped" / workdir.METRICS
    saved = tmp_path / "stopped" / "checkpoints" / "10"
    while process.poll() is None and not (saved.exists() and metrics.read_text().count("\n") >= 5):
        time.sleep(0.01)
    process.send_signal(number)
    _, messages = process.communicate(timeout=60)
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == errors.EXIT_INTERRUPTED
        assert "is saved in" in messages and "give the same command again to go on" in messages
    assert "Traceback" not in messages
    assert "going on from step" in run(stopped)
    assert_same(whole, tmp_path / "stopped")
    if number == signal.SIGTERM:
        assert "going on from step 46" in run(stopped)  # finished: nothing left to do, nothing lost
        assert_same(whole, tmp_path / "stopped")


@pytest.mark.slow
def test_resumed_on_another_mesh(whole, command, tmp_path):
    """The same examples in the same order; numbers equal but for rounding."""
    run(command("moved", "--config.train.max_steps=23"))
    run(command("moved", "--config.mesh.tower=1", "--config.train.max_steps=30"))  # later, rounding has grown
    moved = {line["step"]: line for line in log(tmp_path / "moved") if line["split"] == "train"}
    assert {24, 27, 30} <= set(moved)
    for line in log(whole):
        if line["split"] == "train" and line["step"] in moved:
            assert line["count"] == moved[line["step"]]["count"]
            assert line["loss"] == pytest.approx(moved[line["step"]]["loss"], rel=1e-6)


def test_a_workdir_of_another_config_is_refused(command, tmp_path):
    run(command("taken", "--config.train.max_steps=2"))
    before = final_state(tmp_path / "taken")[1]
    message = run(command("taken", "--config.optim.learning_rate=0.5"), code=errors.EXIT_USER_ERROR)
    assert "belongs to a run with another config" in message
    assert "optim.learning_rate: 0.01 -> 0.5" in message
    message = run(command("taken", "--config.data.source=synthetic", "--config.data.eval_split=val"), code=2)
    assert "the data: " in message
    assert final_state(tmp_path / "taken")[1] == before


def test_a_restored_state_is_the_saved_one_on_any_mesh(tmp_path):
    cfg = config_files.parse(tiny_config())
    saved = steps.init_state(cfg, sharding.make_mesh(1, 2, 2))
    position = checkpoint.Position(7, checkpoint.Validation(5, 0.25, 3, 1), 123)
    with checkpoint.open_directory(tmp_path / "checkpoints", keep=2) as checkpoints:
        checkpoint.save(checkpoints, 7, saved, position, {})
        with pytest.raises(StorageError, match="the checkpoint of step 7 was not saved"):
            checkpoint.save(checkpoints, 7, saved, position, {})
    for data, tower in ((1, 1), (2, 2), (4, 1)):
        mesh = sharding.make_mesh(data, tower, 2)
        with checkpoint.open_directory(tmp_path / "checkpoints", keep=2) as checkpoints:
            restored = checkpoint.restore(checkpoints, steps.abstract_state(cfg, mesh))
        assert restored is not None and restored[1] == position
        step, params = checkpoint.restore_params(tmp_path / "checkpoints", steps.abstract_state(cfg, mesh).params)
        assert step == 7
        for tree, there in ((restored[0], saved), (params, saved.params)):
            for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(there), strict=True):
                np.testing.assert_array_equal(a, b)
                if a.ndim:
                    assert a.sharding == jax.NamedSharding(mesh, sharding.TOWERS)


@pytest.mark.parametrize("calls", [2, 5])
def test_stopped_between_steps_and_within_the_last_validation(calls, tmp_path, monkeypatch):
    """Asked to stop at an exact place: after the first step, and between two batches of the last validation."""
    values = tiny_config()
    values.train.update(batch_size=512, epochs=1, log_every_steps=1, eval_every_epochs=1, eval_batch_size=120)
    cfg = config_files.parse(values)  # three steps, then three batches of validation
    train.train_and_evaluate(cfg, tmp_path / "whole")

    @contextlib.contextmanager
    def stop_later():
        counter = itertools.count(1)
        yield lambda: next(counter) >= calls

    with monkeypatch.context() as patch:
        patch.setattr(train, "stop_signals", stop_later)
        with pytest.raises(errors.Interrupted, match=f"step {1 if calls == 2 else 3} of 3 is saved"):
            train.train_and_evaluate(cfg, tmp_path / "stopped")
    assert not any(line["split"] == "test" for line in log(tmp_path / "stopped"))
    train.train_and_evaluate(cfg, tmp_path / "stopped")
    assert log(tmp_path / "stopped") == log(tmp_path / "whole")
    if calls == 2:
        assert_same(tmp_path / "whole", tmp_path / "stopped")
