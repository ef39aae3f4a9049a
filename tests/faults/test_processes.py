"""Several processes: the same run as one process, whatever happens to one of them."""

import errno
import os
import signal
import sys
from pathlib import Path

import jax
import pytest

from alexnet_jax import errors
from alexnet_jax.run import checkpoint, processes
from alexnet_jax.run.workdir import METRICS
from tests import runs

pytestmark = pytest.mark.slow

ENDED = (errors.EXIT_LOST_PEER, -signal.SIGABRT)  # which comes first: our error, or that of JAX's service
# name -> processes, devices each, mesh
TWO = "two hosts, a tower each"
LAYOUTS = {
    TWO: (2, 1, "1x2"),
    "two hosts, both towers each": (2, 2, "2x2"),
    "four hosts, a tower each": (4, 1, "2x2"),
}


def flags(mesh: str) -> list[str]:
    data, tower = mesh.split("x")
    return [f"--config.mesh.data={data}", f"--config.mesh.tower={tower}", "--config.train.save_every_steps=10"]


def together(home: Path, directory: str, layout: str, *more: str, code: int | tuple[int, ...] = 0) -> list[str]:
    count, devices, mesh = LAYOUTS[layout]
    started = runs.start_together(runs.command(home, directory, *flags(mesh), *more, devices=devices), count)
    return [runs.end(process, code) for process in started]


@pytest.fixture
def ended():
    """Kill what a test started and left behind."""
    started = []

    def later(processes):
        started.extend(processes)
        return processes

    yield later
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("layout", [pytest.param(x, marks=[] if x == TWO else pytest.mark.long) for x in LAYOUTS])
def test_several_processes_are_one(layout, tmp_path, ended):
    """Same losses and evaluation as one process on the same mesh. Stopped, they resume bit for bit."""
    count, devices, mesh = LAYOUTS[layout]
    one = ended([runs.start(runs.command(tmp_path, "one", *flags(mesh), devices=devices * count))])[0]
    stopped = runs.command(tmp_path, "several", *flags(mesh), devices=devices)
    processes = ended(runs.start_together(stopped, count))
    assert any("steps an epoch" in line for line in runs.until(processes[0], "step 24/"))
    processes[-1].send_signal(signal.SIGTERM)  # one is asked, all leave at the same step
    left = [runs.end(process, errors.EXIT_INTERRUPTED) for process in processes]
    assert all("is saved in" in messages for messages in left)
    assert not any("steps an epoch" in messages for messages in left)  # what the first one said is read already
    steps = {messages.partition("interrupted: step ")[2].partition(" ")[0] for messages in left}
    assert len(steps) == 1 and 24 <= int(steps.pop()) < 46
    together(tmp_path, "several", layout)
    runs.end(one)
    if mesh == "1x2":
        runs.assert_same(tmp_path / "one", tmp_path / "several")
        return
    # Gloo adds the gradients of data parallelism in another order than one process does.
    together(tmp_path, "unbroken", layout)
    runs.assert_same(tmp_path / "unbroken", tmp_path / "several")
    for ours, theirs in zip(runs.log(tmp_path / "several")[:4], runs.log(tmp_path / "one")[:4], strict=True):
        assert ours.pop("loss") == pytest.approx(theirs.pop("loss"), rel=1e-6)
        assert ours | {"checksum": ""} == theirs | {"checksum": ""}  # that of the parameters differs


@pytest.mark.long
@pytest.mark.parametrize("victim", [0, 1])
def test_one_of_two_is_killed(victim, tmp_path, ended, survived, whole):
    """The other ends within a minute, with an exit code of its own; started again, both resume."""
    command = runs.command(tmp_path, "run", *flags("1x2"), devices=1)
    processes = ended(runs.start_together(command, 2))
    runs.until(processes[0], "step 12/")
    processes[victim].kill()
    processes[victim].communicate()
    messages = runs.end(processes[1 - victim], ENDED, seconds=60)
    assert "lost peer: " in messages or "another task died" in messages
    together(tmp_path, "run", TWO)
    runs.assert_same(whole, tmp_path / "run")
    who = "first" if victim == 0 else "second"
    reported = f"the other ends within a minute; exit code {errors.EXIT_LOST_PEER}, or 134 by JAX"
    survived(f"The {who} of two processes killed", 1, "at most one save interval", reported)


SAVES = """
import os, resource, runpy, signal, sys
import orbax.checkpoint as ocp
save = ocp.CheckpointManager.save
def fails(*arguments, **options):
    if "--process_id=1" in sys.argv and "FAULT" == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if "--process_id=1" in sys.argv:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    return save(*arguments, **options)
ocp.CheckpointManager.save = fails
runpy.run_module("alexnet_jax.main", run_name="__main__")
"""


@pytest.mark.long
@pytest.mark.parametrize(("fault", "code"), [("killed", -signal.SIGKILL), ("full", errors.EXIT_STORAGE)])
def test_one_of_two_fails_in_a_save(fault, code, tmp_path, ended):
    """Killed, or out of space: the other one has lost a peer, and does not blame the storage."""
    more = ("--config.train.save_every_steps=2", "--config.train.stall_seconds=60")
    python, _, _, *rest = runs.command(tmp_path, "run", *flags("1x2"), *more, devices=1)
    first, second = ended(runs.start_together([python, "-c", SAVES.replace("FAULT", fault), *rest], 2))
    said = runs.end(second, code)
    assert fault == "killed" or "storage error: a checkpoint could not be written" in said
    if fault == "killed":
        assert "lost peer: " in runs.end(first, errors.EXIT_LOST_PEER)


