"""Exported networks: they give our numbers in the program that each format is for, and come back bit for bit.

onnxruntime and JAX run here, PyTorch in test_interop_peers.py; other programs' networks are in test_interop_foreign.py.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.export
import numpy as np
import onnx
import onnxruntime
import pytest
from safetensors.numpy import load_file, save_file

import alexnet_jax
from alexnet_jax.errors import DataError, UserError
from alexnet_jax.inference.network import open_workdir
from alexnet_jax.interop import files, networks
from alexnet_jax.run import config_files
from alexnet_jax.run.workdir import CHECKPOINTS, CONFIG
from tests import runs
from tests.networks import (
    NETWORKS,
    assert_same,
    log_probabilities,
    log_softmax,
    pictures,
    random_network,
    small,
)
from tests.runs import environment
from tests.test_commands import run
from tests.tiny import tiny_config

SUFFIXES = (".safetensors", ".onnx")


@pytest.mark.slow
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_in_onnx_gives_our_numbers(kind, tmp_path):
    network = random_network(NETWORKS[kind]())
    files.export(network, tmp_path / "net.onnx")
    images = pictures(32)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    graph = onnx.load(tmp_path / "net.onnx").graph
    assert {tensor.name for tensor in graph.initializer} <= {name for node in graph.node for name in node.input}
    logits, probabilities = session.run(["logits", "probabilities"], {"image": images})
    expected = log_probabilities(network, images)
    np.testing.assert_allclose(log_softmax(logits), expected, atol=1e-4)
    np.testing.assert_allclose(np.log(probabilities), expected, atol=1e-3)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", NETWORKS)
def test_exported_files_come_back_bit_for_bit(kind, suffix, tmp_path):
    network, path = random_network(NETWORKS[kind]()), tmp_path / f"net{suffix}"
    files.export(network, path)
    opened = files.open_own(path)
    assert_same(opened, networks.folded(network))
    assert (opened.step, opened.path, opened.params.keys()) == (network.step, path, network.params.keys())


@pytest.mark.slow
def test_an_import_killed_in_its_save_is_no_run_and_can_be_repeated(tmp_path):
    network, home = random_network(small()), tmp_path / "runs"
    files.export(network, tmp_path / "net.safetensors")
    killed = None
    while killed is None or not list((killed / CHECKPOINTS).glob("*tmp*")):  # else the save was over
        killed = home / f"run{len(list(home.glob('*')))}"
        command = [sys.executable, "-m", "alexnet_jax", "import", str(tmp_path / "net.safetensors")]
        process = runs.start([*command, f"--workdir={killed}"])
        while process.poll() is None and not list((killed / CHECKPOINTS).glob("*tmp*")):
            time.sleep(0.0005)
        process.kill()
        process.communicate()
    assert not list(killed.rglob(CONFIG))  # by which all commands know a run
    networks.to_workdir(files.open_own(tmp_path / "net.safetensors"), killed)
    assert_same(open_workdir(killed), network)
    assert sorted(path.name for path in (killed / CHECKPOINTS).iterdir()) == ["0"]
    (killed / CONFIG).unlink()  # with the first checkpoint of training it is a run, which nothing may replace
    (killed / CHECKPOINTS / "5").mkdir()
    with pytest.raises(UserError, match=rf"has checkpoints of training but no {CONFIG}"):
        networks.to_workdir(network, killed)
    assert (killed / CHECKPOINTS / "0/state").exists()


@pytest.mark.slow
def test_a_program_runs_without_the_package(tmp_path):
    """For any number of images, in a Python process that cannot import the package."""
    network = random_network(small())
    files.export(network, tmp_path / "net.stablehlo")
    np.save(tmp_path / "images.npy", pictures(32))
    code = f"""
import sys
sys.modules["alexnet_jax"] = sys.modules["flax"] = None
import jax, numpy as np
import jax.export
program = jax.export.deserialize(open({str(tmp_path / "net.stablehlo")!r}, "rb").read())
images = np.load({str(tmp_path / "images.npy")!r})
for count in (1, 3):
    np.save({str(tmp_path)!r} + f"/{{count}}.npy", program.call(images[:count]))
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment())
    for count in (1, 3):
        expected = log_probabilities(network, pictures(32)[:count])
        np.testing.assert_allclose(np.log(np.load(tmp_path / f"{count}.npy")), expected, atol=1e-4)


@pytest.mark.slow
def test_layers_that_other_programs_lack_are_refused(tmp_path):
    values = tiny_config()
    values.model.fc6.exchange = False
    network = random_network(config_files.parse(values))
    for suffix in SUFFIXES:
        with pytest.raises(UserError, match=r"fc6.* sees only its own tower.*export to .stablehlo"):
            files.export(network, tmp_path / f"net{suffix}")
    assert list(tmp_path.iterdir()) == []
    files.export(network, tmp_path / "net.stablehlo")


