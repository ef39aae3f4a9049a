"""Where a run's time goes, and the end of one that stalls."""

import contextlib
import io
import itertools
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from alexnet_jax import errors
from alexnet_jax.errors import DataError
from alexnet_jax.run import progress
from alexnet_jax.run.progress import LEDGER, REPEATED, Entry, Progress, read, summary
from alexnet_jax.run.workdir import CHECKPOINTS
from tests import runs


def begun(first: int = 0) -> Progress:
    doing = Progress(time.monotonic())
    doing.begin(first)
    return doing


def test_sums_are_the_time_since_the_first_start():
    """Killed at step 9, having saved 6; then at 8, before a save; then the end."""
    entries = [
        Entry(100.0, 0, 6, {"compiling": 3.0, "training": 6.0}),
        Entry(100.0, 0, 9, {"compiling": 3.0, "training": 9.0, "saving": 0.5, "validating": 1.0}),
        Entry(120.0, 6, 6, {"compiling": 2.0, "training": 0.5}),
        Entry(120.0, 6, 8, {"compiling": 2.0, "training": 2.5, "waiting for data": 0.25}),
        Entry(130.0, 6, 20, {"compiling": 1.0, "training": 14.0}),
    ]
    assert summary(entries) == {
        "compiling": 6.0,
        "training": 6.0 + 0.5 + 14.0,
        "saving": 0.5,
        "validating": 0.0,
        "waiting for data": 0.0,
        "lost": 3.0 + 1.0 + 2.0 + 0.25,
        "down": 120 - 113.5 + 130 - 124.75,
    }
    assert sum(summary(entries).values()) == 130 + 15 - 100
    assert summary([]) == {}


def test_a_start_from_an_older_checkpoint_loses_what_came_after_it():
    """Of both starts before: the newer checkpoints were damaged. Clocks that go backwards give no negative time."""
    entries = [
        Entry(100.0, 0, 10, {"training": 10.0}),
        Entry(100.0, 0, 20, {"training": 20.0}),
        Entry(119.0, 20, 30, {"training": 10.0, "restoring": 1.0}),
        Entry(140.0, 10, 40, {"training": 30.0}),
    ]
    assert summary(entries) == {"training": 40.0, "restoring": 1.0, "lost": 20.0, "down": 10.0}


def test_a_line_cut_by_a_power_failure(tmp_path):
    """It is not read; and the next start cuts it off."""
    doing = begun()
    with doing.ledger(tmp_path):
        doing.write()
    whole = (tmp_path / LEDGER).read_bytes()
    (tmp_path / LEDGER).write_bytes(whole + whole[:20])
    assert len(read(tmp_path)) == 2  # written once more at the end
    with begun(3).ledger(tmp_path):
        pass
    assert [entry.first for entry in read(tmp_path)] == [0, 0, 3]


@pytest.mark.parametrize(
    "content",
    [
        b"{\n",
        b"\xff\xfe\n",
        b"[]\n",
        b'{"started": 1.0, "first": 0, "step": 1}\n',
        b'{"started": "1", "first": 0, "step": 1, "seconds": {}}\n',
        b'{"started": 1.0, "first": 0, "step": 1, "seconds": {"training": "long"}}\n',
        b'{"started": 1.0, "first": 0, "step": null, "seconds": {}}\n',
    ],
)
def test_a_damaged_ledger(content, tmp_path):
    (tmp_path / LEDGER).write_bytes(content)
    with pytest.raises(DataError, match=r"ledger\.jsonl is damaged: .*; without it, the run's times are unknown"):
        summary(read(tmp_path))


