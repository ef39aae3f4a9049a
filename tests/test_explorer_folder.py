"""The folder of an explorer: what its files hold, of what images, and that nothing else is replaced by it."""

import argparse
import base64
import dataclasses
import gzip
import io
import json
import resource
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from alexnet_jax.commands import export_weights
from alexnet_jax.data.datasets import open_dataset
from alexnet_jax.errors import UserError
from alexnet_jax.explorer import bundle, description, folder, sprites, units
from alexnet_jax.inference.network import Network, open_workdir
from alexnet_jax.interop import networks
from alexnet_jax.run import config_files, workdir
from tests.networks import log_probabilities, random_network, small
from tests.tiny import tiny_config

pytestmark = pytest.mark.slow


def export(directory: Path, explorer: Path, *flags: str) -> None:
    parser = argparse.ArgumentParser()
    export_weights.add_arguments(parser)
    export_weights.run(parser.parse_args(["--workdir", str(directory), "--explorer", str(explorer), *flags]))


def value(explorer: Path, name: str) -> Any:
    """What the script of a name gives to the page."""
    script = (explorer / f"{name}.js").read_text()
    start = f'explorer("{name}",'
    assert script.startswith(start) and script.endswith(");\n")
    return json.loads(script[len(start) : -3])


def joined(explorer: Path, pieces: dict[str, Any]) -> bytes:
    parts = [base64.b64decode(value(explorer, f"{pieces['name']}.{i}")) for i in range(len(pieces["bytes"]))]
    assert [len(part) for part in parts] == pieces["bytes"]
    return gzip.decompress(b"".join(parts))


def picture(url: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition("base64,")[2]))))


@pytest.fixture(scope="module")
def network() -> Network:
    config = small(num_classes=10)
    dataset = open_dataset("digits", "", 32, 10)
    return dataclasses.replace(random_network(config), classes=dataset.classes, statistics=dataset.statistics())


