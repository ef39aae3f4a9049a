"""The notebooks, each run from a clean kernel; those for Kaggle and Colab with tiny data in the place of the real."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import ilsvrc, layouts, test_cifar10
from tests.conftest import ROOT
from tests.runs import environment

CLASSES, EPOCHS = 20, 40
STEPS_PER_EPOCH = math.ceil(ilsvrc.PER_CLASS["train"] * CLASSES / 8)  # of tiny.py
NOTEBOOK = ROOT / "docs/alexnet_in_an_hour.ipynb"
EXECUTE = """
import nbclient, nbformat, sys
notebook = nbformat.read(sys.argv[1], 4)
for cell in notebook.cells:
    cell.pop("outputs", None)
    if cell.cell_type == "code":
        cell.outputs = []
places = [i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]
for place in places:
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(sys.argv[3]))
nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[2])
"""


def start(notebook: Path, done: Path, parameters: str = "") -> subprocess.Popen:
    """Run a notebook, with other `parameters` after its own, and write it with its outputs to `done`."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = {"PATH": path, "PYTHONPATH": str(ROOT), "PIP_NO_INDEX": "1", "BROWSER": "true"}
    arguments = [sys.executable, "-c", EXECUTE, str(notebook), str(done), parameters]
    return subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environment() | variables)


def end(process: subprocess.Popen, done: Path) -> str:
    _, messages = process.communicate(timeout=600)
    assert process.returncode == 0, messages[-3000:]
    return outputs(done)


def outputs(path: Path) -> str:
    """All text that the cells of a notebook print, and the media types of everything else that they show."""
    cells = json.loads(path.read_text())["cells"]
    shown = [output for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]]
    assert all(output["output_type"] != "error" for output in shown)
    assert not [output for output in shown if output.get("name") == "stderr"], "there is a warning"
    # Printed text may be split anywhere, even within a line.
    return "".join("".join(output.get("text", "")) or " ".join(output.get("data", {})) + "\n" for output in shown)


EXPECTED = (
    "60,965,224 parameters",
    "659,272 neurons",
    "one tower per device",
    "conv1: 55 x 55 x 96  -> pooled 27 x 27",
    "step 540  epoch 12  test: loss",
    "fc7: {'tower': 2, 'unit': 256}",
    "equal bit for bit: True",
)


@pytest.mark.slow
@pytest.mark.long
def test_it_runs_from_a_clean_kernel(tmp_path):
    text = end(start(NOTEBOOK, tmp_path / "done.ipynb"), tmp_path / "done.ipynb")
    assert [line for line in EXPECTED if line not in text] == []
    assert text.count("image/png") >= 5


def test_the_published_outputs_are_what_it_prints():
    text = outputs(NOTEBOOK)
    assert [line for line in EXPECTED if line not in text] == []
    assert NOTEBOOK.stat().st_size < 1_500_000


@pytest.mark.slow
@pytest.mark.long
def test_colab(tmp_path, image_folder):
    archive = test_cifar10.pack(test_cifar10.binary_files(), tmp_path / "cifar.tar.gz")
    photos = image_folder({"cat": 12, "dog": 12})
    parameters = f"""
PROJECT = "alexnet_jax"
CIFAR10 = "{archive.as_uri()}"
WORK = Path("{tmp_path}")
PHOTOS = Path("{photos}")
FLAGS += " --config.train.epochs=1"
"""
    text = end(start(ROOT / "docs/notebooks/colab.ipynb", tmp_path / "done.ipynb", parameters), tmp_path / "done.ipynb")
    expected = ("test: loss", "test, 10 view(s), step 24, 300 images", "val, 1 view(s), step 20", "cat/000.jpg")
    assert [line for line in expected if line not in text] == []
    assert text.count("image/png") == 2 and "error:" not in text
    assert {path.suffix for path in tmp_path.glob("alexnet.*")} == {".onnx", ".safetensors"}


CONFIG = """
from alexnet_jax.configs import variants
from tests.tiny import tiny_config

def get_config(argument):
    config = tiny_config()
    config.data.update(source="prepared", eval_split="val")
    config.model.num_classes = CLASSES
    config.train.update(log_every_steps=5, keep_checkpoints=1)
    variants.apply(config, argument.split("+"))
    return config
"""


