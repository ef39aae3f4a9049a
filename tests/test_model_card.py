"""A run as a folder for the Hugging Face Hub: the model card says what the run's files say, and its programs work."""

import argparse
import contextlib
import dataclasses
import hashlib
import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import alexnet_jax
from alexnet_jax.commands import export_weights
from alexnet_jax.errors import UserError
from alexnet_jax.inference.network import open_workdir
from alexnet_jax.interop import files, model_card, networks
from alexnet_jax.run import checks, starts, workdir
from tests import runs
from tests.hub import running
from tests.networks import assert_same, pictures, random_network, small

INTERVALS = {"top1_interval": [0.2, 0.3], "top5_interval": [0.0, 0.0125]}
EVALUATION = {"top1_error": 400 / 1500, "top5_error": 0.006, "count": 1500, "views": 10, "split": "val"} | INTERVALS
CHECK = dict(time="2026-11-28T04:00:00+00:00", differences=["cores: 4 -> 2"], environment={})
SOUND = checks.Check(verified=True, stretches=[(0, 3), (5, 7)], lines=9, validations=2, checkpoints=4, **CHECK)


def export(directory: Path, *flags: str) -> None:
    parser = argparse.ArgumentParser()
    export_weights.add_arguments(parser)
    export_weights.run(parser.parse_args(["--workdir", str(directory), *flags]))


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    """A workdir at step 0 with no history."""
    directory = tmp_path_factory.mktemp("card") / "net 图"
    networks.to_workdir(random_network(small()), directory)
    return directory


def metadata(card: str) -> dict:
    front, rule, _ = card.removeprefix("---\n").partition("\n---\n")
    assert card.startswith("---\n") and rule
    return yaml.safe_load(front)


