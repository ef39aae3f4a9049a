"""The TPU scripts with a stand-in for gcloud, whose single worker runs what it is given."""

import shlex
import signal
import subprocess
import sys

import pytest

from tests import runs
from tests.launch.conftest import STAND_INS, path_to

ARGUMENTS = ("a-tpu", "us-central1-a", "v6e-8", "configs/paper.py", "/mnt/nfs/run of 'x'; touch x", "--config.seed=1")


@pytest.fixture
def cloud(project):
    """The project, and gcloud without a TPU yet. The packages are already installed on the worker."""
    tpu, programs = project.home.parent / "tpu", project.home.parent / "programs"
    installed = tpu / "worker/alexnet_jax/.venv"
    for folder in (programs, installed / "bin"):
        folder.mkdir(parents=True)
    (programs / "gcloud").write_text(f'#!/bin/sh\nexec {sys.executable} {STAND_INS / "gcloud.py"} "$@"\n')
    (programs / "gcloud").chmod(0o755)
    (installed / "bin/python").symlink_to(sys.executable)
    version = subprocess.run([sys.executable, "-V"], capture_output=True, text=True, check=True).stdout.strip()
    files = "".join((project.home / name).read_text() for name in ("pyproject.toml", "launch/constraints.txt"))
    (installed / "installed").write_text(f"{files.rstrip()} {version} tpu")
    project.env |= {"PATH": path_to(programs), "TPU": str(tpu), "PYTHON": sys.executable, "PAUSE": "0"}
    project.tpu = tpu
    return project


def calls(project, *words: str) -> list[str]:
    return [line for line in (project.tpu / "calls").read_text().splitlines() if all(word in line for word in words)]


@pytest.mark.slow
@pytest.mark.parametrize("script", ["tpu_vm.sh", "tpu_queued.sh"])
def test_from_nothing_to_the_end(cloud, script):
    """Creates, copies, checks and trains; the user's values arrive unchanged."""
    assert "installing" not in runs.end(cloud.start(script, *ARGUMENTS, ENDS="0:0"))
    assert [line.partition(",")[0] for line in cloud.noted("argv")] == ["preflight", "training"]
    argv = ["--distributed", "--config", "configs/paper.py", "--workdir", ARGUMENTS[4], ARGUMENTS[5]]
    assert len(cloud.noted(str(argv)[1:-1])) == 2
    assert len(calls(cloud, "create")) == 1
    assert (cloud.tpu / "state").exists() == (script == "tpu_vm.sh")


@pytest.mark.slow
@pytest.mark.parametrize("script", ["tpu_vm.sh", "tpu_queued.sh"])
def test_a_failed_preflight_ends_before_training(cloud, script):
    runs.end(cloud.start(script, *ARGUMENTS, ENDS="preflight,0:2"), 2)
    assert not cloud.noted("training")


@pytest.mark.parametrize("script", ["tpu_vm.sh", "tpu_queued.sh"])
def test_a_failed_copy_ends_it(cloud, script):
    (cloud.tpu / "plan").write_text("scp|1")
    runs.end(cloud.start(script, *ARGUMENTS), 1)
    assert not cloud.noted("preflight")


def test_a_preempted_vm_is_created_again(cloud):
    (cloud.tpu / "state").write_text("PREEMPTED")
    runs.end(cloud.start("tpu_vm.sh", "--spot", *ARGUMENTS, ENDS="0:0"))
    assert [line.split()[3] for line in calls(cloud, "tpu-vm") if "ssh" not in line and "scp" not in line] == [
        "describe",
        "delete",
        "create",
    ]
    assert calls(cloud, "create")[0].endswith("--version=v2-alpha-tpuv6e --spot")


@pytest.mark.slow
def test_preemptions_in_the_queue_are_survived(cloud):
    """During the training, the copy and in the queue itself; at last the training ends and the TPU is released."""
    ssh = "--distributed --config configs/paper.py"
    saved = f"{ssh}|75\ndescribe|0|ACTIVE\ndescribe|0|SUSPENDING\ndescribe|0|SUSPENDED\n"  # by a signal of the cloud
    (cloud.tpu / "plan").write_text(f"{ssh}|255|SUSPENDED\nscp|1|FAILED\n{saved}{ssh}|69\n{ssh}|255|ACTIVE\n")
    output = runs.end(cloud.start("tpu_queued.sh", *ARGUMENTS, ENDS="0:70"), 70)
    assert [line.partition(": ")[0] for line in output.splitlines() if "trying again" in line] == [
        "exit code 255, the TPU is SUSPENDED",
        "exit code 1, the TPU is FAILED",
        "exit code 75, the TPU is SUSPENDING",
        "exit code 69, the TPU is ACTIVE",
        "exit code 255, the TPU is ACTIVE",
    ]
    assert len(calls(cloud, "queued-resources", "create")) == 4
    assert len(calls(cloud, "queued-resources", "delete")) == 4 and not (cloud.tpu / "state").exists()


def test_gcloud_may_fail_for_a_while(cloud):
    (cloud.tpu / "plan").write_text("describe|1\n" * 4)
    runs.end(cloud.start("tpu_vm.sh", *ARGUMENTS, ENDS="0:0"))
    (cloud.tpu / "plan").write_text("describe|1\n" * 5)
    assert "gcloud failed 5 times to report the state of a-tpu" in runs.end(cloud.start("tpu_vm.sh", *ARGUMENTS), 1)


@pytest.mark.slow
def test_it_stops_as_the_readme_says(cloud):
    """The command matches only the training, not the shells that run it or itself."""
    launched = cloud.start("tpu_queued.sh", *ARGUMENTS)
    cloud.wait_for(1, "training", "pid")
    readme = (cloud.home / "launch/README.md").read_text()
    assert "--command='pkill -TERM -f \"^python -m alexnet_jax.main\"'" in readme
    stop = ["tpu-vm", "ssh", "a-tpu", '--command=pkill -TERM -f "^python -m alexnet_jax.main"']
    subprocess.run(["gcloud", "compute", "tpus", *stop], env=cloud.env, check=True)
    runs.end(launched, 75)
    assert cloud.noted("received 15") == [f"training,0 received {signal.SIGTERM.value}"] and not cloud.still_running()


def test_the_share_is_one_word(cloud):
    printed = subprocess.run(
        ["bash", "launch/tpu_vm.sh", "--dry-run", *ARGUMENTS],
        cwd=cloud.home,
        env=cloud.env | {"NFS": "10.0.0.2:/a; touch x"},
        capture_output=True,
        text=True,
    ).stdout
    (mount,) = [line for line in printed.splitlines() if "nfs-common" in line]
    (command,) = [word for word in shlex.split(mount) if word.startswith("--command=")]
    assert "10.0.0.2:/a; touch x" in shlex.split(command)
