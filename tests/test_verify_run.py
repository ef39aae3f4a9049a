"""Runs that others can check: `alexnet verify-run` takes the steps again, and finds whatever was changed."""

import contextlib
import itertools
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet_jax import errors, replay, sharding, steps, training
from alexnet_jax.data import packing
from alexnet_jax.data.datasets import open_dataset
from alexnet_jax.data.sources import folder
from alexnet_jax.errors import UserError
from alexnet_jax.run import checkpoint, config_files, workdir
from alexnet_jax.run.checks import VERIFIED
from alexnet_jax.run.recorded import Different
from alexnet_jax.run.workdir import CHECKPOINTS, CONFIG, METRICS, RUN, STATISTICS
from tests import runs
from tests.conftest import encoded
from tests.tiny import tiny_config

pytestmark = pytest.mark.slow

FLAGS = ["--config.train.save_every_steps=5", "--config.train.keep_every_steps=10"]
SETTINGS = packing.Settings(store="raw", size=32, quality=95, max_corrupt=0.0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of 46 steps that was killed, and went on with both towers on one device.

    With as many devices as the tests have: on CPUs, results depend on the number of threads, and that on theirs.
    """
    home = tmp_path_factory.mktemp("trained")
    process = runs.start(runs.command(home, "run", *FLAGS, devices=4))
    runs.until(process, "step 27/")
    process.kill()
    process.communicate()
    runs.run(runs.command(home, "run", *FLAGS, "--config.mesh.tower=1", devices=4))
    return home / "run"


@pytest.fixture
def copy(trained, tmp_path) -> Path:
    shutil.copytree(trained, tmp_path / "copy")
    return tmp_path / "copy"


def edit(path: Path, change: Callable[[Any], None]) -> None:
    """Change a file of JSON."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_log(directory: Path, change: Callable[[list[dict]], None]) -> None:
    lines = workdir.read_metrics(directory)
    change(lines)
    (directory / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))


def place(lines: list[dict], step: int, phase: str = "train") -> int:
    """Where the line of a step is in the log."""
    return next(i for i, line in enumerate(lines) if (line["step"], line["phase"]) == (step, phase))


def change_weight(directory: Path, step: int, **position: Any) -> None:
    """Change one weight of a checkpoint, or its position, and write checksums that match."""
    cfg = workdir.open_finished(directory).config
    abstract = steps.abstract_state(cfg, sharding.make_mesh(1, 1, 2))
    with checkpoint.open_for_reading(directory / CHECKPOINTS) as there:
        state, where, _ = checkpoint.restore_step(there, step, abstract)
    run = json.loads((directory / CHECKPOINTS / str(step) / "run/metadata").read_text())
    if not position:
        kernel = state.params["fc7"]["kernel"].at[1, 2, 3].multiply(1 + 2**-23)
        state = state.replace(params=state.params | {"fc7": state.params["fc7"] | {"kernel": kernel}})
    forged = directory.parent / "forged"
    with checkpoint.open_directory(forged, keep=1) as checkpoints:
        checkpoint.save(checkpoints, step, state, where._replace(**position), run)
    shutil.rmtree(directory / CHECKPOINTS / str(step))
    (forged / str(step)).rename(directory / CHECKPOINTS / str(step))


def test_a_run_is_verified(trained, tmp_path):
    """By the command, in a process of its own, with the devices of the run simulated."""
    shutil.copytree(trained, tmp_path / "run")
    said = runs.run([sys.executable, "-m", "alexnet_jax", "verify-run", str(tmp_path / "run")])
    assert "steps 0 to 46 are the same" in said and "machine differs" not in said
    written = json.loads((tmp_path / "run" / VERIFIED).read_text())[-1]
    log = workdir.read_metrics(trained)
    assert written["verified"] and written["stretches"] == [[0, 46]] and not written["differences"]
    assert written["lines"] == len(log) == 17 and written["validations"] == 2
    assert written["checkpoints"] == len(list((trained / CHECKPOINTS).iterdir())) == 6  # 10 .. 40, 45, 46


