"""SIGKILL at any moment: at most one save interval is lost, and the end is the same, bit for bit."""

import contextlib
import errno
import fcntl
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from alexnet_jax import errors
from alexnet_jax.data import shards
from alexnet_jax.run import workdir
from alexnet_jax.run.workdir import CHECKPOINTS, METRICS
from tests import runs

pytestmark = pytest.mark.slow

SAVE_EVERY = 4


def last_saved(directory: Path) -> int:
    """The last step that a killed run has saved."""
    saved = [int(path.name) for path in (directory / CHECKPOINTS).glob("*") if path.name.isdigit()]
    return max(saved, default=0)


def kill(process, directory: Path, rng: random.Random, within_save: bool) -> bool:
    """Kill a run at a random moment of its training, or while a checkpoint is written. Whether it was in time."""
    runs.until(process, "steps an epoch")
    if within_save:
        while process.poll() is None and not list((directory / CHECKPOINTS).glob("*tmp*")):
            time.sleep(0.0005)
    else:
        if rng.random() < 0.8:
            runs.until(process, "the first step ended")  # else it may be before that
        time.sleep(rng.uniform(0, 1))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("tries", [2, pytest.param(20, marks=pytest.mark.long)])
def test_killed_at_random_moments(tries, tmp_path, survived):
    """Every second kill comes while a checkpoint is written."""
    rng = random.Random(tries)
    flags = [f"--config.train.save_every_steps={SAVE_EVERY}", f"--config.train.epochs={2 * tries + 6}"]
    flags += ["--config.train.eval_every_epochs=2"]
    whole = runs.start(runs.command(tmp_path, "whole", *flags))
    killed, in_saves, before = 0, 0, 0
    while killed < tries:
        process = runs.start(runs.command(tmp_path, "killed", *flags))
        within_save = killed % 2 == 0
        assert kill(process, tmp_path / "killed", rng, within_save), "it ended before it was killed"
        killed, in_saves = killed + 1, in_saves + bool(list((tmp_path / "killed" / CHECKPOINTS).glob("*tmp*")))
        saved = last_saved(tmp_path / "killed")
        assert saved >= before  # what was saved once stays
        before = saved
    last_logged = max((line["step"] for line in runs.log(tmp_path / "killed")), default=0)
    output = runs.end(runs.start(runs.command(tmp_path, "killed", *flags)), seconds=600)
    resumed_from = int((re.search(r"resuming from step (\d+)", output) or [0, "0"])[1])
    assert resumed_from == before >= last_logged - SAVE_EVERY - 3  # 3: steps that were still on their way
    assert in_saves >= tries // 4
    runs.end(whole, seconds=600)
    runs.assert_same(tmp_path / "whole", tmp_path / "killed")
    survived("SIGKILL at random moments", tries, "at most one save interval; then equal bit for bit", "by the shell")


def test_a_second_signal_ends_at_once(tmp_path, survived):
    """Even while the save that the first one asked for hangs."""
    hanging = """
import runpy, time
from alexnet_jax.run import checkpoint
def hang(*arguments):
    print("the save hangs", flush=True)
    time.sleep(1000)
checkpoint.save = hang
runpy.run_module("alexnet_jax.main", run_name="__main__")
"""
    python, _, _, *flags = runs.command(tmp_path, "run", "--config.train.epochs=2000")
    process = runs.start([python, "-c", hanging, *flags])
    runs.until(process, "step 3/")
    process.send_signal(signal.SIGTERM)
    runs.until(process, "the save hangs")
    process.send_signal(signal.SIGTERM)
    messages = process.communicate(timeout=10)[1]
    assert process.returncode == -signal.SIGTERM
    assert "once more ends at once" in messages
    survived("A second SIGTERM", 1, "at most one save interval", "on stderr, after the first")


def test_two_runs_on_one_workdir(tmp_path, survived):
    """The second one refuses to start; the lock of a killed run blocks nobody."""
    first = runs.start(runs.command(tmp_path, "run", "--config.train.epochs=2000"))
    runs.until(first, "step 3/")
    refused = runs.run(runs.command(tmp_path, "run", "--config.train.epochs=2000"), errors.EXIT_USER_ERROR)
    assert f"another run is active in {tmp_path / 'run'}: process {first.pid} on" in refused
    assert first.poll() is None
    first.kill()
    first.communicate()
    runs.run(runs.command(tmp_path, "run", "--config.train.max_steps=2"))
    survived("Two runs on one workdir", 1, "nothing", f"the second ends with exit code {errors.EXIT_USER_ERROR}")


def test_a_clock_that_goes_backwards(whole, tmp_path, survived):
    """By an hour, each time that the time of day is read."""
    backwards = "import time, sys; t = [2e9]\ndef back():\n    t[0] -= 3600\n    return t[0]\ntime.time = back\n"
    program = backwards + "import runpy; runpy.run_module('alexnet_jax.main', run_name='__main__')"
    python, _, _, *flags = runs.command(tmp_path, "run", "--config.train.save_every_steps=10")
    runs.run([python, "-c", program, *flags, "--config.train.max_steps=20"])
    runs.run([python, "-c", program, *flags])
    shutil.copy(tmp_path / "run" / METRICS, tmp_path / "metrics.txt")
    lines = [line for line in runs.log(tmp_path / "run") if line["step"] != 20]  # the validation at the first end
    assert lines == runs.log(whole)
    survived("A clock that goes backwards", 2, "nothing", "not at all")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EIO])
def test_storage_without_locks(number, tmp_path, monkeypatch, capsys):
    """As Lustre without -o flock: a warning, from training and from `prepare`. Other errors are the storage's."""

    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    for lock in (workdir.lock(tmp_path / "run"), shards.locked(tmp_path / "data", "plan")):
        with pytest.raises(OSError, match="Input/output") if number == errno.EIO else contextlib.nullcontext(), lock:
            assert f"cannot be locked ({os.strerror(number)}): let no other process use it" in capsys.readouterr().err


def test_a_workdir_whose_name_is_not_utf8(tmp_path):
    """TensorStore cannot write there. Refused at once, not at the first save."""
    name = os.fsdecode(b"caf\xe9")
    said = runs.run(runs.command(tmp_path, name, "--config.train.max_steps=1"), errors.EXIT_USER_ERROR)
    assert "caf\\udce9 is not UTF-8; give another --workdir" in said and not (tmp_path / name).exists()
