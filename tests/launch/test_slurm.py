"""launch/slurm.sbatch under a real Slurm on this machine: a signal requeues the job, and it resumes."""

import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import runs
from tests.conftest import ROOT
from tests.launch.conftest import wait_for

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scancel", "squeue")
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={home}/munge.socket,cred_expire=5
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd.pid
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
"""


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for free in sockets:
        free.bind(("127.0.0.1", 0))
    ports = [free.getsockname()[1] for free in sockets]
    for free in sockets:
        free.close()
    return ports


@pytest.fixture
def slurm(tmp_path):
    """An environment in which sbatch finds a cluster whose only node is this machine."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin", "/usr/local/sbin"])
    missing = [name for name in PROGRAMS if not shutil.which(name, path=path)]
    if missing:
        pytest.skip(f"Slurm is not installed ({', '.join(missing)}); on Debian: apt install slurmctld slurmd munge")
    if os.geteuid():
        pytest.skip("slurmd must run as root")
    home = tmp_path / "slurm"
    for folder in ("state", "spool"):
        (home / folder).mkdir(parents=True)
    home.chmod(0o755)
    (home / "key").write_bytes(os.urandom(1024))
    (home / "key").chmod(0o400)
    values = {"host": platform.node(), "user": "root", "home": home, "ports": free_ports(2)}
    (home / "slurm.conf").write_text(CONFIG.format(**values))
    env = runs.environment() | {"PATH": path, "SLURM_CONF": str(home / "slurm.conf")}
    names = {"key-file": "key", "socket": "munge.socket", "pid-file": "munge.pid", "log-file": "munge.log"}
    munge = ["munged", "--foreground", "--force", *(f"--{flag}={home / file}" for flag, file in names.items())]
    daemons = []
    try:
        for words in ([*munge, f"--seed-file={home / 'seed'}"], ["slurmctld", "-D"], ["slurmd", "-D"]):
            with (home / f"{words[0]}.out").open("w") as out:
                daemons.append(subprocess.Popen(words, env=env, stdout=out, stderr=subprocess.STDOUT))
            time.sleep(2)
        yield env
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in reversed(daemons):
            daemon.wait(timeout=60)


@pytest.mark.slow
@pytest.mark.long
def test_a_job_is_requeued_and_resumes(slurm, tmp_path):
    """Two processes as two tasks; after SIGUSR1, as at the time limit."""
    log = tmp_path / "log.txt"
    words = runs.command(tmp_path, "run", devices=1)
    config = words[3].removeprefix("--config=")
    flags = ["--simulated_devices=1", "--config.train.epochs=20", "--config.train.save_every_steps=1000"]
    options = ["--gpus-per-node=0", "--cpus-per-task=1", "--time=30", f"--output={log}"]
    job = subprocess.run(
        ["sbatch", "--parsable", *options, "launch/slurm.sbatch", config, str(tmp_path / "run"), *flags],
        env=slurm,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert job.returncode == 0, job.stderr
    number = job.stdout.strip()
    wait_for(lambda: log.exists() and "step 12/" in log.read_text(), "step 12", log)
    subprocess.run(["scancel", "--signal=USR1", number], env=slurm, check=True)
    wait_for(lambda: "requeued, time 1" in log.read_text(), "the requeue", log)
    wait_for(lambda: "finished step 460" in log.read_text(), "the end", log)
    output = log.read_text()
    assert output.count("preflight: 2 process(es), mesh data=1 x tower=2") == 2
    assert "is saved in" in output and "resuming from step" in output

    def gone() -> bool:
        return number not in subprocess.run(["squeue", "-h"], env=slurm, capture_output=True, text=True).stdout

    wait_for(gone, "the job's end", log)