def test_stretches_and_samples(copy, verify, capsys):
    """The last steps, which a start that was killed took too; and stretches drawn at random."""
    found = verify(copy, "--from", "40", "--to", "45")
    assert (found["stretches"], found["lines"], found["checkpoints"]) == ([[40, 45]], 2, 1)
    found = verify(copy, "--from", "30", "--sample", "1", "--seed", "1")
    assert found["stretches"][0] in ([30, 40], [40, 45], [45, 46]) and len(found["stretches"]) == 1
    capsys.readouterr()
    assert verify(copy, "--from", "40", "--sample", "9")["stretches"] == [[40, 45], [45, 46]]
    assert "verified: 3 log line(s), 1 of them validations, and 2 checkpoint(s)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--from", "7"], r"there is no checkpoint of step 7.*one of \[0, 10, 20, 30, 40, 45, 46\] as --from"),
        (["--from", "46"], "there is nothing to check from step 46 to 46; the run has got to step 46"),
        (["--to", "99"], "nothing to check from step 0 to 99"),
        (["--to", "0"], "nothing to check from step 0 to 0"),
        (["--to", "9", "--sample", "1"], "no two checkpoints from step 0 to 9"),
        (["--sample", "-1"], "--sample -1"),
    ],
)
def test_what_cannot_be_checked_is_refused(flags, problem, trained, verify):
    with pytest.raises(UserError, match=problem) as raised:
        verify(trained, *flags)
    assert raised.value.code == errors.EXIT_USER_ERROR and not (trained / VERIFIED).exists()


TAMPERED: dict[str, tuple[Callable[[Path], None], str]] = {
    "one weight": (lambda run: change_weight(run, 45), "step 45: params/fc7/kernel in the checkpoint of step 45 has"),
    "the weights begun with": (lambda run: change_weight(run, 40), r"step 42: (loss|checksum) \(train\) is"),
    "one position": (lambda run: change_weight(run, 45, next_batch=44), "step 45: the checkpoint of step 45 has"),
    "a run ended": (lambda run: change_weight(run, 45, target_reached=True), "step 45: the checkpoint of step 45 has"),
}


def changes(name: str) -> Callable:
    """Add a way to tamper with a run, by what it changes; what verify-run says of it is the docstring."""

    def add(function: Callable[[Path], None]) -> Callable[[Path], None]:
        TAMPERED[name] = (function, str(function.__doc__))
        return function

    return add


@changes("one weight, without checksums")
def _(run: Path) -> None:
    """step 45: the checkpoint of step 45 is damaged: params/fc7/kernel has changed since it was written"""
    sums = run / CHECKPOINTS / "45/sums"
    shutil.copytree(sums, run.parent / "sums")
    change_weight(run, 45)
    shutil.rmtree(sums)
    (run.parent / "sums").rename(sums)


@changes("a checkpoint that cannot be read")
def _(run: Path) -> None:
    """^the checkpoint of step 45 is damaged: Expecting property name"""
    (run / CHECKPOINTS / "45/run/metadata").write_text("{")


@changes("the last digit of a loss")
def _(run: Path) -> None:
    r"""step 42: loss \(train\) is \S+ in the log and \S+ here; steps up to 40 are the same"""

    def change(lines: list[dict]) -> None:
        line = lines[place(lines, 42)]
        line["loss"] = float(np.nextafter(line["loss"], 9))

    edit_log(run, change)


@changes("a log line deleted")
def _(run: Path) -> None:
    r"""step 45: the log lacks the line of step 45 \(train\)|step 45: step \(train\) is 46 in the log and 45 here"""
    edit_log(run, lambda lines: lines.pop(place(lines, 45)))


@changes("a log line added")
def _(run: Path) -> None:
    r"""step 45: step \(train\) is 44 in the log and 45 here"""
    edit_log(run, lambda lines: lines.insert(place(lines, 45), lines[place(lines, 45)] | {"step": 44}))


@changes("a log line added at the end")
def _(run: Path) -> None:
    r"""step 46: the log has a line \(train\) that the run does not write"""
    edit_log(run, lambda lines: lines.append(lines[place(lines, 45)] | {"step": 46}))


@changes("a log line from before")
def _(run: Path) -> None:
    """metrics.jsonl is not the log that the checkpoint of step 40 was saved with"""
    edit_log(run, lambda lines: lines.pop(place(lines, 3)))


@changes("a log line without a step")
def _(run: Path) -> None:
    """metrics.jsonl is damaged:"""
    edit_log(run, lambda lines: lines[place(lines, 45)].pop("step"))