def test_which_errors_of_a_save_are_of_a_lost_peer(tmp_path, monkeypatch):
    """What JAX raises at a barrier is, also where Orbax raises TimeoutError in its place; that of a disk is not."""

    def reported(error: Exception, cause: Exception | None = None) -> type[Exception]:
        with (
            pytest.raises(errors.CommandError) as raised,
            processes.detect_lost_peers(),
            checkpoint.open_directory(tmp_path, keep=1) as checkpoints,
            checkpoint._storage(checkpoints),
        ):
            monkeypatch.setattr(jax, "process_count", lambda: 2)
            raise error from cause
        monkeypatch.undo()
        return raised.type

    barrier = jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: Barrier timed out. Id: async_write_complete")
    assert reported(barrier) == reported(TimeoutError("Timed out"), barrier) == errors.LostPeer
    assert reported(OSError(errno.ENOSPC, "No space left on device")) == errors.StorageError
    assert reported(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")) == errors.StorageError
    assert reported(TimeoutError("Timed out after 1200 seconds.")) == errors.StorageError


@pytest.mark.long
def test_one_of_two_hangs(tmp_path, ended, survived):
    """The watchdog of the other one ends it."""
    command = runs.command(tmp_path, "run", *flags("1x2"), "--config.train.stall_seconds=20", devices=1)
    processes = ended(runs.start_together([*command, "--config.train.epochs=2000"], 2))
    runs.until(processes[0], "step 12/")
    os.kill(processes[1].pid, signal.SIGSTOP)
    out, messages = processes[0].communicate(timeout=60)
    assert processes[0].returncode == errors.EXIT_STALLED, out + messages
    assert "stalled: no progress for 20 s (config.train.stall_seconds) while training" in messages
    assert "another process of the run has stopped" in messages and "most recent call first" in messages
    reported = f"by config.train.stall_seconds, with all stacks; exit code {errors.EXIT_STALLED}"
    survived("One of two processes hangs", 1, "at most one save interval", reported)


def test_processes_that_differ_are_refused(tmp_path, ended):
    command = runs.command(tmp_path, "run", *flags("1x2"), devices=1)
    processes = ended(runs.start_together(command, 2, last=("--config.seed=7",)))
    said = [runs.end(process, (errors.EXIT_USER_ERROR, *ENDED)) for process in processes]
    assert any("the config must be the same in all processes, but that of process(es) 1 differs" in one for one in said)
    assert not (tmp_path / "run" / METRICS).exists()
    said = together(tmp_path, "run", TWO, "--config.mesh.tower=1", code=(errors.EXIT_USER_ERROR, *ENDED))
    assert any("takes only 1 x 1 of the 2 devices of 2 processes" in one for one in said)


JOIN = """
import sys
from alexnet_jax.run import start_up
start_up.prepare_process()
import jax
jax.config.update("jax_platforms", "cpu")
from alexnet_jax.run import processes
flags = dict(flag.lstrip("-").split("=") for flag in sys.argv[1:])
processes.start(flags["coordinator_address"], int(flags["num_processes"]), int(flags["process_id"]))
assert jax.jit(lambda x: x + 1)(1) == 2
"""


def test_several_processes_share_compiled_programs_or_keep_none(tmp_path, ended):
    """Only the first process writes them: in a folder for each host, only it would find them at the next start."""
    for named in ("", str(tmp_path / "shared")):
        env = {"XDG_CACHE_HOME": str(tmp_path / "own"), "JAX_COMPILATION_CACHE_DIR": named}
        for process in ended(runs.start_together([sys.executable, "-c", JOIN], 2, env=env)):
            runs.end(process)
    assert list((tmp_path / "shared").glob("jit_*")) and not (tmp_path / "own").exists()


# Runs the command of training where the image 7 of each split cannot be read in the process VICTIM; or, where VICTIM is
# None, does not count.
UNREADABLE = """
import runpy, sys
import numpy as np
from alexnet_jax.data import loader
from alexnet_jax.data.streaming import Streamed
read, load = Streamed.read, loader._load
def damaged(self, index, out):
    read(self, index, out)
    return {{row: "damaged" for row in np.flatnonzero(np.asarray(index) == 7).tolist()}}
def masked(*arguments):
    batch, bad = load(*arguments)
    batch.mask[batch.example == 7] = False
    return batch, bad
if "--process_id={victim}" in sys.argv:
    Streamed.read = damaged
if {victim} is None:
    loader._load = masked
runpy.run_module("alexnet_jax.main", run_name="__main__")
"""


@pytest.mark.long
def test_one_tower_cannot_read_an_image(tmp_path, ended):
    """Whichever it is, both leave the image out, as if it did not count, in training and in validation."""
    logs = {}
    for victim in (0, 1, None):
        directory = str(victim)
        python, _, _, *command = runs.command(
            tmp_path, directory, *flags("1x2"), "--config.data.max_bad=0.01", "--config.train.epochs=1", devices=1
        )
        command = [python, "-c", UNREADABLE.format(victim=victim), *command]
        processes = ended(runs.start_together(command, 2))
        said = [runs.end(process) for process in processes]
        for split in ("train", "test"):
            found = [one.count(f"bad record: image 7, {split}/7, damaged") for one in said]
            assert found == [victim == i for i in (0, 1)]
        logs[victim] = [line | {"bad_records": 0} for line in runs.log(tmp_path / directory)]
    assert logs[0] == logs[1] == logs[None]
    assert logs[None][-1]["phase"] == "validation" and logs[None][-1]["count"] == 359
    assert sum(line["count"] for line in logs[None] if line["phase"] == "train") in (1343, 1344)
