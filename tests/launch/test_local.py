"""launch/local.sh with several processes: signals, failures, and that no process is left behind."""

import signal
import subprocess
import sys

import pytest

from tests import runs
from tests.launch.conftest import wait_for

TWO = ("--processes", "2", "a config.py", "a workdir", "2")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_reaches_each_process_once(project, number):
    launched = project.start("local.sh", *TWO)
    project.wait_for(2, "training", "pid")
    launched.send_signal(number)
    output = runs.end(launched, 75)
    assert len(project.noted("received 15")) == 2 and not project.still_running()
    assert "process 0 of 2" in output and "[1] process 1 of 2" in output


@pytest.mark.slow
def test_hangups_may_come_several_times(project):
    """As when a connection drops: the kernel, the shell and the login service may each send one."""
    launched = project.start("local.sh", *TWO, SIGNALS="2")
    project.wait_for(2, "training", "pid")
    launched.send_signal(signal.SIGHUP)
    project.wait_for(2, "signal 1")
    launched.send_signal(signal.SIGHUP)
    runs.end(launched, 75)
    assert len(project.noted("received 1 1")) == 2 and not project.still_running()


def test_ctrl_c_reaches_each_process_once(project):
    """A terminal signals all its foreground processes, and the script forwards it: none may get it twice."""
    terminal = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
    words = [sys.executable, "-c", terminal, "bash", "launch/local.sh", *TWO]
    process = subprocess.Popen(
        words, cwd=project.home, env=project.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    project.started.append(process)
    project.wait_for(2, "training", "pid")
    assert process.stdin
    process.stdin.write("\x03")
    process.stdin.flush()
    assert process.wait(timeout=60) == 75
    assert len(project.noted("received 15")) == 2 and not project.still_running()


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_signal_in_the_preflight_is_not_lost(project, processes):
    launched = project.start("local.sh", "--processes", processes, "c", "w", "2", SLOW="preflight")
    project.wait_for(int(processes), "preflight", "pid")
    launched.send_signal(signal.SIGINT)
    runs.end(launched, 128 + signal.SIGTERM)
    assert not project.noted("training") and not project.still_running()


@pytest.mark.slow
@pytest.mark.parametrize("code", [2, 75])
def test_the_exit_code_is_that_of_the_first_that_fails(project, code):
    """The other one, which ignores it, is killed."""
    launched = project.start("local.sh", *TWO, ENDS=f"1:{code}", GRACE="1", IGNORES="0")
    runs.end(launched, code)
    assert not project.still_running()


def test_a_failed_preflight_ends_before_training(project):
    for processes in ("1", "2"):
        runs.end(project.start("local.sh", "--processes", processes, "c", "w", "2", ENDS="preflight,0:2"), 2)
    assert project.noted("preflight") and not project.noted("training")


def test_the_processes_end_with_the_script(project):
    """Even when it is killed: they save, as on a signal."""
    launched = project.start("local.sh", *TWO)
    project.wait_for(2, "training", "pid")
    launched.kill()
    project.wait_for(2, "received 15")
    wait_for(lambda: not project.still_running(), "the end of all", project.notes)


def test_each_process_gets_one_of_the_visible_gpus(project):
    runs.end(project.start("local.sh", *TWO[:4], CUDA_VISIBLE_DEVICES="5,7", ENDS="0:0 1:0"))
    assert project.noted("training,0", "gpus 5") and project.noted("training,1", "gpus 7")
    refused = project.start("local.sh", *TWO[:4], CUDA_VISIBLE_DEVICES="5")
    assert "CUDA_VISIBLE_DEVICES names 1 GPU(s) for 2 processes" in runs.end(refused, 2)


def test_values_reach_each_process_unchanged(project):
    values = ["$(touch x)", "'; touch x; \"", "`touch x`", "*", "a  b", "", "-n"]
    words = [f"--config.start.workdir={value}" for value in values]
    runs.end(project.start("local.sh", *TWO, *words, ENDS="0:0 1:0"))
    assert len(project.noted(str(["--config", "a config.py", "--workdir", "a workdir"])[1:-1])) == 4
    assert len(project.noted(str(words)[1:-1])) == 4


@pytest.mark.parametrize("words", [["--processes"], ["--processes", "0", "c", "w"], ["--processes", "2", "c"], ["-x"]])
def test_misuse_prints_the_usage(project, words):
    assert "bash launch/local.sh [--processes N]" in runs.end(project.start("local.sh", *words), 2)


def test_the_number_of_devices(project):
    assert "give a multiple" in runs.end(project.start("local.sh", "--processes", "2", "c", "w", "3"), 2)
    printed = subprocess.run(
        ["bash", "launch/local.sh", "--dry-run", "c", "w", "08"], cwd=project.home, capture_output=True, text=True
    )
    assert "--simulated_devices=8" in printed.stdout