@changes("the seed")
def _(run: Path) -> None:
    """saved with other settings or versions than config.json and run.json say.*: seed: 0 -> 1"""
    edit(run / CONFIG, lambda config: config.update(seed=1))


@changes("a version")
def _(run: Path) -> None:
    r"""the checkpoint of step 10 was saved with .*: jax: \S+ -> 0.1.2"""
    edit(run / RUN, lambda content: content["starts"][0].update(jax="0.1.2"))


@changes("a version left out")
def _(run: Path) -> None:
    r"""the checkpoint of step 10 was saved with .*: jax: \S+ -> None"""
    edit(run / RUN, lambda content: content["starts"][0].pop("jax"))


@changes("another time of a start")
def _(run: Path) -> None:
    r"""the checkpoint of step 10 was saved with other settings or versions .*: time: \S+ -> None;"""
    edit(run / RUN, lambda content: content["starts"][0].update(time="2012-12-03T00:00:00+00:00"))


@changes("a start left out")
def _(run: Path) -> None:
    r"""the checkpoint of step 30 was saved with other settings or versions .*: time: \S+ -> None;"""
    edit(run / RUN, lambda content: content["starts"].pop())


@changes("starts that mean nothing")
def _(run: Path) -> None:
    """run.json is damaged:"""
    edit(run / RUN, lambda content: content.update(starts=[{"step": "zero"}]))


@changes("the mean image")
def _(run: Path) -> None:
    """statistics.npz does not hold the statistics of the data"""
    arrays = dict(np.load(run / STATISTICS))
    arrays["mean_image"][3, 4, 0] += 1
    np.savez(run / STATISTICS, **arrays)


@changes("a log line after the end")
def _(run: Path) -> None:
    """step 46: the run ends here"""
    edit_log(run, lambda lines: lines.append(lines[-1] | {"step": 180, "top1_error": 0.001}))


@changes("a log line out of order")
def _(run: Path) -> None:
    r"""step 45: step \(train\) is 47 in the log and 45 here"""
    edit_log(run, lambda lines: lines.insert(place(lines, 45), lines[-1] | {"step": 47}))


@changes("names of classes")
def _(run: Path) -> None:
    """run.json does not have the names of the classes that the data have"""
    edit(run / RUN, lambda content: content["classes"].reverse())


@changes("a checkpoint that was not saved")
def _(run: Path) -> None:
    """step 43: there is a checkpoint that the run does not save"""
    shutil.copytree(run / CHECKPOINTS / "45", run / CHECKPOINTS / "43")


@changes("the checksum that a checkpoint states")
def _(run: Path) -> None:
    """step 45: the checkpoint of step 45 is damaged: its checksum has changed since it was written"""
    edit(run / CHECKPOINTS / "45/sums/metadata", lambda sums: sums.update(checksum="0" * 16))


@pytest.mark.parametrize("name", TAMPERED)
def test_tampering_is_found(name, copy, verify):
    change, problem = TAMPERED[name]
    change(copy)
    with pytest.raises(UserError, match=problem) as raised:
        verify(copy, "--from", "40")
    assert raised.value.code == errors.EXIT_DATA_ERROR
    if isinstance(raised.value, Different):
        assert (
            "This machine has the versions, processor and devices of the run" in str(raised.value) or "version" in name
        )
        written = json.loads((copy / VERIFIED).read_text())[-1]
        assert not written["verified"] and written["problem"] in str(raised.value)
    else:
        assert not (copy / VERIFIED).exists()


def test_an_interrupted_check_verifies_nothing(copy, verify, monkeypatch):
    """Ctrl-C after one of two stretches."""
    repeat, calls = replay.repeat, iter((0, 1))

    def interrupted(*arguments):
        if next(calls):
            raise KeyboardInterrupt
        return repeat(*arguments)

    monkeypatch.setattr(replay, "repeat", interrupted)
    with pytest.raises(KeyboardInterrupt):
        verify(copy, "--from", "40", "--sample", "2")
    assert not (copy / VERIFIED).exists()


