"""Terminals that vanish, and pipes whose reader ends: a run saves all the same, or goes on under nohup."""

import os
import signal

import pytest

from alexnet_jax import errors
from alexnet_jax.run import stopping
from tests import forks, runs
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

# The leader of a session whose terminal is the one at TERMINAL.
ON_A_TERMINAL = """
import os, runpy
os.setsid()
terminal = os.open("TERMINAL", os.O_RDWR)
for standard in (0, 1, 2):
    os.dup2(terminal, standard)
runpy.run_module("alexnet_jax.main", run_name="__main__")
"""


def test_a_terminal_that_vanishes(tmp_path, survived):
    """As when a connection drops: the kernel sends SIGHUP, and nothing can be written to the terminal any more."""
    ours, theirs = os.openpty()
    python, _, _, *flags = runs.command(tmp_path, "run", "--config.train.epochs=2000")
    process = runs.start([python, "-c", ON_A_TERMINAL.replace("TERMINAL", os.ttyname(theirs)), *flags])
    shown = b""
    while b"the first step ended" not in shown:
        shown += os.read(ours, 4096)
    os.close(theirs)
    os.close(ours)
    assert process.wait(timeout=300) == errors.EXIT_INTERRUPTED
    assert runs.final_state(tmp_path / "run")[1].next_batch > 0
    reported = f"not at all: its terminal is gone; exit code {errors.EXIT_INTERRUPTED}"
    survived("A terminal that vanishes (SIGHUP)", 1, "nothing: saved after the step", reported)


def test_a_pipe_whose_reader_ends_with_the_signal(tmp_path):
    """As Ctrl-C does in `alexnet train | tee log`."""
    process = runs.start(
        runs.command(tmp_path, "run", "--config.train.epochs=2000", "--config.train.log_every_steps=1")
    )
    runs.until(process, "step 3/")
    process.send_signal(signal.SIGSTOP)  # so that it writes nothing between the two
    assert process.stdout and process.stderr
    process.stdout.close()
    process.stderr.close()
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    assert process.wait(timeout=300) == errors.EXIT_INTERRUPTED
    assert runs.final_state(tmp_path / "run")[1].next_batch >= 3


@pytest.mark.parametrize("ignored", [False, True], ids=["", "nohup"])
def test_hangups_come_several_times_and_nohup_ignores_them(ignored):
    """None of them ends the process at once, before or after another signal; the second of those does."""
    program = f"""
import os, signal
from alexnet_jax.run import stopping
if {ignored}:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
with stopping.stop_signals() as asked:
    for name in ("SIGHUP", "SIGHUP", "SIGTERM", "SIGHUP", "SIGUSR1"):
        os.kill(os.getpid(), getattr(signal, name))
        print(name, asked(), flush=True)
"""
    process = forks.Process("-c", program, cwd=ROOT, env=runs.environment())
    said, _ = process.communicate(timeout=60)
    assert said.split() == ["SIGHUP", str(not ignored), "SIGHUP", str(not ignored), "SIGTERM", "True", "SIGHUP", "True"]
    assert process.returncode == -signal.SIGUSR1 and signal.SIGHUP in stopping.SIGNALS
