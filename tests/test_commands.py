"""The commands as users give them: in real processes, on real files, with what can go wrong."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_jax import errors
from tests import runs
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

CONFIG = """
from tests.tiny import tiny_config

def get_config():
    config = tiny_config()
    config.model.num_classes = 3
    config.model.dropout_rate = 0.0
    config.optim.learning_rate = 0.003
    config.data.update(source="prepared", directory="", eval_split="val")
    config.train.update(batch_size=16, epochs=8, log_every_steps=4, eval_every_epochs=4, eval_batch_size=16)
    return config
"""


def run(*arguments, code: int = 0, cwd: Path = ROOT, env: dict | None = None) -> str:
    """Output and messages of `python -m ARGUMENTS`, which must end with `code` and without a traceback."""
    return runs.end(runs.start([sys.executable, "-m", *map(str, arguments)], cwd, env), code)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with `images` of three colours, the prepared `data`, a config, and the network `run` trained on them."""
    home = tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(0)
    for label, name in enumerate(("blue", "green", "red")):
        for split, count in (("train", 32), ("val", 7)):
            (home / "images" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 100, (40, 50, 3), dtype=np.uint8)
                pixels[..., 2 - label] += 120
                Image.fromarray(pixels).save(home / "images" / split / name / f"{i}.jpg")
    output = run(
        "alexnet_jax", "prepare", "--source=folder", "--input", home / "images", "--output", home / "data", "--size=32"
    )
    assert "train: 96 images, 0 skipped" in output and "val: 21 images" in output
    (home / "config.py").write_text(CONFIG)
    output = run(
        "alexnet_jax.main",
        f"--config={home / 'config.py'}",
        f"--config.data.directory={home / 'data'}",
        f"--workdir={home / 'run'}",
        env={"XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
    )
    assert "one tower per device" in output
    assert re.search(
        r"step 48/48  epoch 8.00  loss [\d.]+  top-1 error [\d.]+%  \d+ images/s  waiting for data \d+%  00:00 left",
        output,
    )
    assert re.search(r"step 48  epoch 8  val: loss .* of 21 images", output)
    return home


def test_a_run_leaves_its_record(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    lines = [json.loads(line) for line in (trained / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["phase"] == "train"] == list(range(4, 49, 4))
    assert [line["step"] for line in lines if line["phase"] == "validation"] == [24, 48]
    assert {line["count"] for line in lines if line["phase"] == "validation"} == {21}
    assert all(line["count"] == 64 for line in lines if line["phase"] == "train")
    events = EventAccumulator(str(trained / "run")).Reload()
    for line in lines:
        points = {event.step: event.value for event in events.Scalars(f"{line['phase']}/loss")}
        assert points[line["step"]] == pytest.approx(line["loss"])
    record = json.loads((trained / "run" / "run.json").read_text())
    assert record["classes"] == ["blue", "green", "red"]
    assert {"jax", "flax", "python", "devices"} <= record["starts"][0].keys()
    assert json.loads((trained / "run" / "config.json").read_text())["train"]["batch_size"] == 16


@pytest.mark.parametrize("views", [1, 10])
def test_evaluate(trained, views):
    output = run("alexnet_jax", "evaluate", "--workdir", trained / "run", f"--views={views}")
    result = json.loads((trained / "run" / "evaluation.json").read_text())
    assert result.keys() == {
        *("loss", "top1_error", "top1_interval", "top5_error", "top5_interval"),
        *("count", "views", "split", "step"),
    }
    assert (result["count"], result["views"], result["split"], result["step"]) == (21, views, "val", 48)
    assert result["top1_error"] <= 0.1  # three colours are easy; test_runs.py has top-5, of more classes
    wrong = round(result["top1_error"] * 21)
    assert re.search(rf"top-1 error +[\d.]+%  \[[\d.]+%, [\d.]+%\]  \({wrong} of 21; ", output)
    last = [json.loads(line) for line in (trained / "run" / "metrics.jsonl").read_text().splitlines()][-1]
    if views == 1:  # the same network, on one device now
        assert result["loss"] == pytest.approx(last["loss"], rel=1e-5)
    assert "train, 1 view" in run("alexnet_jax", "evaluate", "--workdir", trained / "run", "--split=train")


def test_predict_needs_only_the_workdir(trained, tmp_path):
    shutil.copytree(trained / "run", tmp_path / "copy")
    red, blue = (trained / "images" / "val" / name / "0.jpg" for name in ("red", "blue"))
    Image.open(blue).save(tmp_path / "blue.png")
    output = run("alexnet_jax", "predict", "--workdir", tmp_path / "copy", red, tmp_path / "blue.png").splitlines()
    assert output[0] == str(red) and output[4] == str(tmp_path / "blue.png")
    assert output[1].split()[1] == "red" and output[5].split()[1] == "blue"
    shares = [float(line.split()[0].rstrip("%")) for line in output[1:4]]
    assert sum(shares) == pytest.approx(100, abs=0.1) and shares == sorted(shares, reverse=True)


def test_predict_names_what_it_cannot_read_and_does_the_rest(trained, tmp_path):
    (tmp_path / "broken.jpg").write_bytes((trained / "images" / "val" / "red" / "0.jpg").read_bytes()[:500])
    good = trained / "images" / "val" / "green" / "1.jpg"
    output = run(
        "alexnet_jax", "predict", "--workdir", trained / "run", tmp_path / "broken.jpg", tmp_path / "none.jpg", good,
        code=errors.EXIT_USER_ERROR,
    )  # fmt: skip
    assert re.search(r"error: 2 of 3 images cannot be read: .*broken.jpg: not a valid image.*none.jpg: ", output)
    assert re.search(rf"{good}\n +[\d.]+%  green", output)


def test_report(trained):
    run("alexnet_jax", "evaluate", "--workdir", trained / "run")
    assert "wrote" in run("alexnet_jax", "report", "--workdir", trained / "run")
    page = (trained / "run" / "report.html").read_text()
    assert page.count('src="data:image/') == 11  # more of it in test_report.py
    assert "Tower 0" in page and "Tower 1" in page and "<td>21</td>" in page and "Left out" not in page


def test_what_the_system_refuses_is_one_paragraph(tmp_path, capsys):
    assert errors.exit_code(lambda: print(tmp_path.read_bytes())) == errors.EXIT_USER_ERROR
    assert re.search(rf"error: .*Is a directory: '{tmp_path}'; check that it exists", capsys.readouterr().err)


DIGITS = ["alexnet_jax.main", "--config=configs/digits.py", "--workdir={tmp}/run"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*DIGITS, "--config.optim.learning_rat=1"], 'a --config.KEY .*Did you mean "learning_rate"'),
        ([*DIGITS, "--config.optim.learning_rate=fast"], "config.optim.learning_rate=fast: could not convert"),
        ([*DIGITS, "--config.model.conv6.features=6"], "a --config.KEY .*conv6"),
        ([*DIGITS, "--config.seed=3000000000"], "config.seed=3000000000: .* less than 2147483648"),
        ([*DIGITS, "--config.data.source=archive"], "there is no source 'archive'; give one of cifar10, .*tfds:NAME"),
        ([*DIGITS, "--stream=folder"], "--source folder needs --input"),
        (
            ["alexnet_jax.main", "--config=configs", "--workdir={tmp}/run"],
            "there is no config file configs; give the path of one, or one of cifar10, ",
        ),
        (
            ["alexnet_jax.main", "--config={tmp}.py", "--workdir={tmp}/run"],
            "the config file .* fails: ModuleNotFoundError: .*elsewhere",
        ),
        ([*DIGITS, "extra"], "unexpected argument extra"),
        (
            ["alexnet_jax.main", "--config=configs/none.py", "--workdir={tmp}/run"],
            "there is no config file configs/none.py; give the path of one",
        ),
        (["alexnet_jax.main", "--config=configs/digits.py"], "--workdir must have a value"),
        (["alexnet_jax.main", "--config=configs/paper.py", "--workdir={tmp}/run"], "alexnet prepare .*synthetic"),
        ([*DIGITS, "--config.model.dropout_rate=1.5"], "config.model.dropout_rate=1.5: .* less than 1"),
        ([*DIGITS, "--config.mesh.data=5"], "train.batch_size=32 does not divide by mesh.data=5"),
        ([*DIGITS, "--config.mesh.data=2", "--config.mesh.tower=2"], "needs 2 x 2 = 4 devices"),
        ([*DIGITS, "--config.mesh.tower=7"], "mesh.tower=7 does not fit model.towers=2"),
        ([*DIGITS, "--config.model.num_classes=5"], "10 classes and the network only 5"),
        ([*DIGITS, "--config.data.directory=data/x"], "not read by config.data.source=digits; give .*=prepared"),
        ([*DIGITS, "--config.data.eval_split=val"], "no split 'val', only test, train"),
        (["alexnet_jax.main", "--config=configs/digits.py", "--workdir=/proc/none"], "cannot be written"),
        (["alexnet_jax", "evaluate", "--workdir={tmp}"], "is not a workdir"),
        (["alexnet_jax", "predict", "--workdir={tmp}", "x.jpg"], "is not a workdir"),
        (["alexnet_jax", "report", "--workdir={tmp}"], "is not a workdir"),
        (["alexnet_jax", "prepare", "--source=folder", "--output={tmp}/o"], "--source folder needs --input"),
        (["alexnet_jax", "prepare", "--output={tmp}/o"], "give --input, a folder or file of images, or a --source"),
        (["alexnet_jax", "prepare", "--source=folder", "--input={tmp}/none", "--output={tmp}/o"], "there is no folder"),
        (
            ["alexnet_jax", "prepare", "--source=tape", "--output={tmp}/o"],
            "there is no source 'tape'; give one of cifar10, ",
        ),
        (["alexnet_jax", "prepare", "--source=digits", "--output={tmp}/o", "--max_corrupt=3"], "--max_corrupt 3.0 is"),
        (
            ["alexnet_jax", "prepare", "--source=digits", "--output={tmp}/o", "--quality=9"],
            "--quality is for --store jpeg",
        ),
        (
            ["alexnet_jax", "prepare", "--source=digits", "--output={tmp}/o", "--seed=9"],
            "--seed is for --source imagenet",
        ),
        (["alexnet_jax", "verify-data", "{tmp}", "--source=tape"], "there is no source 'tape'"),
    ],
)
def test_bad_input_is_one_paragraph(arguments, message, tmp_path):
    tmp_path.with_suffix(".py").write_text("from elsewhere import paper")
    output = run(*(argument.format(tmp=tmp_path) for argument in arguments), code=errors.EXIT_USER_ERROR)
    assert re.search(message, " ".join(output.split())), output
    assert not list(tmp_path.iterdir())  # nothing was begun