def test_what_is_not_a_run(copy, verify, tmp_path):
    with pytest.raises(UserError, match="is not a workdir"):
        verify(tmp_path)
    edit(copy / RUN, lambda content: content.update(starts=[]))  # an imported network
    with pytest.raises(UserError, match="has not been trained, so there is nothing to check"):
        verify(copy)


def test_a_workdir_that_cannot_be_written(copy, verify, monkeypatch, capsys):
    """The result is printed all the same."""

    def refuse(path: Path, text: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("alexnet_jax.run.checks.write_text", refuse)
    with pytest.raises(FileNotFoundError, match=VERIFIED):  # there is none to read
        verify(copy, "--from", "45")
    said = capsys.readouterr()
    assert "verified: 1 log line(s), 1 of them validations, and 1 checkpoint(s)" in said.out
    assert f"warning: {copy / VERIFIED} is not kept: [Errno 13]" in said.err


@pytest.mark.parametrize("phase", ["train", "validation"])
@pytest.mark.long
def test_stopped_where_a_validation_is_due(phase, tmp_path, verify, monkeypatch):
    """Before it, so that the next start validates; or after it."""
    values = tiny_config()
    values.train.update(epochs=2, log_every_steps=1, eval_every_epochs=1, eval_batch_size=120)
    values.data.train_examples = 24
    cfg = config_files.parse(values)  # three steps an epoch

    @contextlib.contextmanager
    def stop_then():
        yield lambda: any((line["step"], line["phase"]) == (3, phase) for line in workdir.read_metrics(tmp_path))

    with monkeypatch.context() as patch:
        patch.setattr(training, "stop_signals", stop_then)
        with pytest.raises(errors.Interrupted, match="step 3 of 6 is saved"):
            training.train_and_evaluate(cfg, tmp_path)
    training.train_and_evaluate(cfg, tmp_path)
    found = verify(tmp_path)
    assert (found["lines"], found["validations"], found["checkpoints"]) == (8, 2, 2)


@pytest.fixture(scope="module")
def finetuned(trained, tmp_path_factory) -> Path:
    """A run on image files, with layers and statistics of the other run, and the data with an image swapped."""
    home = tmp_path_factory.mktemp("finetuned")
    for data in ("data", "train swapped", "val swapped"):
        rng = np.random.default_rng(0)
        for split, i in itertools.product(("train", "val"), range(12)):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            swapped = (split, i) == (data.split()[0], 5)
            path = home / data / split / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(255 - pixels if swapped else pixels, "PNG"))
        packing.pack(folder.folder(home / data, 0.0), home / f"{data} prepared", SETTINGS, show_progress=False)
    values = tiny_config()
    values.model.num_classes = 2
    values.data.update(source="prepared", directory=str(home / "data prepared"), eval_split="val")
    values.start.update(workdir=str(trained), layers=("conv1", "conv2"))
    values.data.statistics_file = str(trained / "statistics.npz")
    values.train.update(batch_size=4, epochs=2, log_every_steps=1, eval_batch_size=4)
    training.train_and_evaluate(config_files.parse(values), home / "run")
    return home


@pytest.mark.long
def test_data_elsewhere(finetuned, tmp_path, verify):
    shutil.copytree(finetuned / "run", tmp_path / "run")
    shutil.copytree(finetuned / "data prepared", tmp_path / "moved")
    found = verify(tmp_path / "run", "--data", str(tmp_path / "moved"))
    assert (found["lines"], found["validations"], found["checkpoints"]) == (7, 1, 1)


@pytest.mark.long
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_swapped_image_is_found(split, finetuned, tmp_path, verify):
    """By the fingerprint of the data; and if that is forged, by the numbers."""
    shutil.copytree(finetuned / "run", tmp_path / "run")
    other = str(finetuned / f"{split} swapped prepared")
    with pytest.raises(Different, match="the data are not those that the run was trained on"):
        verify(tmp_path / "run", "--data", other)
    assert not (tmp_path / "run" / VERIFIED).exists()  # it may be a wrong folder: that says nothing of the run
    fingerprint = open_dataset("prepared", other, 32, 2).fingerprint
    edit(tmp_path / "run" / RUN, lambda content: content.update(data=fingerprint))
    with pytest.raises(
        Different, match={"train": r"step [123]: .*\(train\)", "val": r"step 6: loss \(validation\)"}[split]
    ):
        verify(tmp_path / "run", "--data", other)
