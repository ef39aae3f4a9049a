"""Several processes: the same run as one process, whatever happens to one of them."""

import os
import signal
from pathlib import Path

import pytest

from alexnet_jax import errors
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
    processes = runs.start_together(runs.command(home, directory, *flags(mesh), *more, devices=devices), count)
    return [runs.end(process, code) for process in processes]


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
    said = together(tmp_path, "several", layout, "--config.train.max_steps=17")
    assert "steps an epoch" in said[0] and not any("steps an epoch" in other for other in said[1:])
    stopped = runs.command(tmp_path, "several", *flags(mesh), devices=devices)
    processes = ended(runs.start_together(stopped, count))
    runs.until(processes[0], "resuming from step 17")
    runs.until(processes[0], "step 24/")
    processes[-1].send_signal(signal.SIGTERM)  # one is asked, all leave at the same step
    left = [runs.end(process, errors.EXIT_INTERRUPTED) for process in processes]
    assert all("is saved in" in messages for messages in left)
    steps = {messages.partition("interrupted: step ")[2].partition(" ")[0] for messages in left}
    assert len(steps) == 1 and 24 <= int(steps.pop()) < 46
    together(tmp_path, "several", layout)
    runs.end(one)
    path = tmp_path / "several" / METRICS
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if '"step": 17' not in line))  # validated at the first end
    if mesh == "1x2":
        runs.assert_same(tmp_path / "one", tmp_path / "several")
        return
    # Gloo adds the gradients of data parallelism in another order than one process does.
    together(tmp_path, "unbroken", layout)
    runs.assert_same(tmp_path / "unbroken", tmp_path / "several")
    for ours, theirs in zip(runs.log(tmp_path / "several")[:4], runs.log(tmp_path / "one")[:4], strict=True):
        assert ours.pop("loss") == pytest.approx(theirs.pop("loss"), rel=1e-6)
        assert ours == theirs


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


@pytest.mark.long
def test_one_of_two_hangs(tmp_path, ended, survived):
    """The watchdog of the other one ends it."""
    command = runs.command(tmp_path, "run", *flags("1x2"), "--config.train.stall_seconds=20", devices=1)
    processes = ended(runs.start_together([*command, "--config.train.epochs=2000"], 2))
    runs.until(processes[0], "step 12/")
    os.kill(processes[1].pid, signal.SIGSTOP)
    out, messages = processes[0].communicate(timeout=60)
    assert processes[0].returncode == errors.EXIT_STALLED, out + messages
    assert "stalled: no progress for 20 s (config.train.stall_seconds) in a training step" in messages
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