def test_evaluate_says_when_the_data_has_moved(trained):
    shutil.move(trained / "data", trained / "moved")
    try:
        assert "is not there; give its folder as --data" in run(
            "alexnet_jax", "evaluate", "--workdir", trained / "run", code=2
        )
        output = run("alexnet_jax", "evaluate", "--workdir", trained / "run", "--data", trained / "moved")
        assert "21 images" in output
    finally:
        shutil.move(trained / "moved", trained / "data")


def test_preflight_checks_and_trains_nothing(tmp_path):
    flags = ["--config=configs/digits.py", f"--workdir={tmp_path / 'run'}", "--preflight"]
    output = run("alexnet_jax.main", *flags, "--simulated_devices=2")
    assert "preflight: 1 process(es), mesh data=1 x tower=2 on cpu" in output and "ready" in output
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["lock"]
    assert "needs 4 x 1 = 4 devices" in run("alexnet_jax.main", *flags, "--config.mesh.data=4", code=2)
    assert "make room, give another --workdir" in run(
        "alexnet_jax.main", *flags, "--config.train.keep_checkpoints=999999999", code=2
    )
    missing = run("alexnet_jax.main", *flags, "--config.data.source=prepared", "--config.data.directory=none", code=2)
    assert "config.data.directory=none does not exist" in missing
    missing = run("alexnet_jax.main", *flags, "--config.data.statistics_file=none", code=2)
    assert "there is no file config.data.statistics_file=none" in missing


def test_processes_that_are_not_known(tmp_path):
    flags = ["--config=configs/digits.py", f"--workdir={tmp_path / 'run'}", "--distributed"]
    assert "give --coordinator_address=HOST:PORT" in run("alexnet_jax.main", *flags, code=2)