@pytest.mark.parametrize(
    ("suffix", "module"), [(".pth", "torch"), (".onnx", "onnx"), (".safetensors", "safetensors.numpy")]
)
def test_a_missing_library_is_named(suffix, module, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "alexnet_jax.interop.onnx_files", raising=False)
    with pytest.raises(UserError, match=rf"^{module}\S* is not installed: pip install"):
        files.export(random_network(small()), tmp_path / f"net{suffix}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_opening_an_export_imports_only_what_it_needs():
    code = """
import sys
import alexnet_jax
assert "jax" not in sys.modules and "numpy" not in sys.modules
from alexnet_jax.interop import files
print(*{"torch", "onnx", "safetensors"} & sys.modules.keys())
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment())
    assert done.stdout.split() == []


# --- the library and the commands ---


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("interop") / "run"
    networks.to_workdir(random_network(small()), directory)
    return directory


def test_an_import_is_the_network_of_step_0(workdir):
    """Not drawn from the seed, as that of a run is."""
    assert_same(open_workdir(workdir, 0), open_workdir(workdir))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_load_opens_exports_as_it_opens_the_workdir(workdir, suffix, tmp_path):
    """Its parameters lie on the devices then; predictions are the same bit for bit."""
    network = alexnet_jax.load(workdir)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(network.params))
    files.export(network, tmp_path / f"net{suffix}")
    opened = alexnet_jax.load(str(tmp_path / f"net{suffix}"))
    assert isinstance(opened, alexnet_jax.Network)
    images = list(pictures(50))
    predicted, expected = opened.predict(images), network.predict(images)
    np.testing.assert_array_equal(predicted.probabilities, expected.probabilities)
    assert predicted.top(3) == expected.top(3)
    assert (opened.classes, opened.config, opened.step) == (network.classes, network.config, network.step)
    np.testing.assert_array_equal(opened.features(images), network.features(images))


def test_load_refuses_what_is_not_an_export(workdir, tmp_path):
    with pytest.raises(UserError, match=r"none\.onnx does not exist; give a workdir"):
        alexnet_jax.load(tmp_path / "none.onnx")
    files.export(alexnet_jax.load(workdir), tmp_path / "net.stablehlo")
    with pytest.raises(UserError, match=r"'.stablehlo' files cannot be read; give one of .safetensors"):
        alexnet_jax.load(tmp_path / "net.stablehlo")
    save_file({"conv1.weight": np.zeros((1, 3, 5, 5), np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"was not written by `alexnet export`.*`alexnet import .*other\.safetensors"):
        alexnet_jax.load(tmp_path / "other.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_export_and_import_as_commands(workdir, suffix, tmp_path):
    file = tmp_path / f"net{suffix}"
    assert "wrote" in run("alexnet_jax", "export", "--workdir", workdir, "--output", file)
    assert "10 classes, 2 tower" in run("alexnet_jax", "import", file, "--workdir", tmp_path / "back")
    assert_same(open_workdir(tmp_path / "back"), open_workdir(workdir))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    again = run("alexnet_jax", "import", file, "--workdir", tmp_path / "back", code=2)
    assert "is a workdir already; give another --workdir" in again


@pytest.mark.slow
def test_missing_and_superfluous_arguments_are_refused(workdir, tmp_path):
    run("alexnet_jax", "export", "--workdir", workdir, "--output", tmp_path / "net.safetensors")
    tensors = {
        name: tensor
        for name, tensor in load_file(tmp_path / "net.safetensors").items()
        if "." in name and name[0] in "cf"
    }
    save_file(tensors, tmp_path / "plain.safetensors")
    line = ["alexnet_jax", "import", tmp_path / "plain.safetensors", "--workdir", tmp_path / "new"]
    assert "give its --config" in run(*line, code=2)
    full = [*line, "--config=configs/paper.py", "--pixels=rgb"]
    assert "fc6.weight has the shape" in run(*full, code=2)
    for mean in ("1,2", "nan,0,0"):
        assert "is not three numbers" in run(*full, f"--mean={mean}", code=2)
    (tmp_path / "bad.py").write_text("x = 1\n")
    assert "bad.py has no get_config" in run(*line, f"--config={tmp_path / 'bad.py'}", "--pixels=rgb", code=2)
    (tmp_path / "names").write_bytes(b"\xe9t\xe9\n")
    assert "is not encoded in UTF-8" in run(*full, f"--classes={tmp_path / 'names'}", code=2)
    assert "holds no prepared data" in run(*full, f"--classes={tmp_path}", code=2)
    ours = [*line[:2], tmp_path / "net.safetensors", *line[3:], "--pixels=rgb"]
    assert "is self-describing; leave out --config, --pixels" in run(*ours, code=2)
    h5 = ["--output", tmp_path / "net.h5"]
    assert "'.h5' files cannot be written; give one of" in run(
        "alexnet_jax", "export", "--workdir", workdir, *h5, code=2
    )
    assert not (tmp_path / "new").exists() and not (tmp_path / "net.h5").exists()


# --- damaged files ---


def test_damaged_exports_are_refused(tmp_path):
    files.export(random_network(small()), tmp_path / "net.safetensors")
    tensors = load_file(tmp_path / "net.safetensors")
    metadata = json.dumps(
        {
            "format": 1,
            "config": small().model_dump(mode="json"),
            "classes": ["a"] * 10,
            "colours": [[0] * 3, [[0] * 3] * 3],
        }
    )
    path = tmp_path / "damaged.safetensors"
    for change, expected in (
        ({"mean_image": np.zeros((5, 5, 3), np.float32)}, "mean image"),
        ({"conv1.weight": np.zeros((1, 3, 5, 5), np.float32)}, "conv1.weight has the shape"),
    ):
        save_file(tensors | change, path, {"alexnet_jax": metadata})
        with pytest.raises(UserError, match=expected):
            files.open_own(path)
    save_file(tensors, path, {"alexnet_jax": metadata})
    assert files.open_own(path).step == 0  # as of files of earlier versions
    save_file(tensors, path, {"alexnet_jax": metadata.replace('"format": 1', '"format": 99')})
    with pytest.raises(UserError, match="has format 99"):
        files.open_own(path)
    del tensors["fc8.bias"]
    save_file(tensors, path, {"alexnet_jax": metadata})
    with pytest.raises(DataError, match=r"fc8\.bias"):
        files.open_own(path)
    save_file(tensors, path, {"alexnet_jax": "{"})
    with pytest.raises(DataError, match="is damaged"):
        files.open_own(path)
