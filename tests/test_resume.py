"""A run that is stopped and resumed ends where an uninterrupted one ends, bit for bit."""

import contextlib
import functools
import itertools
import signal
import time

import jax
import numpy as np
import pytest

from alexnet_jax import errors, sharding, steps, training
from alexnet_jax.errors import StorageError
from alexnet_jax.inference import network
from alexnet_jax.run import checkpoint, config_files, workdir
from tests import runs
from tests.runs import assert_same, final_state, log, run
from tests.tiny import tiny_config

pytestmark = pytest.mark.slow


@pytest.fixture
def command(tmp_path):
    return functools.partial(runs.command, tmp_path)


def test_two_steps_exit_and_two_more_are_four(command, tmp_path):
    """Parameters, their average, momentum, data order and metrics, across an exit in the middle of a log interval."""
    changing = ["--config.optim.schedule.name=cosine", "--config.optim.schedule.warmup_epochs=0.1"]  # at every step
    changing.append("--config.optim.ema_decay=0.9")
    run(command("whole", *changing, "--config.train.max_steps=4"))
    run(command("parts", *changing, "--config.train.max_steps=2"))
    assert final_state(tmp_path / "parts")[1].next_batch == 2
    output = run(command("parts", *changing, "--config.train.max_steps=4"))
    assert f"resuming from step 2 of {tmp_path / 'parts'}" in output
    lines = [
        line for line in (tmp_path / "parts" / workdir.METRICS).read_text().splitlines() if '"step": 2' not in line
    ]
    (tmp_path / "parts" / workdir.METRICS).write_text("\n".join(lines) + "\n")  # the validation at the first end
    assert_same(tmp_path / "whole", tmp_path / "parts")
    state, trained = final_state(tmp_path / "whole")[0], network.open_workdir(tmp_path / "whole")  # has the average
    jax.tree.map(np.testing.assert_array_equal, trained.params, state.average)
    assert not np.array_equal(state.params["fc8"]["kernel"], state.average["fc8"]["kernel"])
    assert log(tmp_path / "whole")[-1]["loss"] == pytest.approx(trained.evaluate()["loss"], rel=1e-5)


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, *(pytest.param(each, marks=pytest.mark.long) for each in (signal.SIGINT, signal.SIGKILL))],
)
def test_stopped_by_a_signal_and_started_again(number, whole, command, tmp_path):
    stopped = command("stopped", "--config.train.save_every_steps=10")
    process = runs.start(stopped)
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
        assert "is saved in" in messages and "the same command resumes it" in messages
    assert "Traceback" not in messages
    assert "resuming from step" in run(stopped)
    assert_same(whole, tmp_path / "stopped")
    if number == signal.SIGTERM:
        assert "resuming from step 46" in run(stopped)  # finished: nothing left to do, nothing lost
        assert_same(whole, tmp_path / "stopped")


def test_resumed_on_another_mesh(whole, command, tmp_path):
    """The same examples in the same order; numbers equal up to rounding."""
    run(command("remeshed", "--config.train.max_steps=23"))
    run(command("remeshed", "--config.mesh.tower=1", "--config.train.max_steps=30"))  # later, rounding has grown
    remeshed = {line["step"]: line for line in log(tmp_path / "remeshed") if line["phase"] == "train"}
    assert {24, 27, 30} <= set(remeshed)
    for line in log(whole):
        if line["phase"] == "train" and line["step"] in remeshed:
            assert line["count"] == remeshed[line["step"]]["count"]
            assert line["loss"] == pytest.approx(remeshed[line["step"]]["loss"], rel=1e-6)


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
        assert restored is not None and restored.position == position
        step, params = checkpoint.restore_params(tmp_path / "checkpoints", steps.abstract_state(cfg, mesh).params)
        assert step == 7
        for tree, there in ((restored.state, saved), (params, saved.params)):
            for a, b in zip(jax.tree.leaves(tree), jax.tree.leaves(there), strict=True):
                np.testing.assert_array_equal(a, b)
                if a.ndim:
                    assert a.sharding == jax.NamedSharding(mesh, sharding.TOWERS)


@pytest.mark.parametrize("calls", [2, 5])
def test_stopped_between_steps_and_within_the_last_validation(calls, tmp_path, monkeypatch):
    """Stopped at an exact place: after the first step, or between two batches of the last validation."""
    values = tiny_config()
    values.train.update(batch_size=512, epochs=1, log_every_steps=1, eval_every_epochs=1, eval_batch_size=120)
    cfg = config_files.parse(values)  # three steps, then three batches of validation
    training.train_and_evaluate(cfg, tmp_path / "whole")

    @contextlib.contextmanager
    def stop_later():
        counter = itertools.count(1)
        yield lambda: next(counter) >= calls

    with monkeypatch.context() as patch:
        patch.setattr(training, "stop_signals", stop_later)
        with pytest.raises(errors.Interrupted, match=f"step {1 if calls == 2 else 3} of 3 is saved"):
            training.train_and_evaluate(cfg, tmp_path / "stopped")
    assert not any(line["phase"] == "validation" for line in log(tmp_path / "stopped"))
    training.train_and_evaluate(cfg, tmp_path / "stopped")
    assert log(tmp_path / "stopped") == log(tmp_path / "whole")
    if calls == 2:
        assert_same(tmp_path / "whole", tmp_path / "stopped")


def test_a_run_that_reached_its_error_stays_ended(tmp_path, capsys):
    """Started again, it does nothing."""
    values = tiny_config()
    values.train.update(batch_size=64, epochs=99, log_every_steps=2, eval_batch_size=120, stop_error=0.95)
    values.data.train_examples = 256
    cfg = config_files.parse(values)
    training.train_and_evaluate(cfg, tmp_path)
    before, step = (tmp_path / workdir.METRICS).read_bytes(), log(tmp_path)[-1]["step"]
    assert f"finished step {step};" in capsys.readouterr().out and step < 99 * 4
    training.train_and_evaluate(cfg, tmp_path)
    assert f"finished step {step};" in capsys.readouterr().out
    assert (tmp_path / workdir.METRICS).read_bytes() == before
