"""The TPU scripts with a program that stands in for gcloud: its one worker runs what it is given."""

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
    """The project, and gcloud with no TPU yet. A worker finds its packages installed."""
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


@pytest.mark.parametrize("script", ["tpu_vm.sh", "tpu_queued.sh"])
def test_from_nothing_to_the_end(cloud, script):
    """Creates, copies, checks, trains; the values of the user are there what they were here."""
    assert "installing" not in runs.end(cloud.start(script, *ARGUMENTS, ENDS="0:0"))
    assert [line.partition(",")[0] for line in cloud.noted("argv")] == ["preflight", "training"]
    argv = ["--distributed", "--config", "configs/paper.py", "--workdir", ARGUMENTS[4], ARGUMENTS[5]]
    assert len(cloud.noted(str(argv)[1:-1])) == 2
    assert len(calls(cloud, "create")) == 1
    assert (cloud.tpu / "state").exists() == (script == "tpu_vm.sh")


@pytest.mark.parametrize("script", ["tpu_vm.sh", "tpu_queued.sh"])
def test_after_a_preflight_that_fails_nothing_is_trained(cloud, script):
    runs.end(cloud.start(script, *ARGUMENTS, ENDS="preflight,0:2"), 2)
    assert not cloud.noted("training")


@pytest.mark.parametrize("script", ["tpu_vm.sh", "tpu_queued.sh"])
def test_a_copy_that_fails_is_the_end(cloud, script):
    (cloud.tpu / "plan").write_text("scp|1")
    runs.end(cloud.start(script, *ARGUMENTS), 1)
    assert not cloud.noted("preflight")


def test_a_vm_that_was_preempted_is_made_again(cloud):
    (cloud.tpu / "state").write_text("PREEMPTED")
    runs.end(cloud.start("tpu_vm.sh", "--spot", *ARGUMENTS, ENDS="0:0"))
    assert [line.split()[3] for line in calls(cloud, "tpu-vm") if "ssh" not in line and "scp" not in line] == [
        "describe",
        "delete",
        "create",
    ]
    assert calls(cloud, "create")[0].endswith("--version=v2-alpha-tpuv6e --spot")


def test_preempted_in_the_queue_it_goes_on(cloud):
    """In the training, in the copy and in the queue itself; only then it ends, and gives the TPU back."""
    ssh = "--distributed --config configs/paper.py"
    (cloud.tpu / "plan").write_text(f"{ssh}|255|SUSPENDED\nscp|1|FAILED\n{ssh}|69\n{ssh}|255|ACTIVE\n")
    said = runs.end(cloud.start("tpu_queued.sh", *ARGUMENTS, ENDS="0:70"), 70)
    assert [line.partition(": ")[0] for line in said.splitlines() if "trying again" in line] == [
        "exit code 255, the TPU is SUSPENDED",
        "exit code 1, the TPU is FAILED",
        "exit code 69, the TPU is ACTIVE",
        "exit code 255, the TPU is ACTIVE",
    ]
    assert len(calls(cloud, "queued-resources", "create")) == 3
    assert len(calls(cloud, "queued-resources", "delete")) == 3 and not (cloud.tpu / "state").exists()


def test_when_gcloud_says_nothing_for_a_while(cloud):
    (cloud.tpu / "plan").write_text("describe|1\n" * 4)
    runs.end(cloud.start("tpu_vm.sh", *ARGUMENTS, ENDS="0:0"))
    (cloud.tpu / "plan").write_text("describe|1\n" * 5)
    assert "gcloud was asked 5 times" in runs.end(cloud.start("tpu_vm.sh", *ARGUMENTS), 1)


def test_stopped_as_the_readme_says(cloud):
    """The command names the training alone, not the shells that run it or look for it."""
    launched = cloud.start("tpu_queued.sh", *ARGUMENTS)
    cloud.wait_for(1, "training", "pid")
    readme = (cloud.home / "launch/README.md").read_text()
    assert "--command='pkill -TERM -f \"^python -m alexnet_jax.main\"'" in readme
    subprocess.run(
        [
            "gcloud",
            "compute",
            "tpus",
            "tpu-vm",
            "ssh",
            "a-tpu",
            '--command=pkill -TERM -f "^python -m alexnet_jax.main"',
        ],
        env=cloud.env,
        check=True,
    )
    runs.end(launched, 75)
    assert cloud.noted("heard 15") == [f"training,0 heard {signal.SIGTERM.value}"] and not cloud.left()


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