@pytest.fixture(scope="module")
def directory(network, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("explorer") / "run 图"
    networks.to_workdir(network, directory)
    return directory


@pytest.fixture(scope="module")
def explorer(directory, tmp_path_factory) -> Path:
    explorer = tmp_path_factory.mktemp("out") / "deep" / "explorer"
    export(directory, explorer, "--images", "60")
    return explorer


def test_the_page_its_runtime_and_the_network_are_there(explorer, directory, network):
    described = value(explorer, "network")
    files = {path.relative_to(explorer).as_posix() for path in explorer.rglob("*") if path.is_file()}
    pieces = [*described["runtime"].values(), *(step["program"] for step in described["steps"])]
    expected = {f"{each['name']}.{i}.js" for each in pieces for i in range(len(each["bytes"]))}
    expected |= {"network.js", "neighbours.js", *(f"units/conv{number}.js" for number in range(1, 6))}
    built = {path.relative_to(description.BUILT).as_posix() for path in description.BUILT.rglob("*.[jhct][sx]*")}
    assert files == (expected | built | {"index.html"}) - {"runtime/webgpu.js"} and "licenses.txt" in built
    assert list(explorer.parent.iterdir()) == [explorer]
    assert described["name"] == "run 图" and described["classes"] == network.classes
    assert (described["towers"], described["links"]) == (2, ["conv3", "fc6", "fc7", "fc8"])
    assert described["runtime"].keys() == {"wasm"}  # the network is small
    assert joined(explorer, described["runtime"]["wasm"])[:4] == b"\0asm"
    (step,) = described["steps"]
    assert step["step"] == network.step == 7 or step["step"] == 0  # an import starts at step 0
    session = onnxruntime.InferenceSession(joined(explorer, step["program"]))
    assert {output.name for output in session.get_outputs()} - {"probabilities"} == {
        f"{layer['name']}.{stage['name']}" for layer in described["layers"] for stage in layer["stages"]
    }
    images = np.stack([picture(example["picture"]) for example in described["examples"]])
    given = {"image": images, "links": np.ones(4, np.float32)}
    (probabilities,) = session.run(["probabilities"], given)
    np.testing.assert_allclose(probabilities, np.exp(log_probabilities(open_workdir(directory), images)), atol=1e-5)


def test_layers_are_described_as_they_are(explorer):
    layers = {layer["name"]: layer for layer in value(explorer, "network")["layers"]}
    conv1, fc8 = layers["conv1"], layers["fc8"]
    assert [stage["name"] for stage in conv1["stages"]] == ["response", "activation", "lrn", "pool"]
    assert [(stage["height"], stage["width"]) for stage in conv1["stages"]] == [(28, 28)] * 3 + [(13, 13)]
    assert conv1["stages"][2]["text"] == {"k": 2.0, "n": 5, "alpha": 1e-4, "beta": 0.75, "across_towers": 0}
    assert layers["fc6"]["stages"][0]["text"] == {"function": "relu", "dropout": 0.5}
    assert layers["conv2"]["field"] == {"size": 15, "stride": 2, "start": -6}
    assert (fc8["kind"], fc8["features"], fc8["kernel"]) == ("head", 10, 0)


def test_sources_are_the_lines_that_they_name(explorer):
    for name, place in value(explorer, "network")["sources"].items():
        file, _, line = place.partition(":")
        start = description.SOURCES[name].partition(":")[2]
        assert (Path(description.__file__).parents[2] / file).read_text().splitlines()[int(line) - 1].startswith(start)


def test_units_have_their_strongest_patches_and_kernels(explorer, directory, network):
    described = value(explorer, "network")
    assert (described["units"], described["searched"]) == (4, 60)
    train = bundle.spread(network.dataset().splits["train"], 60)
    pixels = np.empty((60, 32, 32, 3), np.uint8)
    train.read(np.arange(60), pixels)
    responses = network.ask(network.activations_step("response"), pixels)
    for name in responses:
        shown, layer = value(explorer, f"units/{name}"), network.params[name]["kernel"]
        highest = np.sort(responses[name].max(axis=(2, 3)).reshape(60, -1), axis=0)[::-1][:4].T
        assert [len(row) for row in shown["responses"]] == [(row > 0).sum() for row in highest]
        for ours, right in zip(shown["responses"], highest, strict=True):
            np.testing.assert_allclose(ours, right[right > 0], atol=6e-4)
        side, count = shown["side"], len(highest)
        assert picture(shown["patches"]).shape == (count * side, 4 * side, 3)
        colours = (3,) if name == "conv1" else ()
        columns = 1 if name == "conv1" else min(6, layer.shape[3])
        assert picture(shown["kernels"]).shape == (count * layer.shape[1], columns * layer.shape[2], *colours)
        assert shown["kernelSide"] == layer.shape[1]


def test_of_a_unit_that_never_responds_there_are_no_patches(network):
    params = network.params["conv1"]
    silent = params | {"bias": np.where(np.arange(params["bias"].shape[1]) == 1, -1e9, params["bias"])}
    silenced = dataclasses.replace(network, params=network.params | {"conv1": silent})
    _, shown = next(units.of_layers(silenced, bundle.spread(network.dataset().splits["train"], 8)))
    side, patches = shown["side"], picture(shown["patches"])
    assert shown["responses"][1] == [] and len(shown["responses"][0]) == 4
    assert (patches[side : 2 * side] == 128).all() and patches[:side].std() > 5


def test_kernels_are_those_of_the_inputs_they_name(explorer, network):
    """Of the last unit of tower 1: conv2 reads its own tower, conv3 both."""
    for name, first in (("conv2", 4), ("conv3", 0)):
        of_layer, kernel = value(explorer, f"units/{name}"), network.params[name]["kernel"][1, ..., -1]
        inputs = np.array(of_layer["inputs"][-1])
        norms = np.linalg.norm(kernel, axis=(0, 1))
        assert (inputs == first + np.argsort(-norms)[: len(inputs)]).all()
        side = of_layer["kernelSide"]
        shown = picture(of_layer["kernels"])[-side:].reshape(side, -1, side).transpose(1, 0, 2)
        right = kernel[..., inputs - first].transpose(2, 0, 1)
        np.testing.assert_allclose((shown - 127.5) / 127.5, right / np.abs(right).max(), atol=0.005)


def test_a_patch_is_what_the_unit_sees_and_grey_where_it_does_not_respond(explorer, network):
    conv1 = value(explorer, "units/conv1")
    sprite, side = picture(conv1["patches"]), conv1["side"]
    assert side == 5 and sprites.side_of(5, 100) == 5
    train = bundle.spread(network.dataset().splits["train"], 60)
    pixels = np.empty((60, 32, 32, 3), np.uint8)
    train.read(np.arange(60), pixels)
    padded = np.pad(network.centre_crop(pixels), ((0, 0), (2, 2), (2, 2), (0, 0)), constant_values=128)
    for unit, row in enumerate(conv1["responses"]):
        for column in range(4):
            patch = sprite[unit * 5 :, column * 5 :][:5, :5]
            if column >= len(row):
                assert (patch == 128).all()
                continue
            places = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(1, 2))
            assert (places.transpose(0, 1, 2, 4, 5, 3) == patch).all(axis=(3, 4, 5)).any()


