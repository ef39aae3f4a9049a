"""From archives in the layout of ILSVRC to a trained network, with kills on the way and damage afterwards."""

import functools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_jax import errors
from alexnet_jax.data import manifest
from alexnet_jax.data.datasets import open_dataset
from tests import ilsvrc, runs
from tests.conftest import ROOT, encoded
from tests.runs import environment
from tests.test_commands import run as run_module
from tests.test_packing import contents

CLASSES = 20
# `alexnet` with shards of 8 images, and with the image counts of the archives that `ilsvrc.make` writes.
PROGRAM = f"""
from alexnet_jax.__main__ import main
from alexnet_jax.data import packing
from alexnet_jax.data.sources import imagenet
packing.SHARD_IMAGES = 8
for name, edition in imagenet.EDITIONS.items():
    images = {{split: {CLASSES} * {ilsvrc.PER_CLASS}[split] for split in edition.images}}
    imagenet.EDITIONS[name] = edition._replace(images=images, classes={CLASSES})
main()
"""
CONFIG = f"""
from tests.tiny import tiny_config

def get_config():
    config = tiny_config()
    config.model.num_classes = {CLASSES}
    config.data.update(source="prepared", directory="", eval_split="val")
    config.train.update(batch_size=16, epochs=2, log_every_steps=1, eval_every_epochs=1, eval_batch_size=16)
    return config
"""


def command(*arguments) -> list[str]:
    return [sys.executable, "-c", PROGRAM, *(str(a) for a in arguments)]


def run(*arguments, code: int = 0) -> str:
    return runs.run(command(*arguments), code)


Prepared = tuple[list[str], Path, Path]  # the arguments of `prepare`, the archives, and the packed data
BOTH = pytest.mark.parametrize(("year", "store"), [(2012, "raw"), (2010, "jpeg")])


@pytest.fixture(scope="module")
def prepare(tmp_path_factory) -> Callable[[int, str], Prepared]:
    @functools.cache
    def once(year: int, store: str) -> Prepared:
        home = tmp_path_factory.mktemp("home")
        ilsvrc.make(home / "archives", year, CLASSES)
        arguments = [f"--source=imagenet{year}", f"--input={home / 'archives'}", "--size=32", f"--store={store}"]
        output = run("prepare", *arguments, "--output", home / "data")
        assert re.search(rf"train: {CLASSES * 3} images, 0 skipped(.|\n)*val: {CLASSES} images, 0 skipped", output)
        assert "were published" not in output
        return arguments, home / "archives", home / "data"

    return once


@pytest.mark.slow
@BOTH
def test_prepare_killed_at_random_moments_gives_the_same_bytes(year, store, prepare, tmp_path):
    arguments, _, whole = prepare(year, store)
    rng = random.Random(0)
    kills = 0
    output = tmp_path / "killed"
    for _ in range(60):
        process = runs.start(command("prepare", *arguments, "--output", output))
        assert process.stdout is not None
        process.stdout.readline()  # its first line, after which it begins
        time.sleep(rng.uniform(0, 0.12))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode == -signal.SIGKILL:
            kills += 1
            if kills == 4:
                break
        else:  # it finished first: start over
            assert process.returncode == 0 and contents(output) == contents(whole)
            shutil.rmtree(output)
    assert kills == 4
    run("prepare", *arguments, "--output", output)
    assert contents(output) == contents(whole)


@pytest.mark.slow
@BOTH
def test_archives_and_prepared_data_are_verified(year, store, prepare):
    _, archives, data = prepare(year, store)
    for place in (archives, data):
        output = run("verify-data", place)
        assert re.search(
            rf"ok +train counts +{CLASSES * 3} images of {CLASSES} of {CLASSES} classes; {CLASSES * 3} published",
            output,
        )
        assert f"{place} is intact\n" in output and "BAD" not in output
        assert "is intact, as far as a quick check shows" in run("verify-data", place, "--quick")


@pytest.mark.slow
def test_training_on_prepared_archives(prepare, tmp_path):
    _, _, data = prepare(2010, "jpeg")
    (tmp_path / "config.py").write_text(CONFIG)
    output = run_module(
        "alexnet_jax.main",
        f"--config={tmp_path / 'config.py'}",
        f"--config.data.directory={data}",
        f"--workdir={tmp_path / 'run'}",
    )
    assert re.search(rf"step 8  epoch 2  val: loss .* of {CLASSES} images", output)


