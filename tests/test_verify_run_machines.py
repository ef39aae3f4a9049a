"""`alexnet verify-run` by its command: on machines and devices like those of a run, or unlike them."""

import json
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from alexnet_jax import errors
from alexnet_jax.run import workdir
from alexnet_jax.run.checks import VERIFIED
from alexnet_jax.run.nonfinite import NONFINITE
from tests import runs
from tests.conftest import ROOT

pytestmark = pytest.mark.slow
COMMAND = [sys.executable, "-m", "alexnet_jax", "verify-run"]


@pytest.fixture(scope="module")
def continued(tmp_path_factory) -> Path:
    """A run of 20 steps on four devices, and of 10 more on one."""
    home = tmp_path_factory.mktemp("continued")
    flags = ("--config.train.save_every_steps=20", "--config.train.keep_every_steps=20")
    first = ("--config.mesh.data=2", "--config.train.max_steps=20")
    runs.run(runs.command(home, "run", *flags, *first, devices=4))
    runs.run(runs.command(home, "run", *flags, "--config.mesh.tower=1", "--config.train.max_steps=30", devices=1))
    return home / "run"


@pytest.mark.long
def test_each_part_is_checked_on_devices_like_its_own(continued):
    said = runs.run([*COMMAND, str(continued)], errors.EXIT_USER_ERROR)
    assert "checked one by one, as far as their checkpoints were kept: --from 0 --to 20; --from 20 --to 30" in said
    assert not (continued / VERIFIED).exists()
    for flags in (["--to", "20"], ["--from", "20"]):
        assert "come out the same, bit for bit" in runs.run([*COMMAND, str(continued), *flags])
    line = runs.run([sys.executable, "-m", "alexnet_jax", "runs", str(continued.parent)]).splitlines()[1]
    assert "20-30" in line


@pytest.mark.long
def test_a_run_of_devices_that_are_not_here(continued, tmp_path):
    """A run that cannot be checked here is not counted as wrong."""
    shutil.copytree(continued, tmp_path / "run")
    path = tmp_path / "run" / workdir.RUN
    content = json.loads(path.read_text())
    for start in content["starts"]:
        start["devices"] = ["gpu NVIDIA H100"] * len(start["devices"])
    path.write_text(json.dumps(content))
    (tmp_path / "run" / VERIFIED).unlink(missing_ok=True)
    said = runs.run([*COMMAND, str(tmp_path / "run"), "--to", "20"], (errors.EXIT_USER_ERROR, errors.EXIT_DATA_ERROR))
    assert "devices: [" in said and "Traceback" not in said


def test_a_run_that_is_active_is_left_alone(tmp_path):
    process = runs.start(runs.command(tmp_path, "run", "--config.train.epochs=2000"))
    runs.until(process, "step 3/")
    assert "a run is active in" in runs.run([*COMMAND, str(tmp_path / "run")], errors.EXIT_USER_ERROR)
    process.kill()
    process.communicate()


@pytest.mark.long
def test_virtual_shards_and_numbers_that_are_not_finite(tmp_path):
    """The step in which they began is found there too; and more devices than the shards allow are refused."""
    flags = ["--config.train.virtual_shards=2", "--config.train.eval_batch_size=64"]
    said = runs.run(runs.command(tmp_path, "run", *flags, devices=5), errors.EXIT_USER_ERROR)
    assert "train.virtual_shards=2 gives the same bits on at most 4 CPU devices, and there are 5" in said
    large = [*flags, "--config.optim.learning_rate=1e20", "--config.train.save_every_steps=8"]
    said = runs.run(runs.command(tmp_path, "large", *large), errors.EXIT_NON_FINITE)
    assert "is not finite at step" in said and (tmp_path / "large" / NONFINITE).is_dir()


def test_cores_that_a_process_may_not_use_do_not_count():
    """On CPUs, results depend on the number of threads."""
    program = "import os\nos.sched_setaffinity(0, {0})\nfrom alexnet_jax.run import starts\nprint(starts.environment())"
    said = runs.run([sys.executable, "-c", program])
    assert "'cores': 1" in said


@pytest.mark.long
def test_the_quickstart_is_verified(tmp_path):
    """The run of launch/quickstart.sh, by its own command, in a fifth of its epochs."""
    script = (ROOT / "launch/quickstart.sh").read_text()
    line = next(line for line in script.splitlines() if line.startswith("python -m alexnet_jax.main"))
    _, *training = shlex.split(line.replace("$workdir", str(tmp_path / "run")))
    shorter = ("--config.train.epochs=8", "--config.optim.schedule.boundaries_epochs=(6,7)")
    runs.run([sys.executable, *training, *shorter])
    said = runs.run([*COMMAND, str(tmp_path / "run")])
    assert "steps 0 to 360 are the same" in said and "verified: 10 log line(s), 2 of them validations" in said