def test_neighbours_have_the_vectors_of_the_programs_outputs(explorer, directory, network):
    neighbours = value(explorer, "neighbours")
    vectors = np.frombuffer(base64.b64decode(neighbours["vectors"]), "<f2").reshape(60, -1)
    train = bundle.spread(network.dataset().splits["train"], 60)
    pixels = np.empty((60, 32, 32, 3), np.uint8)
    train.read(np.arange(60), pixels)
    assert neighbours["labels"] == train.labels.tolist() and neighbours["layer"] == "fc7"
    np.testing.assert_allclose(vectors, network.ask(network.features_step("fc7"), pixels), rtol=1e-3, atol=1e-6)
    side = neighbours["side"]
    assert picture(neighbours["pictures"]).shape == (3 * side, 20 * side, 3)


def test_vectors_of_maps_are_in_the_programs_order():
    """Where there are no hidden layers: [C, H, W] of each tower, not [H, W, C]."""
    config = small(fc6=None, fc7=None)
    network = random_network(config)
    dataset = open_dataset("digits", "", 32, 10)
    network = dataclasses.replace(network, classes=dataset.classes, statistics=dataset.statistics())
    images = bundle.spread(dataset.splits["train"], 5)
    found = bundle._neighbours(network, images)
    pixels = np.empty((5, 32, 32, 3), np.uint8)
    images.read(np.arange(5), pixels)
    maps = network.ask(network.activations_step("output", ("conv5",)), pixels)["conv5"].transpose(0, 1, 4, 2, 3)
    vectors = np.frombuffer(base64.b64decode(found["vectors"]), "<f2").reshape(5, -1)
    np.testing.assert_allclose(vectors, maps.reshape(5, -1), rtol=1e-3, atol=1e-6)


def test_kernels_of_layers_with_one_for_each_place():
    """As `serve` shows them: those of the middle place."""
    values = tiny_config()
    values.model.conv3.shared = False
    network = random_network(config_files.parse(values))
    sprite, inputs = units.kernels_of(network, "conv3")
    kernel = network.params["conv3"]["kernel"][1, 3, 3, :, -1].reshape(3, 3, 8)  # of 6x6 places
    norms = np.linalg.norm(kernel, axis=(0, 1))
    assert inputs[-1] == np.argsort(-norms)[:6].tolist()
    shown, strongest = (sprite[-3:, :3] - 127.5) / 127.5, kernel[..., np.argmax(norms)]
    assert np.corrcoef(shown.ravel(), strongest.ravel())[0, 1] > 0.999


def test_pictures_are_of_whole_blocks_unless_they_are_small():
    sides = [sprites.side_of(size, rows) for size, rows in ((5, 9), (15, 9), (20, 9), (43, 9), (163, 384), (163, 4096))]
    assert sides == [5, 15, 16, 40, 48, 8]
    noise = np.random.default_rng(0).integers(0, 256, (8, 16, 3), dtype=np.uint8)
    assert (picture(sprites.data_url(noise)) == noise).all() and "image/jpeg" in sprites.data_url(noise, 8)


def test_images_are_kept_for_the_same_network_data_and_number(directory, explorer, network, capsys):
    """A damaged file is written again; where nothing can be written, that is said."""
    kept = directory / bundle.KEPT
    made = kept.read_text()
    kept.write_text(made.replace('"searched": 60', '"searched": 59'))
    opened = open_workdir(directory)
    assert bundle.of_network(opened, None, 60).described["searched"] == 59
    assert bundle.of_network(opened, None, 40).described["searched"] == 40
    for damaged in ("{", "[]", '{"origin": 3}'):
        kept.write_text(damaged)
        found = bundle.of_network(opened, None, 60)
        assert (found.files["units/conv2"], found.described["searched"]) == (value(explorer, "units/conv2"), 60)
    assert json.loads(kept.read_text()) == json.loads(made)
    kept.unlink()
    kept.mkdir()
    try:
        assert bundle.of_network(opened, None, 5).described["neighbours"] == 5
    finally:
        kept.rmdir()
    assert f"warning: {kept} is not kept" in capsys.readouterr().err


def test_without_data_there_are_no_images_but_data_that_is_given_must_be_there(tmp_path):
    values = tiny_config()
    values.data.source = "prepared"
    imported = random_network(config_files.parse(values))
    found = bundle.of_network(imported, None, 10)
    assert found.files == {} and found.missing.endswith("it was trained on is unknown; give it as --data DIR")
    assert found.described == {"examples": [], "units": 0, "searched": 0, "neighbours": 0}
    with pytest.raises(UserError, match=r"none is not there; give its folder as --data DIR"):
        bundle.of_network(imported, str(tmp_path / "none"), 10)


