"""The command predict, and which classes are taken for which, with hostile class names."""

import csv
import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_jax.inference import confusion, network, predictions
from alexnet_jax.inference.predictions import Predictions
from alexnet_jax.interop import networks
from alexnet_jax.run import workdir
from tests import forks, runs
from tests.conftest import ROOT, encoded
from tests.networks import random_network, small
from tests.runs import environment
from tests.splits import in_memory
from tests.test_commands import run

NAMES = ["a,b", 'quo"te', "$x^$", "图", "<b>&", "f", "g", "h", "i", "j"]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A workdir of a network with random weights, and a folder `photos` of 40 images, one of them damaged."""
    home, rng = tmp_path_factory.mktemp("predict"), np.random.default_rng(0)
    networks.to_workdir(dataclasses.replace(random_network(small()), classes=NAMES), home / "run")
    (home / "photos/deep").mkdir(parents=True)
    for i in range(40):
        content = encoded(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8), "PNG")
        (home / "photos" / ("deep" if i % 2 else "") / f"{i:02}, x.png").write_bytes(content)
    (home / "photos/deep/05, x.png").write_bytes(b"no image")
    return home


@pytest.mark.slow
def test_a_folder_in_three_formats(home):
    line = ["alexnet_jax", "predict", "--workdir", home / "run", home / "photos", "--top=3"]
    text = run(*line, code=2)
    assert "1 of 40 images cannot be read" in text and "05, x.png: not a valid image" in text
    started = [runs.start([sys.executable, "-m", *map(str, line), form]) for form in ("--csv", "--json")]
    table, listed = (process.communicate()[0] for process in started)
    rows, images = list(csv.DictReader(io.StringIO(table))), json.loads(listed)
    assert [process.returncode for process in started] == [2, 2] and len(images) == 39 and len(rows) == 3 * 39
    expected = sorted(path for path in (home / "photos").rglob("*.png") if "05, x" not in path.name)
    assert [image["image"] for image in images] == [str(path) for path in expected]
    flat = [
        (image["image"], str(rank), best["class"], str(best["probability"]))
        for image in images
        for rank, best in enumerate(image["top"], start=1)
    ]
    assert [tuple(row.values()) for row in rows] == flat
    blocks = [[image["image"], *(f"  {b['probability']:7.2%}  {b['class']}" for b in image["top"])] for image in images]
    assert text.startswith("\n".join(line for block in blocks for line in block) + "\n")
    for image in images:
        probabilities = [best["probability"] for best in image["top"]]
        assert probabilities == sorted(probabilities, reverse=True)
        assert {best["class"] for best in image["top"]} <= set(NAMES)


@pytest.mark.slow
def test_the_command_agrees_with_the_library(home):
    """In the order given, over ten views, in several batches (of eight images)."""
    paths = sorted((home / "photos").glob("*.png"))[::-1]
    output = run("alexnet_jax", "predict", "--workdir", home / "run", "--json", "--views=10", "--top=10", *paths)
    prediction = network.open_workdir(home / "run").predict(paths, views=10)
    assert len(paths) == 20
    for image, path, top in zip(json.loads(output), paths, prediction.top(10), strict=True):
        assert image["image"] == str(path) and [best["class"] for best in image["top"]] == [name for name, _ in top]
        probabilities = [best["probability"] for best in image["top"]]
        assert probabilities == pytest.approx([probability for _, probability in top], rel=1e-5)


@pytest.mark.slow
def test_an_image_on_standard_input_gives_the_result_of_the_file(home):
    path = home / "photos/00, x.png"
    line = ["-m", "alexnet_jax", "predict", "--workdir", str(home / "run"), "--json"]
    (from_file,) = json.loads(run(*line[1:], path))
    with path.open("rb") as stdin:
        (from_stdin,) = json.loads(forks.Process(*line, "-", cwd=ROOT, env=environment(), stdin=stdin).communicate()[0])
    assert from_stdin["image"] == "-" and from_stdin["top"] == from_file["top"] and len(from_stdin["top"]) == 5
    process = forks.Process(*line, "-", cwd=ROOT, env=environment())  # of nothing
    output, messages = process.communicate()
    assert process.returncode == 2 and "-: not a valid image" in messages and output == "[]\n"


@pytest.mark.slow
def test_a_closed_pipe_is_no_error(home):
    line = f"{sys.executable} -m alexnet_jax predict --workdir {home / 'run'} --csv {home / 'photos'} | head -2"
    done = subprocess.run(line, shell=True, cwd=ROOT, capture_output=True, text=True, env=environment())
    assert done.stdout.startswith("image,rank,class,probability\n") and done.stdout.count("\n") == 2
    assert "Traceback" not in done.stderr and "Error" not in done.stderr


def test_bad_arguments(home):
    assert "--top 0 is too few" in run("alexnet_jax", "predict", "--workdir", home / "run", "x", "--top=0", code=2)
    (home / "empty").mkdir()
    assert "holds no image" in run("alexnet_jax", "predict", "--workdir", home / "run", home / "empty", code=2)


# --- which classes are taken for which ---


def made_up(labels: list[int], best: list[int], classes: int = 10) -> Predictions:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(len(labels), classes))
    scores[np.arange(len(labels)), best] += 8
    log = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    return Predictions(
        log.astype(np.float32), np.array(labels, np.int32), np.arange(len(labels), dtype=np.int32), 1, "x"
    )


def read(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_confusions_are_counted_and_written(tmp_path):
    labels, best = [0, 0, 0, 1, 1, 2, 9], [0, 1, 1, 1, 1, 0, 9]
    predicted = made_up(labels, best)
    pixels = np.random.default_rng(1).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    summary = confusion.write(tmp_path, predicted, NAMES, in_memory(predicted.label, pixels), 2)
    table = read(tmp_path / "confusion.csv")
    assert table[0] == ["class", *NAMES] and [row[0] for row in table[1:]] == NAMES
    counts = np.array([[int(cell) for cell in row[1:]] for row in table[1:]])
    assert counts.sum() == 7 and (counts[0, 0], counts[0, 1], counts[2, 0], counts[1, 1]) == (1, 2, 1, 2)
    rows = {row[0]: row[1:] for row in read(tmp_path / "classes.csv")[1:]}
    assert set(rows) == {"a,b", 'quo"te', "$x^$", "j"}  # only classes with images
    assert rows["a,b"][0] == "3" and float(rows["a,b"][1]) == pytest.approx(2 / 3)
    assert rows["a,b"][3:] == ['quo"te', "2"] and rows['quo"te'][1:] == ["0.0", "0.0", "", "0"]
    score = predictions.score(predicted)
    assert sum(float(row[1]) * int(row[0]) for row in rows.values()) / 7 == pytest.approx(score["top1_error"])
    assert sum(float(row[2]) * int(row[0]) for row in rows.values()) / 7 == pytest.approx(score["top5_error"])
    assert summary[1] == "  100.00% of 1  $x^$" and '     2 x  a,b taken for quo"te' in summary
    losses = -predicted.log_probabilities[np.arange(7), predicted.label]
    assert confusion.worst(predicted, 2).tolist() == sorted((1, 2, 5), key=lambda i: -losses[i])[:2]
    with Image.open(tmp_path / "mistakes.png") as sheet:
        shown = np.asarray(sheet.convert("RGB")).reshape(-1, 3)
        assert sheet.size == (1200, 260)
    assert len(np.unique(shown, axis=0)) > 1000  # two pictures of noise


@pytest.mark.parametrize("mistakes", [0, 24])
def test_no_mistakes_at_all(mistakes, tmp_path):
    predicted = made_up([3, 4], [3, 4])
    images = in_memory(predicted.label, np.zeros((2, 32, 32, 3), np.uint8))
    assert confusion.write(tmp_path, predicted, NAMES, images, mistakes) == ["no mistakes"]
    assert (tmp_path / "mistakes.png").stat().st_size > 0


@pytest.mark.parametrize("value", [np.nan, np.log(0.1)])
def test_outputs_that_are_nan_or_tie_are_mistakes(value, tmp_path):
    """In every file as in the score, whatever the label; the first label is where argmax would see a success."""
    labels = np.arange(10, dtype=np.int32)
    predicted = Predictions(np.full((10, 10), value, np.float32), labels, labels, 1, "x")
    images = in_memory(labels, np.zeros((10, 32, 32, 3), np.uint8))
    summary = confusion.write(tmp_path, predicted, NAMES, images, 3)
    assert predictions.score(predicted)["top1_error"] == predictions.score(predicted)["top5_error"] == 1
    counts = confusion.matrix(predicted, 10)
    assert counts.sum() == 10 and counts.diagonal().sum() == 0 and len(confusion.worst(predicted, 99)) == 10
    assert [row[2:4] for row in read(tmp_path / "classes.csv")[1:]] == [["1.0", "1.0"]] * 10
    assert summary[1] == "  100.00% of 1  a,b"


def test_the_worst_mistakes_are_those_without_a_number():
    predicted = made_up([0, 1, 2, 3], [1, 1, 0, 0])
    predicted.log_probabilities[2, 2] = np.nan
    assert confusion.worst(predicted, 2)[0] == 2 and sorted(confusion.worst(predicted, 9)) == [0, 2, 3]


def test_many_classes_and_letters_that_no_font_has(tmp_path):
    rng = np.random.default_rng(0)
    labels, best = rng.integers(0, 1000, 500).tolist(), rng.integers(0, 1000, 500).tolist()
    names = [f"\U0001f40b 鲸 {i}" for i in range(1000)]
    images = in_memory(np.array(labels, np.int32), rng.integers(0, 256, (500, 16, 16, 3), dtype=np.uint8))
    summary = confusion.write(tmp_path, made_up(labels, best, 1000), names, images, 30)
    assert len(summary) == 12 and len(read(tmp_path / "confusion.csv")) == 1001


@pytest.mark.slow
def test_evaluate_prints_and_writes_the_details(tmp_path):
    classes = [str(i) for i in range(10)]
    networks.to_workdir(dataclasses.replace(random_network(small()), classes=classes), tmp_path / "run")
    output = run("alexnet_jax", "evaluate", "--workdir", tmp_path / "run", "--details", "--mistakes=7")
    assert "the classes with the most errors:" in output and "taken for" in output
    for name in ("classes.csv", "confusion.csv", "mistakes.png", "evaluation.json"):
        assert (tmp_path / "run" / name).stat().st_size > 0
    table = read(tmp_path / "run/confusion.csv")
    assert sum(int(cell) for row in table[1:] for cell in row[1:]) == 360
    evaluation = workdir.read_evaluation(tmp_path / "run")
    assert evaluation is not None
    right = sum(int(row[1 + i]) for i, row in enumerate(table[1:]))
    assert evaluation["top1_error"] == pytest.approx(1 - right / 360) and evaluation["count"] == 360
    output = run("alexnet_jax", "evaluate", "--ensemble", tmp_path / "run", "--details", code=2)
    assert "describes a single network" in output
    for flag in ("--max_bad=nan", "--mistakes=-1"):
        assert flag.partition("=")[0] in run("alexnet_jax", "evaluate", "--workdir", tmp_path / "run", flag, code=2)
