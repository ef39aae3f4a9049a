"""Disks that are full or read-only, and damaged checkpoints. The disks are real ones in memory, mounted where nothing
else sees them (`unshare`), so neither root nor a quota is needed."""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from alexnet_jax import errors, sharding, steps
from alexnet_jax.data.datasets import open_dataset
from alexnet_jax.interop import networks
from alexnet_jax.run import checkpoint, checksums, config_files
from alexnet_jax.run.checkpoint import DAMAGED
from alexnet_jax.run.workdir import CHECKPOINTS
from tests import runs
from tests.networks import random_network, small
from tests.tiny import tiny_config

pytestmark = pytest.mark.slow

# Mounts a disk at $1 with the options $2, runs the rest on it, and copies what is there to $1.after.
ON_A_DISK = (
    'disk=$1; mount -t tmpfs -o "$2" none "$disk" || exit 99; shift 2; "$@"; code=$?; '
    'cp -r "$disk" "$disk.after"; exit $code'
)
MOUNTS = ["unshare", "--user", "--map-root-user", "--mount"]


@pytest.fixture(scope="module", autouse=True)
def disks() -> None:
    if not shutil.which("unshare") or subprocess.run([*MOUNTS, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this system gives users no mounts of their own (unshare --user --mount)")


def on_a_disk(home: Path, options: str, code: int, *flags: str) -> str:
    """The output of a run whose workdir lies on a disk of its own."""
    (home / "disk").mkdir()
    arguments = ["sh", "-c", ON_A_DISK, "sh", str(home / "disk"), options]
    return runs.run([*MOUNTS, *arguments, *runs.command(home, "disk/run", *flags)], code)


def test_disk_full_while_saving(whole, tmp_path, survived):
    """At about the third checkpoint. The command then resumes from the last intact one."""
    flags = ["--config.train.save_every_steps=5", "--config.train.keep_checkpoints=99"]
    said = on_a_disk(tmp_path, "size=1500k", errors.EXIT_STORAGE, *flags)
    in_save = "storage error: a checkpoint could not be written" in said and "the newest one there is of step" in said
    assert in_save or "storage error: the log in" in said  # whichever comes first
    saved = [int(path.name) for path in (tmp_path / "disk.after/run" / CHECKPOINTS).iterdir() if path.name.isdigit()]
    assert saved and max(saved) < 46
    said = runs.run(runs.command(tmp_path, "disk.after/run", *flags))
    assert f"resuming from step {max(saved)} of" in said
    runs.assert_same(whole, tmp_path / "disk.after/run")
    reported = f"at the next save; exit code {errors.EXIT_STORAGE}"
    survived("A disk full while saving", 1, "at most one save interval", reported)


def test_disk_full_while_logging(whole, tmp_path, survived):
    flags = ["--config.train.log_every_steps=1", "--config.train.save_every_steps=1000"]
    said = on_a_disk(tmp_path, "size=52k", errors.EXIT_STORAGE, *flags)
    assert "storage error: the log in" in said and "make room there" in said
    flags = ["--config.train.log_every_steps=3", "--config.train.save_every_steps=1000"]
    runs.run(runs.command(tmp_path, "disk.after/run", *flags))
    runs.assert_same(whole, tmp_path / "disk.after/run")
    survived("A disk full while logging", 1, "at most one save interval", f"at once; exit code {errors.EXIT_STORAGE}")


def test_read_only_workdir(tmp_path, survived):
    said = on_a_disk(tmp_path, "ro", errors.EXIT_USER_ERROR)
    assert f"the workdir {tmp_path / 'disk/run'} cannot be written" in said and "give another --workdir" in said
    survived("A workdir on read-only storage", 1, "nothing", f"exit code {errors.EXIT_USER_ERROR}")


# Runs each of a list of commands, and then opens a network as `serve` does.
COMMANDS = """
from pathlib import Path
from alexnet_jax import __main__
from alexnet_jax.serving.served import open_served
for command in {commands}:
    try:
        __main__.main(command)
    except SystemExit as ended:
        print(f"{{command[0]}} exits with {{ended.code}}")
page = open_served(Path("{run}"), None, 20).files
print("serve shows", *(name for name in page if name.startswith("units")))
"""


@pytest.mark.long
def test_commands_on_a_run_that_cannot_be_written(tmp_path):
    """A colleague's, say: what would be kept there is not, and the results are the same."""
    run, out = tmp_path / "disk/run", tmp_path / "out"
    digits = open_dataset("digits", "", 32, 10)
    networks.to_workdir(dataclasses.replace(random_network(small()), classes=digits.classes), run)
    out.mkdir()
    before = sorted(run.rglob("*"))
    commands = [
        ["evaluate", f"--workdir={run}", "--details"],
        ["evaluate", f"--workdir={run}", "--details", f"{out}/details"],
        ["report", f"--workdir={run}"],
        ["report", f"--workdir={run}", f"--output={out}/report.html"],
    ]
    read_only = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" || exit 99; shift; exec "$@"'
    program = [sys.executable, "-c", COMMANDS.format(commands=commands, run=run)]
    said = runs.run([*MOUNTS, "sh", "-c", read_only, "sh", str(tmp_path / "disk"), *program])
    codes = [errors.EXIT_USER_ERROR, 0, errors.EXIT_USER_ERROR, 0]
    expected = [f"{command[0]} exits with {code}" for command, code in zip(commands, codes, strict=True)]
    assert [line for line in said.splitlines() if " exits with " in line] == expected
    assert said.count("top-1 error  ") == 1 and "serve shows units/conv1.js units/conv2.js" in said
    for name in ("predictions-test-1.npz", "evaluation.json", "explorer.json"):
        assert f"warning: {run / name} is not kept: " in said
    assert f"error: {run} cannot be written; give another folder, as --details DIR" in said
    assert f"error: {run} cannot be written; give another file as --output" in said
    assert (out / "details/mistakes.png").exists() and "html" in (out / "report.html").read_text()
    assert sorted(run.rglob("*")) == before


def largest(directory: Path) -> Path:
    return max((path for path in directory.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(directory: Path) -> None:
    shutil.rmtree(directory)
    directory.mkdir()


DAMAGE = {
    "a flipped bit in the arrays": lambda step: flip(largest(step / "state")),
    "arrays cut": lambda step: cut(largest(step / "state")),
    "arrays deleted": lambda step: largest(step / "state").unlink(),
    "all arrays deleted": lambda step: shutil.rmtree(step / "state"),
    "an empty folder": empty,
    "another position": lambda step: flip(step / "position/metadata"),
    "sums deleted": lambda step: (step / "sums/metadata").unlink(),
    "no manifest": lambda step: (step / "state/manifest.ocdbt").unlink(),
}


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory) -> Path:
    """Checkpoints of two states that differ in all numbers, steps 1 and 2."""
    directory = tmp_path_factory.mktemp("two") / CHECKPOINTS
    cfg, mesh = config_files.parse(tiny_config()), sharding.make_mesh(1, 2, 2)
    with checkpoint.open_directory(directory, keep=9) as checkpoints:
        for step in (1, 2):
            state = jax.tree.map(lambda x, s=step: x + s if x.dtype != bool else x, steps.init_state(cfg, mesh))
            checkpoint.save(checkpoints, step, state, checkpoint.Position(step, checkpoint.Validation(), 0), {})
    return directory


@pytest.mark.parametrize("dtype", [np.float32, np.int32, bool])
@pytest.mark.parametrize("shape", [(), (5,), (3, 4, 2)])
def test_checksums_are_the_same_on_devices_and_on_the_host(dtype, shape):
    """And every bit counts, whichever number it is in."""
    x = np.asarray(np.random.default_rng(0).integers(0, 2, shape), dtype)
    known = checksums.on_host(x)
    assert int(checksums.on_devices({"x": x})["x"]) == known
    for place in np.ndindex(shape):
        other = x.copy()
        other[place] = not other[place]
        assert checksums.on_host(other) != known


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_newest_checkpoint(damage, two_checkpoints, tmp_path, capsys):
    """It is reported and moved aside, and the one before is used."""
    directory = tmp_path / CHECKPOINTS
    shutil.copytree(two_checkpoints, directory)
    DAMAGE[damage](directory / "2")
    cfg, mesh = config_files.parse(tiny_config()), sharding.make_mesh(1, 2, 2)
    abstract = steps.abstract_state(cfg, mesh)
    step, params = checkpoint.restore_params(directory, abstract.params)
    assert step == 1 and "the checkpoint of step 2 is damaged and is not used: " in capsys.readouterr().err
    with checkpoint.open_directory(directory, keep=9) as checkpoints:
        restored = checkpoint.restore(checkpoints, abstract)
        assert restored is not None
        state, position, warnings = restored
        assert position.next_batch == 1 and "the checkpoint of step 2 is damaged: " in warnings[0]
        expected = jax.tree.map(lambda x: x + 1, steps.init_state(cfg, mesh).params)
        jax.tree.map(np.testing.assert_array_equal, (state.params, params), (expected, expected))
        assert (tmp_path / DAMAGED / "2").is_dir() and not (directory / "2").exists()
        checkpoint.save(checkpoints, 2, state, position, {})  # its place is free again


@pytest.mark.parametrize("damage", DAMAGE)
def test_all_checkpoints_damaged(damage, two_checkpoints, tmp_path):
    """The run ends rather than silently starting again; nothing is moved."""
    shutil.copytree(two_checkpoints, tmp_path / CHECKPOINTS)
    for step in (1, 2):
        DAMAGE[damage](tmp_path / CHECKPOINTS / str(step))
    abstract = steps.abstract_state(config_files.parse(tiny_config()), sharding.make_mesh(1, 2, 2))
    none = pytest.raises(errors.DataError, match=r"step 2 is damaged.*\n.*step 1 is damaged(.|\n)*No checkpoint in")
    with none, checkpoint.open_directory(tmp_path / CHECKPOINTS, keep=9) as checkpoints:
        checkpoint.restore(checkpoints, abstract)
    assert sorted(path.name for path in (tmp_path / CHECKPOINTS).iterdir()) == ["1", "2"]


def test_resuming_from_a_damaged_checkpoint(whole, tmp_path, survived):
    flags = ["--config.train.save_every_steps=10"]
    runs.run(runs.command(tmp_path, "run", *flags, "--config.train.max_steps=22"))
    DAMAGE["a flipped bit in the arrays"](tmp_path / "run" / CHECKPOINTS / "22")
    said = runs.run(runs.command(tmp_path, "run", *flags))
    assert "warning: the checkpoint of step 22 is damaged: " in said and "resuming from step 20" in said
    runs.assert_same(whole, tmp_path / "run")
    reported = "with what is wrong; the newest intact one is used"
    fault = f"The newest checkpoint damaged ({', '.join(DAMAGE)})"
    survived(fault, len(DAMAGE) + 1, "what that checkpoint held", reported)