@pytest.fixture
def run_of_six_steps(directory, tmp_path) -> Path:
    copy = tmp_path / "six"
    shutil.copytree(directory, copy)
    for step in range(10, 60, 10):
        shutil.copytree(copy / workdir.CHECKPOINTS / "0", copy / workdir.CHECKPOINTS / str(step))
    return copy


def test_steps_along_training_in_the_place_of_another_explorer(run_of_six_steps, explorer, tmp_path, capsys):
    """Few of them, in half precision."""
    shutil.copytree(explorer, tmp_path / "explorer")
    export(run_of_six_steps, tmp_path / "explorer", "--images=0")
    described = value(tmp_path / "explorer", "network")
    assert [step["step"] for step in described["steps"]] == [0, 10, 20, 30, 50] and described["precision"] == "float32"
    programs = [joined(tmp_path / "explorer", step["program"]) for step in described["steps"]]
    assert len({*programs[:-1]}) == 1 and len(programs[0]) < len(programs[-1])
    assert (described["units"], described["neighbours"], described["examples"]) == (0, 0, [])
    assert not (tmp_path / "explorer/units").exists() and not (tmp_path / "explorer/neighbours.js").exists()
    assert "without images of the data: no image of the data was asked for" in capsys.readouterr().out


def test_of_a_large_network_the_newest_step_alone(run_of_six_steps, monkeypatch, tmp_path):
    newest = open_workdir(run_of_six_steps)
    assert [network.step for network in description.along_training(newest)] == [0, 10, 20, 30, 50]
    shutil.rmtree(run_of_six_steps / workdir.CHECKPOINTS / "0")  # the start needs no checkpoint
    assert [network.step for network in description.along_training(newest)] == [0, 10, 20, 30, 50]
    monkeypatch.setattr(description, "LARGE", 1000)
    assert [network.step for network in description.along_training(newest)] == [50]
    export(run_of_six_steps, tmp_path / "explorer", "--images", "0")
    described = value(tmp_path / "explorer", "network")
    assert described["runtime"].keys() == {"wasm", "webgpu"} and described["precision"] == "float16"
    assert joined(tmp_path / "explorer", described["runtime"]["webgpu"])[:4] == b"\0asm"


def test_other_folders_and_files_stay(directory, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/network.js").write_text("export default 3;")
    for name, problem in (("file", "is a file"), ("folder", "holds files that are not an explorer's")):
        with pytest.raises(UserError, match=f"{name} {problem}; give the --explorer a folder of its own"):
            export(directory, tmp_path / name)
    with pytest.raises(UserError, match="not an explorer's"):
        export(directory, directory)
    with pytest.raises(UserError, match="is not a workdir"):
        export(tmp_path, tmp_path / "new")
    (tmp_path / "folder/network.js").unlink()
    folder.check_folder(tmp_path / "folder")  # an empty one may be filled
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_after_a_full_disk_the_folder_is_as_before(directory, explorer, tmp_path):
    shutil.copytree(explorer, tmp_path / "explorer")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, limits[1]))  # the longest file: like a disk that is full
    try:
        with pytest.raises(OSError, match="File too large"):
            export(directory, tmp_path / "explorer", "--images=0")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_what_cannot_be_exported_is_said_before_anything_is_written(directory, tmp_path, monkeypatch, capsys):
    values = tiny_config()
    values.model.conv2.shared = False
    networks.to_workdir(random_network(config_files.parse(values)), tmp_path / "local")
    with pytest.raises(UserError, match=r"conv2 has separate kernels for every position"):
        export(tmp_path / "local", tmp_path / "explorer")
    for flags in ([], ["--output=a.onnx", "--explorer=a"]):
        with pytest.raises(SystemExit):
            parser = argparse.ArgumentParser()
            export_weights.add_arguments(parser)
            parser.parse_args(["--workdir=run", *flags])
    assert "one of the arguments --output --explorer is required" in capsys.readouterr().err
    with pytest.raises(UserError, match="--images must be 0, for none, or more"):
        export(directory, tmp_path / "explorer", "--images=-1")
    with pytest.raises(UserError, match="--push, --license and --dataset are for folders of the Hub"):
        export(directory, tmp_path / "explorer", "--push=me/net")
    monkeypatch.setitem(sys.modules, "onnx", None)
    for module in ("explorer.folder", "explorer.program", "interop.onnx_files"):
        monkeypatch.delitem(sys.modules, f"alexnet_jax.{module}", raising=False)
        monkeypatch.delattr(f"alexnet_jax.{module}")
    with pytest.raises(UserError, match=r"^onnx is not installed: pip install"):
        export(directory, tmp_path / "explorer")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["local"]
