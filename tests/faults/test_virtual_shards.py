"""`train.virtual_shards`: the same bits on any number of devices along the data axis, and of processes."""

import random
from pathlib import Path

import pytest

from alexnet_jax.run import workdir
from tests import runs

pytestmark = pytest.mark.slow

CONFIG = """
from tests.tiny import tiny_config

def get_config():
    config = tiny_config()
    config.train.update(batch_size=64, epochs=99, max_steps=STEPS, log_every_steps=5, save_every_steps=5)
    config.train.update(eval_every_epochs=1, eval_batch_size=120, virtual_shards=8)
    return config
"""


def train(home: Path, name: str, data: int, processes: int, steps: int, tower: int = 1) -> list[runs.Process]:
    """Start a run on `data` x `tower` simulated devices, spread over processes."""
    home = home / name  # of its own: the file of its config is written again while other runs start
    home.mkdir(exist_ok=True)
    command = runs.command(home, "run", f"--config.mesh.data={data}", f"--config.mesh.tower={tower}")
    command = [*command, f"--simulated_devices={data * tower // processes}"]
    (home / "tiny.py").write_text(CONFIG.replace("STEPS", str(steps)))
    return runs.start_together(command, processes) if processes > 1 else [runs.start(command)]


def checksum(directory: Path) -> str:
    return workdir.read_metrics(directory / "run")[-1]["checksum"]


# Devices of the data axis, of the tower axis, and processes: those of a family must agree.
FAMILIES = {
    "towers on one device": [(1, 1, 1), (8, 1, 1), (2, 1, 2), (4, 1, 4), (8, 1, 2)],
    "a device for each tower": [(1, 2, 1), (2, 2, 4), (4, 2, 2), (8, 2, 1)],
}


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
def test_one_checksum(family, tmp_path):
    sums = {}
    for data, tower, processes in FAMILIES[family]:
        name = f"{data}x{tower} in {processes}"
        for process in train(tmp_path, name, data, processes, 12, tower):
            runs.end(process)
        sums[name] = checksum(tmp_path / name)
    assert len(set(sums.values())) == 1, sums


@pytest.mark.long
def test_killed_and_resumed_on_other_layouts(tmp_path):
    """At random steps, on each number of devices and processes."""
    rng, layouts = random.Random(0), FAMILIES["towers on one device"]
    steps = 10 * len(layouts) + 20
    whole = train(tmp_path, "whole", 1, 1, steps)
    for i, (data, tower, processes) in enumerate(layouts):
        group = train(tmp_path, "killed", data, processes, steps, tower)
        runs.until(group[0], f"step {10 * i + 5 * rng.randint(1, 2)}/")  # it has saved this, or will again
        for process in group:
            process.kill()
            process.communicate()
    for process in (*train(tmp_path, "killed", 8, 1, steps), *whole):
        runs.end(process)
    assert runs.log(tmp_path / "killed/run") == runs.log(tmp_path / "whole/run")
    assert checksum(tmp_path / "killed") == checksum(tmp_path / "whole")