@pytest.mark.slow
@pytest.mark.parametrize("shell", [[], ["sh", "-c", 'trap "" INT; exec "$0" "$@"']], ids=["", "in the background"])
def test_prepare_stopped_by_sigterm_says_how_to_resume(prepare, tmp_path, shell):
    arguments, _, whole = prepare(2012, "raw")
    slow = (
        "import builtins, time\nprint_ = print\nbuiltins.print = lambda *a, **k: (print_(*a, **k), time.sleep(0.3))\n"
    )
    process = subprocess.Popen(
        [*shell, sys.executable, "-c", slow + PROGRAM, "prepare", *arguments, "--output", str(tmp_path / "out")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdout is not None
    while "train: 8 of" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, message = process.communicate()
    assert process.returncode == errors.EXIT_INTERRUPTED and "Traceback" not in message
    assert "(of 8 images each) are kept in" in message and not list((tmp_path / "out").glob("*.tmp"))
    assert re.search(
        r"train: \d+ of 60 images are already packed", run("prepare", *arguments, f"--output={tmp_path / 'out'}")
    )
    assert contents(tmp_path / "out") == contents(whole)


def damaged(data: Path, tmp_path: Path, name: str = "val-00001*", at: int | None = None) -> Path:
    """Copy prepared data, flip one bit in a shard, and return the shard."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in data.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (shard,) = copy.glob(name)
    content = bytearray(shard.read_bytes())
    splits = manifest.read(copy).splits.values()
    count = next(entry.count for split in splits for entry in split.shards if entry.name == shard.name)
    content[min(len(content) // 3, 600 * count) if at is None else at] ^= 4
    shard.write_bytes(content)
    return shard


def test_verify_data_reports_damaged_shards(prepare, tmp_path):
    _, _, data = prepare(2010, "jpeg")
    shard = damaged(data, tmp_path)
    output = run("verify-data", shard.parent, code=errors.EXIT_DATA_ERROR)
    assert re.search(rf"BAD +files(.|\n)*{shard.name} has changed since it was written", output)
    assert re.search(rf"BAD +val images(.|\n)*image \d+, ILSVRC.*JPEG, in {shard.name}: ", output)
    assert "is not intact: 2 problem(s), listed above" in output
    os.truncate(shard, 100)
    output = run("verify-data", shard.parent, "--quick", code=errors.EXIT_DATA_ERROR)
    assert re.search(rf"BAD +files(.|\n)*{shard.name} has 100 bytes and should have", output)
    shard.unlink()
    output = run("verify-data", shard.parent, code=errors.EXIT_DATA_ERROR)
    assert f"{shard} is missing" in output and "BAD  val images     cannot be opened" in output
    with pytest.raises(errors.DataError, match="is missing; prepare the data again"):
        open_dataset("prepared", str(shard.parent), 32, CLASSES)
    (shard.parent / "manifest.json").unlink()
    (shard.parent / "parts").mkdir()
    assert "is an unfinished preparation" in run("verify-data", shard.parent, code=errors.EXIT_USER_ERROR)
    assert "there is no " in run("verify-data", tmp_path / "nowhere", code=errors.EXIT_USER_ERROR)


def test_verify_data_reports_a_damaged_index(prepare, tmp_path):
    """Without the index that ArrayRecord keeps at the end of a shard, none of its records can be read."""
    _, _, data = prepare(2010, "jpeg")
    shard = damaged(data, tmp_path, at=-65450)
    output = run("verify-data", shard.parent, code=errors.EXIT_DATA_ERROR)
    assert re.search(
        rf"BAD +files(.|\n)*{shard.name} has changed since(.|\n)*BAD +val images +cannot be opened", output
    )
    with pytest.raises(errors.DataError, match=r"the split val of .* is damaged"):
        open_dataset("prepared", str(shard.parent), 32, CLASSES)


@pytest.mark.slow
def test_bad_records_in_the_validation_split(prepare, tmp_path):
    """Above max_bad, the run saves its state and stops; below, it logs how many there are."""
    _, _, data = prepare(2012, "raw")
    shard = damaged(data, tmp_path)
    (tmp_path / "config.py").write_text(CONFIG)
    arguments = ["alexnet_jax.main", f"--config={tmp_path / 'config.py'}", f"--config.data.directory={shard.parent}"]
    workdir = tmp_path / "run"
    stopped = run_module(*arguments, f"--workdir={workdir}", code=errors.EXIT_DATA_ERROR)
    assert re.search(r"data error: 1 of 20 records are bad(.|\n)*Step 4 is saved; once the data is repaired", stopped)
    resumed = run_module(*arguments, f"--workdir={workdir}", "--config.data.max_bad=0.1")
    assert "resuming from step 4" in resumed and re.search(r"bad record: image \d+.*; it is left out", resumed)
    log = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [(line["count"], line["bad_records"]) for line in log if line["phase"] == "validation"] == [(19, 1), (19, 1)]
    evaluate = ["alexnet_jax", "evaluate", f"--workdir={workdir}"]
    assert "19 images, 1 left out as damaged" in run_module(*evaluate)
    assert json.loads((workdir / "evaluation.json").read_text())["bad_records"] == 1
    assert "1 of 20 records are bad" in run_module(*evaluate, "--max_bad=0", code=errors.EXIT_DATA_ERROR)


@pytest.mark.slow
def test_training_reports_bad_records_and_stops_above_max_bad(prepare, tmp_path):
    _, _, data = prepare(2012, "raw")
    shard = damaged(data, tmp_path, "train-00003*")
    (tmp_path / "config.py").write_text(CONFIG)
    arguments = ["alexnet_jax.main", f"--config={tmp_path / 'config.py'}", f"--config.data.directory={shard.parent}"]
    stopped = run_module(*arguments, f"--workdir={tmp_path / 'stopped'}", code=errors.EXIT_DATA_ERROR)
    assert re.search(
        r"data error: 1 of 60 records are bad, more than the share of 0.001(.|\n)*image \d+, n\d+/", stopped
    )
    resumed = run_module(*arguments, f"--workdir={tmp_path / 'run'}", "--config.data.max_bad=0.1")
    bad = re.findall(
        r"step \d+: bad record: (image \d+, n\d+/n\d+_\d.JPEG, \S+): .*; the next intact image takes", resumed
    )
    assert len(bad) == 1 and shard.name in bad[0]
    assert "once the data is repaired, the same command resumes it" in stopped
    log = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert '"bad_records": 1' in log[-2] and '"data_wait": ' in log[-2]
    # The progress before the stop was saved: once the shard is mended, the same command runs to the end.
    (shard.parent / shard.name).write_bytes((data / shard.name).read_bytes())
    assert "finished step 8" in run_module(*arguments, f"--workdir={tmp_path / 'stopped'}")


@pytest.mark.slow
@BOTH
def test_damaged_and_odd_images_in_archives(year, store, prepare, tmp_path):
    arguments, archives, _ = prepare(year, store)
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in archives.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    train = copy / ilsvrc.ARCHIVES[year]["train"]
    truth = ilsvrc.Truth(year, CLASSES)
    intact = encoded(np.zeros((20, 20, 3), np.uint8), "JPEG")
    odd = {
        "zero.JPEG": b"",
        "cut.JPEG": truth.images["train"][0][1][:-3000],
        "text.JPEG": b"this is not an image",
        "bomb.JPEG": encoded(Image.new("1", (20000, 20000)), "PNG"),
        "narrow.JPEG": encoded(Image.new("RGB", (1, 400)), "JPEG"),
        "png.JPEG": encoded(Image.new("RGB", (40, 40)), "PNG"),
        "cmyk.JPEG": encoded(Image.new("CMYK", (40, 40)), "JPEG"),
        "grey.JPEG": encoded(Image.new("L", (40, 40)), "JPEG"),
        "été.JPEG": intact,
        "in_val.JPEG": truth.images["val"][0][1],
    }
    inner = [
        (f"{wnid}.tar", ilsvrc.tar(list(odd.items()) if wnid == truth.classes[0] else [(f"{wnid}_0.JPEG", intact)]))
        for wnid in truth.classes
    ]
    train.write_bytes(ilsvrc.tar(inner))
    output = run("verify-data", copy, code=errors.EXIT_DATA_ERROR)
    for name in ("zero", "cut", "text", "bomb"):
        assert re.search(rf"{truth.classes[0]}/{name}.JPEG: .", output)
    assert f"class {truth.classes[1]} has 1 images, 3 were published" in output
    assert re.search(rf"{truth.images['val'][0][0]} is train image {truth.classes[0]}/in_val.JPEG", output)

    refused = run("prepare", *arguments, f"--input={copy}", "--output", tmp_path / "out", code=errors.EXIT_USER_ERROR)
    assert re.search(r"\d of the 29 images of the split train are corrupt", refused)
    accepted = run("prepare", *arguments, f"--input={copy}", "--output", tmp_path / "out", "--max_corrupt=0.5")
    assert "train: 25 images, 4 skipped as corrupt" in accepted and "incomplete: 60 were published" in accepted
    assert re.search(r"skipped n\d+/bomb.JPEG: 20000x20000 pixels are more than", accepted)
    for what, name in (("CMYK", "cmyk"), ("PNG", "png"), ("under 16 pixels", "narrow")):
        assert re.search(rf"unusual but kept, {what}: 1 \(n\d+/{name}.JPEG\)", accepted)
    assert "été.JPEG" in (tmp_path / "out" / "train.names.json").read_bytes().decode("unicode_escape")

    train.write_bytes(train.read_bytes()[: train.stat().st_size // 2])
    output = run("verify-data", copy, code=errors.EXIT_DATA_ERROR)
    assert re.search(rf"BAD +source +cannot be read as imagenet{year}(.|\n)*{train.name}.* not a complete", output)
    assert "not a complete, uncompressed tar" in run(
        "prepare", *arguments, f"--input={copy}", "--output", tmp_path / "new", code=2
    )
    assert not (tmp_path / "new").exists()


def test_prepare_and_verify_data_import_no_jax(prepare, tmp_path):
    """JAX takes seconds to import, and nothing here computes with it."""
    arguments, _, data = prepare(2010, "jpeg")
    listing = "import atexit, sys\natexit.register(lambda: print([*{'jax', 'grain', 'torch'} & {*sys.modules}]))\n"
    for command_line in (["prepare", *arguments, "--output", tmp_path / "data"], ["verify-data", data, "--quick"]):
        output = subprocess.check_output(
            [sys.executable, "-c", listing + PROGRAM, *map(str, command_line)], cwd=ROOT, text=True
        )
        assert output.splitlines()[-1] == "[]"
