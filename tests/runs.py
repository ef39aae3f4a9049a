"""Training runs in real processes, and what they leave behind."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

from alexnet_jax import sharding, steps
from alexnet_jax.run import checkpoint, config_files, start_up, workdir
from tests import forks
from tests.conftest import ROOT

Process = subprocess.Popen[str] | forks.Process

# A config file for the command: 23 steps an epoch, as quick as possible.
CONFIG = """
from tests.tiny import tiny_config

def get_config():
    config = tiny_config()
    config.train.update(batch_size=64, epochs=2, log_every_steps=3, eval_every_epochs=1, eval_batch_size=120)
    config.optim.schedule.update(name="plateau", patience_epochs=1)
    return config
"""


def environment() -> dict[str, str]:
    """That of a user: without the simulated devices that the tests run on."""
    names = {"XLA_FLAGS"} if start_up.only_compilers() else {"XLA_FLAGS", "JAX_PLATFORMS"}
    return {name: value for name, value in os.environ.items() if name not in names}


def command(home: Path, directory: str, *flags: str, devices: int = 2) -> list[str]:
    """The command that trains by CONFIG in the workdir home/directory."""
    (home / "tiny.py").write_text(CONFIG)
    base = [sys.executable, "-m", "alexnet_jax.main", f"--config={home / 'tiny.py'}", f"--simulated_devices={devices}"]
    return [*base, f"--workdir={home / directory}", *flags]


def start(command: list[str], cwd: Path = ROOT, env: dict[str, str] | None = None) -> Process:
    """Start a command with `env` beside that of a user; Python as in forks.py."""
    if command[0] == sys.executable and set(env or ()) <= {"XLA_FLAGS"}:  # Python and JAX read others when they start
        return forks.Process(*command[1:], cwd=cwd, env=environment() | (env or {}))
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=cwd, stdout=pipe, stderr=pipe, text=True, env=environment() | (env or {}))


def start_as_group(command: list[str]) -> subprocess.Popen[str]:
    """Start a command as a process group of its own: `os.killpg` does to it what Ctrl-C in a terminal does."""
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, env=environment(), start_new_session=True
    )


def end(process: Process, code: int | tuple[int, ...] = 0, seconds: float = 300) -> str:
    """The output of a process, which must end with `code`, without a traceback, within `seconds`."""
    try:
        out, messages = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired as error:
        process.kill()  # its children may keep the output open, so no more is read
        raise AssertionError(f"it hangs: {error.output!r} {error.stderr!r}") from None
    assert process.returncode in (code if isinstance(code, tuple) else (code,)), f"{process.returncode}: {messages}"
    assert "Traceback" not in messages or process.returncode == -6, messages  # JAX may end a process by SIGABRT
    return out + messages


def run(command: list[str], code: int | tuple[int, ...] = 0) -> str:
    return end(start(command), code)


def start_together(
    command: list[str], count: int, last: tuple[str, ...] = (), env: dict[str, str] | None = None
) -> list[Process]:
    """Start `count` processes of one run; `last` are further flags of the last one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    joined = [f"--coordinator_address={address}", f"--num_processes={count}"]
    commands = [[*command, *joined, f"--process_id={i}", *(last if i == count - 1 else ())] for i in range(count)]
    return [start(each, env=env) for each in commands]


def until(process: Process, text: str) -> list[str]:
    """Read the output of a process up to the line with `text`."""
    assert process.stdout is not None
    lines: list[str] = []
    while not lines or text not in lines[-1]:
        lines.append(process.stdout.readline())
        assert lines[-1] or process.poll() is None, (lines, process.stderr and process.stderr.read())
    return lines


def final_state(directory: Path, mesh: tuple[int, int] = (1, 2)):
    """The newest state of a workdir on the host, and its position."""
    cfg = config_files.from_json((directory / workdir.CONFIG).read_text())
    placed = steps.abstract_state(cfg, sharding.make_mesh(*mesh, 2))
    with checkpoint.open_directory(directory / workdir.CHECKPOINTS, keep=9) as checkpoints:
        restored = checkpoint.restore(checkpoints, placed)
    assert restored is not None and not restored.warnings, restored
    return jax.device_get(restored.state), restored.position


def log(directory: Path) -> list[dict]:
    """The lines of metrics.jsonl, without the times, which differ between runs."""
    lines = workdir.read_metrics(directory)
    return [{key: value for key, value in line.items() if key not in ("images_per_s", "data_wait")} for line in lines]


def assert_same(one: Path, other: Path) -> None:
    """Check that two runs ended alike, bit for bit: parameters, momentum, position, metrics."""
    (state, position), (other_state, other_position) = final_state(one), final_state(other)
    jax.tree.map(np.testing.assert_array_equal, state, other_state)
    assert position._replace(log_bytes=0) == other_position._replace(log_bytes=0)
    assert log(one) == log(other)