@contextlib.contextmanager
def longest_file(size: int) -> Iterator[None]:
    """Files of this process may not grow beyond `size` bytes: like a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_ends_no_run_and_leaves_no_half_line(tmp_path, monkeypatch):
    """Written later, once there is room; closing the file does not fail either."""
    monkeypatch.setattr(progress, "TICK", 1000)  # no line but those written here
    doing = begun()
    with doing.ledger(tmp_path):
        doing.write()
        size = (tmp_path / LEDGER).stat().st_size
        with longest_file(size + 30):
            doing.step = 5
            doing.write()
            doing.write()
            assert (tmp_path / LEDGER).stat().st_size == size
        doing.write()
        assert [entry.step for entry in read(tmp_path)] == [0, 5]
        with longest_file((tmp_path / LEDGER).stat().st_size + 30), contextlib.ExitStack() as stack:
            stack.enter_context(begun(7).ledger(tmp_path))
    assert [entry.step for entry in read(tmp_path)] == [0, 5, 5]


def test_a_ledger_that_cannot_be_opened_ends_no_run(tmp_path, capsys):
    (tmp_path / LEDGER).mkdir()
    doing = begun()
    with doing.ledger(tmp_path):
        doing("training")
        doing.write()
    assert f"warning: {tmp_path / LEDGER} is not kept: " in capsys.readouterr().err
    with pytest.raises(DataError, match="delete it"):
        read(tmp_path)


def test_storage_that_hangs_under_the_ledger_holds_up_no_step(tmp_path):
    writing, repaired = threading.Event(), threading.Event()

    class Hanging(io.FileIO):
        def write(self, line):
            writing.set()
            repaired.wait()
            return super().write(line)

    doing = begun()
    with Hanging(tmp_path / LEDGER, "ab") as doing._file:
        others = [threading.Thread(target=doing.write), threading.Thread(target=doing, args=("training",))]
        others[0].start()
        writing.wait()
        others[1].start()
        others[1].join(10)
        waits = others[1].is_alive()
        repaired.set()
        for other in others:
            other.join()
    assert not waits and len(read(tmp_path)) == 1


def test_the_watchdog_counts_its_own_looks(monkeypatch, capfd):
    """A process that was suspended has looked at nothing; one that stalls, and is awake, ends."""
    monkeypatch.setattr(progress.os, "_exit", lambda code: pytest.fail(f"exit {code}"))
    doing = Progress(time.monotonic() - 1000)
    for _ in range(40):
        doing.tick(0.25, 10)
    doing("training")
    for _ in range(40):
        doing.tick(0.25, 10)
    with doing._lock, pytest.raises(pytest.fail.Exception, match=f"exit {errors.EXIT_STALLED}"):
        doing.tick(0.25, 10)  # also while the storage hangs under a line of the ledger
    assert "stalled: no progress for 10 s (config.train.stall_seconds) while training" in capfd.readouterr().err
    monkeypatch.undo()
    for _ in range(1000):
        doing.tick(0.25, 0)  # no limit


@pytest.mark.long
def test_a_run_that_was_suspended_goes_on(tmp_path):
    """Ctrl-Z, or `scontrol suspend`, for longer than it may make no progress."""
    process = runs.start(runs.command(tmp_path, "run", "--config.train.stall_seconds=10"))
    runs.until(process, "step 12/")
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(13)  # the time that is suspended is what this tests
    os.kill(process.pid, signal.SIGCONT)
    assert "finished step 46" in runs.end(process)


@pytest.mark.long
def test_the_ledger_of_a_run_that_was_killed_three_times(tmp_path):
    """While training, within a save, and before its first step; with pauses. Python itself is started, not forked."""
    flags = ["--config.train.save_every_steps=10", "--config.train.log_every_steps=1"]
    command, began, pause = runs.command(tmp_path, "run", *flags), time.time(), 0.5

    def killed(text: str, within_save: bool = False) -> None:
        process = runs.start(command, env={"PYTHONUNBUFFERED": "1"})
        runs.until(process, text)
        while within_save and not list((tmp_path / "run" / CHECKPOINTS).glob("*tmp*")):
            assert process.poll() is None
            time.sleep(0.0005)
        process.kill()
        process.communicate()
        time.sleep(pause)

    killed("step 17/")
    killed("step 18/", within_save=True)
    killed("steps an epoch")
    runs.end(runs.start(command, env={"PYTHONUNBUFFERED": "1"}))
    ended, entries = time.time(), read(tmp_path / "run")
    by_start = [list(lines) for _, lines in itertools.groupby(entries, key=lambda entry: entry.started)]
    first, *_, last = by_start
    seconds, wall = summary(entries), last[-1].started + sum(last[-1].seconds.values()) - first[0].started
    assert began < first[0].started < first[0].started + sum(seconds.values()) <= ended
    assert sum(seconds.values()) == pytest.approx(wall, rel=0.01)
    # Not booked: the start of Python up to the package's import, and the exit of the process after the last line.
    assert sum(seconds.values()) > 0.99 * (ended - began) - 2
    assert seconds["down"] >= 3 * pause
    assert first[0].first == 0 and by_start[1][0].first == 10 and last[-1].step == 46
    again = 0.0  # what the first two starts did after the newest checkpoint that the next one found
    for lines, later in itertools.pairwise(by_start):
        kept = [sum(line.seconds.get(x, 0) for x in REPEATED) for line in lines if line.step <= later[0].first]
        again += sum(lines[-1].seconds.get(x, 0) for x in REPEATED) - (kept or [0])[-1]
    assert seconds["lost"] == pytest.approx(again) and again > 0
    assert {"importing", "opening", "restoring", "compiling", "training", "validating", "saving"} <= seconds.keys()