def programs(card: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


def top(program: str, folder: Path, monkeypatch) -> list:
    """What a card's program prints for photo.jpg, run in its folder."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(program, "card", "exec"), {})
    monkeypatch.delitem(sys.modules, "torch_alexnet", raising=False)
    return eval(out.getvalue())


@pytest.mark.slow
def test_a_folder_has_all_that_the_card_says(directory, tmp_path, monkeypatch, capsys):
    """The run has no history here but what the tests write, in the formats that the commands write."""
    folder = tmp_path / "hub"
    export(directory, "--output", str(folder))
    card = (folder / "README.md").read_text()
    assert metadata(card) == {
        "library_name": "alexnet_jax",
        "pipeline_tag": "image-classification",
        "tags": ["alexnet", "image-classification", "jax", "flax", "onnx", "pytorch"],
    }
    for text in (
        "# net 图\n",
        "No license of the weights is stated.",
        "They were not measured at this step.",
        "has not been checked",
        "was imported",
        'alexnet_jax.load(".")',
    ):
        assert text in card
    assert {path.name for path in folder.iterdir()} == set(model_card.FILES)
    for name in model_card.CONTENT:
        content = (folder / name).read_bytes()
        assert f"| {name} | {len(content):,} | `{hashlib.sha256(content).hexdigest()}` |" in card
    assert_same(alexnet_jax.load(folder), open_workdir(directory))
    Image.fromarray(pictures(32)[0]).save(folder / "photo.jpg", "PNG")
    (ours, onnx) = (top(programs(card)[i], folder, monkeypatch) for i in (0, 2))
    expected = alexnet_jax.load(str(directory)).predict(folder / "photo.jpg").top(5)
    assert ours == expected and [name for name, _ in onnx] == [name for name, _ in ours[0]]
    np.testing.assert_allclose([p for _, p in onnx], [p for _, p in ours[0]], atol=1e-4)


@pytest.mark.slow
def test_a_card_shows_errors_verification_and_training(directory, tmp_path):
    files = [directory / name for name in (workdir.EVALUATION, checks.VERIFIED, workdir.RUN)]
    before = {path: path.read_bytes() if path.exists() else None for path in files}

    def card() -> str:
        model_card.export(directory, tmp_path, model_card.Stated("me/mine", "mit", "ILSVRC/imagenet-1k"))
        return (tmp_path / "README.md").read_text()

    try:
        files[0].write_text(json.dumps(EVALUATION | {"step": 0}))
        checks.write(directory, [SOUND])
        start = {"time": "2026-11-27T00:00:00+00:00", "step": 0, **starts.environment()}
        start["config"] = {"data": {}, "mesh": {}, "train": {}}
        workdir.add_start(directory, workdir.read_run_file(directory), start)
        found = card()
        assert "| val | 1,500 | 10 | 26.67% | 20.00% to 30.00% | 0.60% | 0.00% to 1.25% |" in found
        assert re.search(
            r"Verified on 2026-11-28 .*steps\s0 to 3, 5 to 7 of 0 were\staken again, and 9 log lines", found
        )
        assert "although that machine differed from the run's (run -> there):\ncores: 4 -> 2." in found
        assert re.search(r"Started on\s2026-11-27, in 1 part\(s\), the last one on 4 x\scpu cpu with JAX \d", found)
        known = metadata(found)
        assert (known["license"], known["datasets"], known["metrics"]) == ("mit", ["ILSVRC/imagenet-1k"], ["accuracy"])
        (result,) = known["model-index"][0]["results"]
        assert [metric["value"] for metric in result["metrics"]] == [0.733333, 0.994]
        assert result["dataset"] == {"type": "ILSVRC/imagenet-1k", "name": "ILSVRC/imagenet-1k", "split": "val"}
        assert 'load("hf://me/mine")' in found and "hf download me/mine" in found and "# mine\n" in found
        files[0].write_text(json.dumps(EVALUATION | {"step": 5}))
        checks.write(directory, [SOUND, checks.Check(verified=False, problem="the loss differs", **CHECK)])
        found = card()
        assert "They were not measured at this step." in found and "model-index" not in metadata(found)
        assert "NOT verified: `alexnet verify-run` of 2026-11-28 found that the loss differs." in found
    finally:
        for path, content in before.items():
            path.write_bytes(content) if content is not None else path.unlink(missing_ok=True)


def test_wrong_outputs_are_refused(directory, tmp_path):
    with pytest.raises(UserError, match="is a workdir, whose files must stay; give another --output"):
        export(directory, "--output", str(directory))
    with pytest.raises(UserError, match="--push, --license and --dataset are for folders; give --output net/"):
        export(directory, "--output", str(tmp_path / "net.onnx"), "--push", "me/net")
    with pytest.raises(UserError, match="--push net is not USER/NAME"):
        export(directory, "--output", str(tmp_path / "out"), "--push", "net")
    (tmp_path / "README.md").write_text("# My project")
    with pytest.raises(UserError, match=r"README.md is not a model card of alexnet_jax; give another --output"):
        export(directory, "--output", str(tmp_path))
    assert (tmp_path / "README.md").read_text() == "# My project"


def test_a_workdir_is_opened_at_its_newest_checkpoint(directory):
    """Also where an older network was exported into it."""
    path = directory / files.WEIGHTS
    files.export(dataclasses.replace(open_workdir(directory), step=5), path)
    try:
        assert alexnet_jax.load(path).step == 5 and alexnet_jax.load(directory).step == 0
    finally:
        path.unlink()


@pytest.mark.long
def test_a_run_is_pushed_and_loaded_by_name(tmp_path, monkeypatch):
    """From training to a colleague's machine: real commands, PyTorch, and a stand-in for the Hub."""
    hub = pytest.importorskip("huggingface_hub", reason='needs pip install -e ".[hub]"')
    pytest.importorskip("torch", reason="needs pip install torch")
    runs.run(runs.command(tmp_path, "run", "--config.train.max_steps=6"))
    alexnet, workdir = [sys.executable, "-m", "alexnet_jax"], str(tmp_path / "run")
    runs.run([*alexnet, "evaluate", "--workdir", workdir])
    runs.run([*alexnet, "verify-run", workdir])
    with running() as server:
        environment = server.environment(tmp_path / "cache")
        flags = ["--workdir", workdir, "--output", f"{tmp_path}/out/", "--push", "me/net", "--license", "mit"]
        pushed = runs.end(runs.start([*alexnet, "export", *flags], env=environment))
        ((commit, files),) = server.repositories["models/me/net"].items()
        assert f"/me/net/commit/{commit}" in pushed
        assert files == {name: (tmp_path / "out" / name).read_bytes() for name in model_card.FILES}
        program = "import alexnet_jax; net = alexnet_jax.load('hf://me/net'); print(net.step, net.identity)"
        loaded = runs.end(runs.start([sys.executable, "-c", program], env=environment))
    assert loaded.splitlines()[0] == f"6 {open_workdir(tmp_path / 'run').identity}"
    card = hub.ModelCard.load(tmp_path / "out/README.md")
    results = {result.metric_name: result for result in card.data.eval_results}
    evaluation = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert results["top-1, 1 view(s)"].metric_value == round(1 - evaluation["top1_error"], 6)
    assert card.data.to_dict()["license"] == "mit" and "Verified on " in card.text and "steps\n0 to 6 of 6" in card.text
    Image.fromarray(pictures(32)[0]).save(tmp_path / "out/photo.jpg", "PNG")
    ours = alexnet_jax.load(tmp_path / "out").predict(tmp_path / "out/photo.jpg").top(5)[0]
    for program in programs(card.text)[1:]:
        theirs = top(program, tmp_path / "out", monkeypatch)
        np.testing.assert_allclose([p for _, p in theirs], [p for _, p in ours], atol=1e-4)