class Kaggle:
    """Sessions on Kaggle, with a tiny network and few images."""

    def __init__(self, home: Path):
        self.attached, self.config, self.sessions = (
            home / "input",
            home / "tiny.py",
            [home / f"session{i}" for i in range(3)],
        )
        self.config.write_text(CONFIG.replace("CLASSES", str(CLASSES)))
        layouts.kaggle(self.attached / "imagenet-object-localization-challenge", ilsvrc.Truth(2012, CLASSES))

    def session(self, number: int, stop: bool = False) -> str:
        """What the notebook shows in a session, in which its time is up once the run has logged a step, if `stop`."""
        home = self.sessions[number]
        (home / "working").mkdir(parents=True)
        parameters = f"""
PROJECT = "alexnet_jax"
ATTACHED = Path("{self.attached}")
IMAGENET = ATTACHED / "imagenet-object-localization-challenge"
WORK, SCRATCH = Path("{home}/working/alexnet"), Path("{home}/temp")
CONFIG, FALLBACK = "{self.config}:epochs={EPOCHS}", "{self.config}:no_lrn+epochs={EPOCHS}"
FLAGS += " --simulated_devices=2"
"""
        process = start(ROOT / "docs/notebooks/kaggle_two_gpus.ipynb", home / "done.ipynb", parameters)
        if stop:
            end_session(home / "working/alexnet/run", process)
        text = end(process, home / "done.ipynb")
        assert "mesh data=1 x tower=2 on cpu (cpu): one tower per device" in text and "wrote " in text
        assert "error:" not in text
        return text

    def attach(self, number: int) -> Path:
        """Attach the output of a session as Kaggle does: read-only, and without empty folders."""
        attached = self.attached / "notebooks/me/alexnet"
        shutil.rmtree(attached, ignore_errors=True)
        for file in filter(Path.is_file, (self.sessions[number] / "working").rglob("*")):
            copy = attached / file.relative_to(self.sessions[number] / "working")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
            copy.chmod(0o444)
        return attached / "alexnet"


@pytest.mark.slow
@pytest.mark.long
def test_kaggle(tmp_path):
    """The time of the first session is up in the middle of the training, and the second ends it. The third prepares."""
    kaggle, steps = Kaggle(tmp_path), EPOCHS * STEPS_PER_EPOCH
    first = kaggle.session(0, stop=True)
    assert "this is the first session" in first
    assert f"epochs={EPOCHS}, streamed, {EPOCHS} of its {EPOCHS} epochs in 30 hours, 3 sessions" in first
    [stopped] = re.findall(rf"interrupted: step (\d+) of {steps} is saved", first)
    assert 0 < int(stopped) < steps and f"val, 10 view(s), step {stopped}, {CLASSES} images" in first
    kaggle.attach(0)
    second = kaggle.session(1)
    assert f"resuming from step {stopped} of " in second and "chosen:" not in second
    assert f"val, 10 view(s), step {steps}, {CLASSES} images" in second
    attached = kaggle.attach(1)
    shutil.rmtree(attached / "run")
    rows = json.loads((attached / "plan.json").read_text())["rows"]
    assert [row["streamed"] for row in rows] == [True, False, True, False]
    (attached / "plan.json").unlink()
    (attached / "plan.json").write_text(json.dumps({"chosen": rows[1] | {"epochs": 1}}))
    third = kaggle.session(2)
    assert "train: 60 images, 0 skipped as corrupt" in third
    assert f"val, 10 view(s), step {STEPS_PER_EPOCH}, {CLASSES} images" in third


def end_session(run: Path, notebook: subprocess.Popen) -> None:
    """Make timeout(1) believe that the time is up, once a run has logged a step."""
    while not (run / "metrics.jsonl").exists() or not (run / "metrics.jsonl").read_text():
        assert notebook.poll() is None, notebook.communicate()
        time.sleep(0.05)
    [pid] = re.findall(r"process (\d+) on", (run / "lock").read_text())
    [parent] = re.findall(r"PPid:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert Path(f"/proc/{parent}/comm").read_text() == "timeout\n"
    os.kill(int(parent), signal.SIGALRM)
