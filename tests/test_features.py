"""Features: their values, their files, nearest neighbours, and the probe."""

import dataclasses
import functools
import json
import re
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import xarray
from PIL import Image

from alexnet_jax import __main__, errors, sharding, steps
from alexnet_jax.data.datasets import given, open_dataset
from alexnet_jax.inference import activations, feature_store, network
from alexnet_jax.run import config_files
from tests.conftest import ROOT, random_batch
from tests.documents import PAGES
from tests.meshes import on_mesh, parse_for_mesh
from tests.test_commands import run
from tests.tiny import tiny_config

pytestmark = pytest.mark.slow

CONFIG = """
from tests.tiny import tiny_config

def get_config():
    config = tiny_config()
    config.augment.flip = False
    config.data.update(source="prepared", max_bad=0.004)  # of 360 images, one
    config.train.update(batch_size=32, max_steps=60, eval_batch_size=120, save_every_steps=30, keep_every_steps=30)
    return config
"""


def stored_test_images(home: Path) -> np.ndarray:
    """[360, 32, 32, 3] uint8: the split `test` of the prepared digits."""
    split = open_dataset("prepared", str(home / "data"), 32, 10).splits["test"]
    pixels = np.empty((len(split.labels), 32, 32, 3), np.uint8)
    assert not split.read(np.arange(len(pixels)), pixels)
    return pixels


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with the digits prepared in `data`, a network trained on them in `run`, and five digits as files.

    `other` is `run` with another seed in its config, so that they differ at step 0, and are equal at 30 and 60.
    """
    home = tmp_path_factory.mktemp("features")
    run("alexnet_jax", "prepare", "--source=digits", "--output", home / "data", "--size=32")
    (home / "config.py").write_text(CONFIG)
    run(
        "alexnet_jax.main",
        f"--config={home / 'config.py'}",
        f"--config.data.directory={home / 'data'}",
        f"--workdir={home / 'run'}",
    )
    shutil.copytree(home / "run", home / "other")
    config = (home / "run" / "config.json").read_text()
    (home / "other" / "config.json").write_text(config.replace('"seed": 0', '"seed": 1'))
    for i, pixels in enumerate(stored_test_images(home)[:5]):
        path = home / "images" / ("even" if i % 2 == 0 else "odd") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    (home / "images" / ".hidden").write_text("no image")
    return home


def command(trained: Path, *arguments, code: int = 0) -> str:
    return run("alexnet_jax", "features", *arguments, "--workdir", trained / "run", code=code)


@pytest.fixture(scope="module")
def features_file(trained) -> Path:
    """A file with the features of the split `test` at fc6 and fc7."""
    output = command(trained, "--split=test", "--layers=fc6,fc7", "--output", trained / "test.nc")
    assert f"wrote {trained / 'test.nc'}: 1 network(s), 360 images, 64 units" in output
    return trained / "test.nc"


def stored(path: Path, layer: str) -> np.ndarray:
    """The features [images, units] of a layer in a file of one network."""
    with xarray.open_dataarray(path) as features:
        return features.isel(network=0, neuroid=features.layer == layer).values


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", pytest.param("float16", marks=pytest.mark.long)])
def test_layers_agree_with_numpy(dtype, statistics):
    """Plain NumPy computes each layer from the one before it, and the probabilities from the last."""
    values = tiny_config()
    values.train.compute_dtype = dtype
    cfg, mesh, state, batch, constants = on_mesh(values, "1x2", random_batch(), statistics)

    def layer(name):
        out = activations.make_features_step(cfg, mesh, activations.layers_of(cfg, name))(
            state.params, batch.image, constants
        )
        assert out.dtype == np.float32
        return np.asarray(out, np.float64)

    def dense(x, name):
        own = state.params[name]
        kernel = np.concatenate(list(np.asarray(own["kernel"], np.float64)), axis=-1)
        return x @ kernel + np.concatenate(list(np.asarray(own["bias"], np.float64)))

    relative, absolute = (1e-4, 1e-5) if dtype == "float32" else (0.05, 0.05)
    check = functools.partial(np.testing.assert_allclose, rtol=relative, atol=absolute)
    maps = layer("conv5").reshape(8, 2, 2, 2, 4).transpose(0, 2, 3, 1, 4)  # [B, tower, H, W, C] -> towers last
    check(layer("fc6"), np.maximum(dense(maps.reshape(8, -1), "fc6"), 0))
    last = layer(None)
    check(last, np.maximum(dense(0.5 * layer("fc6"), "fc7"), 0))
    assert activations.layers_of(cfg, None) == ("fc7",) and last.shape == (8, 32) and last.any(axis=1).all()
    scores = np.exp(dense(0.5 * last, "fc8"))
    probabilities = np.exp(steps.make_log_predict_step(cfg, mesh, views=1)(state.params, batch.image, constants))
    check(probabilities, scores / scores.sum(axis=1, keepdims=True))


def test_meshes_give_the_same_features(statistics):
    values = tiny_config()
    values.model.num_classes = 5  # the share of the second tower is one short
    found = {}
    for mesh_name in ("1x1", "1x2"):
        cfg, mesh, state, batch, constants = on_mesh(values, mesh_name, random_batch(), statistics)
        step = activations.make_features_step(cfg, mesh, ("conv2", "fc7", "fc8"), "max")
        found[mesh_name] = np.asarray(step(state.params, batch.image, constants))
    assert found["1x1"].shape == (8, 8 + 32 + 5)
    largest = found["1x2"].max()  # the sums that end near 0 are rounded as coarsely as the others
    np.testing.assert_allclose(found["1x1"], found["1x2"], rtol=1e-5, atol=1e-6 * largest)


def test_without_hidden_layers_features_are_the_last_feature_maps(statistics):
    values = tiny_config()
    values.model.fc6 = values.model.fc7 = None
    cfg, mesh = parse_for_mesh(values, "1x2"), sharding.make_mesh(1, 2, 2)
    params, layers = steps.abstract_state(cfg, mesh).params, activations.layers_of(cfg, None)
    shape = jax.eval_shape(activations.make_features_step(cfg, mesh, layers), params, random_batch().image, statistics)
    assert layers == ("conv5",) and shape.shape == (8, 2 * 2 * 8) and shape.dtype == np.float32
    with pytest.raises(
        errors.UserError, match=r"no layer 'fc7', only conv1, .*, conv5, fc8; give some of these, or all"
    ):
        activations.layers_of(cfg, "conv1,fc7")


def test_xarray_reads_what_networks_of_two_runs_compute_at_several_steps(trained, tmp_path):
    """All units of all layers, as in `Network.activations`; pooled, their means."""
    images, path = stored_test_images(trained), tmp_path / "all.nc"
    directories = [trained / "run", trained / "other"]
    flags = [f"--data={trained / 'data'}", "--steps=0,30,60", "--layers=all", "--output", path]
    run("alexnet_jax", "features", "--split=test", *flags, "--workdir", *directories)
    with xarray.open_dataarray(path) as whole:
        assert whole.dims == ("network", "presentation", "neuroid") and whole.dtype == np.float32
        assert whole.run.values.tolist() == ["run"] * 3 + ["other"] * 3 and whole.step.values.tolist() == 2 * [
            0,
            30,
            60,
        ]
        assert whole.stimulus_id.values[7] == "test/7" and whole.example.values.tolist() == list(range(360))
        labels = open_dataset("prepared", str(trained / "data"), 32, 10).splits["test"].labels
        assert whole.label.values.tolist() == [str(label) for label in labels]
        features = whole.set_index(network=["run", "step"]).load()
    np.testing.assert_array_equal(features.sel(network=("run", 60)), features.sel(network=("other", 60)))
    for run_name, step in (("run", 0), ("other", 0), ("run", 30)):
        net = network.open_workdir(trained / run_name, step)
        assert net.step == step
        of_network = features.sel(network=(run_name, step)).isel(presentation=3)
        for layer, activation in net.activations(images[3]).items():
            units = of_network.isel(neuroid=features.layer.values == layer)
            maps = units.set_index(neuroid=["tower", "y", "x", "channel"]).unstack("neuroid")
            expected = activation.values if activation.values.ndim == 4 else activation.values[:, None, None]
            assert maps.dims == ("tower", "y", "x", "channel") and maps.shape == expected.shape
            np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-5)
    starts = [features.sel(network=(name, 0)).isel(neuroid=features.layer.values == "fc7") for name in ("run", "other")]
    assert not np.allclose(*starts)
    maps = features.sel(network=("run", 60)).isel(neuroid=features.layer.values == "conv3")
    maps = maps.set_index(neuroid=["tower", "y", "x", "channel"]).unstack("neuroid")
    for pool, pooled in (("mean", maps.mean(["y", "x"])), ("max", maps.max(["y", "x"]))):
        command(trained, "--split=test", "--layers=conv3", f"--pool={pool}", "--output", tmp_path / f"{pool}.nc")
        found = stored(tmp_path / f"{pool}.nc", "conv3")
        np.testing.assert_allclose(found, pooled.values.reshape(360, -1), rtol=1e-4, atol=1e-5)


def test_the_documented_program_reads_a_file(trained, tmp_path, monkeypatch):
    page = PAGES["docs/features.md"]
    program = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0].replace('"seed0", 1800', '"run", 60')
    flags = ["--steps=30,60", "--layers=conv1,fc7", "--pool=max", "--output", tmp_path / "features.nc"]
    command(trained, "--split=test", *flags)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(program, names)
    assert names["prototypes"].shape == (10, 32) and names["maps"].sizes["channel"] == 4
    assert names["maps"].dims == ("presentation", "run", "step", "tower", "y", "x", "channel")
    for pool, count in (("none", 261_448), ("mean", 10_568)):
        config = config_files.parse(config_files.load("paper"))
        assert len(activations.units(config, activations.layers_of(config, "all"), pool)["layer"]) == count
        assert f"{count:,}" in page


def test_files_and_folders_with_a_damaged_image(trained, tmp_path):
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes((trained / "images" / "odd" / "1.png").read_bytes()[:100])
    given = [damaged, trained / "images", tmp_path / "none.png", trained / "images" / "odd" / "3.png"]
    output = command(trained, *given, "--output", tmp_path / "out.nc", code=errors.EXIT_USER_ERROR)
    assert f"wrote {tmp_path / 'out.nc'}: 1 network(s), 6 images, 32 units" in output
    assert re.search(r"error: 2 of 8 images cannot be read: .*damaged.png: not a valid image.*none.png: ", output)
    order = [0, 2, 4, 1, 3, 3]
    paths = [trained / "images" / ("odd" if i % 2 else "even") / f"{i}.png" for i in order]
    saved = feature_store.open_saved(tmp_path / "out.nc")
    assert saved.names == [str(path) for path in paths] and saved.labels is None
    expected = network.open_workdir(trained / "run").features(list(stored_test_images(trained)[:5]))
    np.testing.assert_allclose(stored(tmp_path / "out.nc", "fc7"), expected[order], rtol=1e-5, atol=1e-6)
    nothing = command(trained, damaged, "--output", tmp_path / "nothing.nc", code=errors.EXIT_USER_ERROR)
    assert "none of the images can be read: " in nothing and "wrote" not in nothing
    assert {path.name for path in tmp_path.iterdir()} == {"damaged.png", "out.nc"}


def test_a_file_is_read_in_blocks(trained, features_file, tmp_path, monkeypatch):
    shutil.copytree(trained / "data", tmp_path / "moved")
    command(trained, "--split=test", "--data", tmp_path / "moved", "--layers=all", "--output", tmp_path / "all.nc")
    monkeypatch.setattr(feature_store, "BLOCK", 64 * 31)
    saved = feature_store.open_saved(features_file)
    assert saved.layers == ("fc6", "fc7") and saved.names[7] == "test/7"
    blocks = list(saved.blocks(0, ("fc7",)))
    assert [block.shape for block in blocks] == 11 * [(31, 32)] + [(19, 32)]
    np.testing.assert_array_equal(np.concatenate(blocks), stored(tmp_path / "all.nc", "fc7"))


def test_a_damaged_record_is_left_out_and_named(trained, tmp_path):
    shutil.copytree(trained / "data", tmp_path / "data")
    (shard,) = (tmp_path / "data").glob("test-*.raw")
    content = bytearray(shard.read_bytes())
    content[5 * 32 * 32 * 3] ^= 1
    shard.write_bytes(content)
    output = command(trained, "--split=test", "--data", tmp_path / "data", "--output", tmp_path / "out.nc")
    assert "359 images" in output and "bad record: image 5, test/5, " in output
    saved = feature_store.open_saved(tmp_path / "out.nc")
    assert len(saved.names) == len(saved.labels) == 359 and "test/5" not in saved.names
    content[0] ^= 1
    shard.write_bytes(content)
    output = command(trained, "--split=test", "--data", tmp_path / "data", "--output", tmp_path / "2.nc", code=65)
    assert "data error: 2 of 360 records are bad" in output and not (tmp_path / "2.nc").exists()


def brute_force(queries, known, count):
    """Indices and distances by the definition."""
    distances = np.sqrt(((queries.astype(np.float64)[:, None] - known.astype(np.float64)[None]) ** 2).sum(axis=-1))
    order = np.argsort(distances, axis=1, kind="stable")[:, :count]
    return order, np.take_along_axis(distances, order, axis=1)


@pytest.mark.parametrize("rows", [1, 7, 100, 1000])
def test_neighbours_are_exact(rows):
    """Even among equal vectors, and among vectors too close to tell apart by float32 squares."""
    rng = np.random.default_rng(0)
    known = np.maximum(rng.normal(size=(200, 64)), 0).astype(np.float32) + 100
    known[50] = known[60] = known[150]
    known[51:55] = known[150] + np.array([[3], [1], [2], [4]], np.float32) * 2**-16
    queries = np.concatenate([known[[150, 51, 3]], np.maximum(rng.normal(size=(4, 64)), 0).astype(np.float32) + 100])
    blocks = (known[start : start + rows] for start in range(0, len(known), rows))
    indices, distances = feature_store.nearest(queries, blocks, 9)
    expected_indices, expected = brute_force(queries, known, 9)
    np.testing.assert_array_equal(indices, expected_indices)
    np.testing.assert_allclose(distances, expected, rtol=1e-12)
    assert indices[0, :6].tolist() == [50, 60, 150, 52, 53, 51] and distances[0, 2] == 0 < distances[0, 3]


@pytest.mark.parametrize("scale", [1e-6, 0.3, 1e6])
def test_scale_does_not_change_the_ranking(scale):
    rng = np.random.default_rng(1)
    queries, known = (rng.normal(size=(count, 32)).astype(np.float32) for count in (5, 300))
    indices, distances = feature_store.nearest(queries, [known], 20)
    scaled_indices, scaled = feature_store.nearest(queries * np.float32(scale), [known * np.float32(scale)], 20)
    np.testing.assert_array_equal(indices, scaled_indices)
    np.testing.assert_allclose(scaled, scale * distances, rtol=1e-5)


def test_the_command_finds_neighbours(trained, features_file):
    """Among the features of a layer, and of all in the file."""
    image, known = trained / "images" / "odd" / "3.png", stored(features_file, "fc7")
    lines = command(trained, image, "--neighbours=4", "--layers=fc7", "--of", features_file).splitlines()
    assert lines[0] == str(image) and len(lines) == 5
    (indices,), (distances,) = brute_force(known[3:4], known, 4)
    labels = open_dataset("prepared", str(trained / "data"), 32, 10).splits["test"].labels
    printed = [re.fullmatch(r" +(\S+)  test/(\d+)  \((\d)\)", line) for line in lines[1:]]
    assert all(printed)
    assert [int(match[2]) for match in printed if match] == indices.tolist() and indices[0] == 3
    assert [int(match[3]) for match in printed if match] == labels[indices].tolist()
    np.testing.assert_allclose([float(match[1]) for match in printed if match], distances, rtol=1e-4, atol=1e-4)
    both = np.concatenate([stored(features_file, "fc6"), known], axis=1)
    second = command(trained, image, "--neighbours=2", "--of", features_file).splitlines()[2].split()
    np.testing.assert_allclose(float(second[0]), brute_force(both[3:4], both, 2)[1][0, 1], rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output=x.nc"], "give either images .files or folders., before --w"),
        (["x.png", "--split=test", "--output=x.nc"], "give either images .files or folders., before --w"),
        (["x.png"], "give either --output FILE.nc, .* or --neighbours"),
        (["x.png", "--output=x.nc", "--neighbours=3", "--of={home}/test.nc"], "give either --output"),
        (["x.png", "--neighbours=3"], "--neighbours K and --of FILE.nc go together"),
        (["x.png", "--neighbours=0", "--of={home}/test.nc"], "--neighbours 0 is too few"),
        (["x.png", "--data=d", "--output=x.nc"], "--data gives the folder of --split's data"),
        (["x.png", "--output=x.csv"], "x.csv: files of features are netCDF; give a name that ends in .nc"),
        (["x.png", "--output={tmp}/none/x.nc"], "No such file or directory.*check that it exists"),
        (["{tmp}", "--output=x.nc"], "the folder {tmp} holds no image"),
        (["{image}", "--layers=fc6,fc9", "--output=x.nc"], "no layer 'fc9', only conv1, .*, fc8; give some"),
        (["{image}", "--steps=0,31", "--output=x.nc"], r"run keeps no network of step 31, only 0 and \[30, 60\]; see"),
        (["{image}", "--steps=last", "--output=x.nc"], "--steps last are no steps; give numbers separated by commas"),
        (["x.png", "--neighbours=1", "--steps=0,30", "--of={home}/test.nc"], "--neighbours takes one network"),
        (["x.png", "--neighbours=1", "--pool=max", "--of={home}/test.nc"], "--pool is that of the file --of"),
        (["{image}", "--neighbours=1", "--steps=30", "--of={home}/test.nc"], "no features of fc6, fc7 of .* step 30;"),
        (["--split=val", "--output=x.nc"], "no split 'val', only test, train; give one of them as --split"),
        (["--split=test", "--data={tmp}/none", "--output=x.nc"], "is not there; give its folder as --data"),
        (["{image}", "--neighbours=361", "--of={home}/test.nc"], "holds only 360 images; give no more as"),
        (["{image}", "--neighbours=1", "--of={home}/test.nc", "--layers=conv5"], "has no features of conv5 of"),
        (["{image}", "--neighbours=1", "--of={home}/none.npz"], "none.npz: files of features are netCDF"),
        (["{image}", "--neighbours=1", "--of={home}/none.nc"], "No such file.*check that it exists"),
    ],
)  # fmt: skip
def test_bad_arguments_give_one_line(trained, features_file, arguments, message, tmp_path, capsys):
    names = {"home": trained, "tmp": tmp_path, "image": trained / "images" / "even" / "0.png"}
    with pytest.raises(SystemExit, match=str(errors.EXIT_USER_ERROR)):
        __main__.main(["features", *(text.format(**names) for text in arguments), f"--workdir={trained / 'run'}"])
    output = capsys.readouterr().err
    assert re.search(message.format(**names), output) and output.count("\n") == 1, output
    assert not list(tmp_path.iterdir()) and not (ROOT / "x.nc").exists()


def test_all_runs_must_be_there_before_the_first_is_computed(trained, tmp_path):
    shutil.copytree(trained / "run", tmp_path / "empty", ignore=shutil.ignore_patterns("checkpoints"))
    flags = ["--steps=all", f"--output={tmp_path}/x.nc", "--workdir", trained / "run"]
    for path, message in ((tmp_path / "none", "is not a workdir"), (tmp_path / "empty", "holds no checkpoints; give")):
        assert message in run("alexnet_jax", "features", trained / "images/even/0.png", *flags, path, code=2)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_files_that_are_damaged_or_of_another_kind_are_refused(features_file, tmp_path):
    content, path = features_file.read_bytes(), tmp_path / "x.nc"
    for damaged in (content[: len(content) // 2], b"no netCDF", b""):
        path.write_bytes(damaged)
        with pytest.raises(errors.UserError, match=r"x\.nc is damaged, or not a file that"):
            feature_store.open_saved(path)
    xarray.Dataset({"parameters": ("a", [1]), "stimulus_id": ("b", [1]), "layer": ("c", [1])}).to_netcdf(path)
    with pytest.raises(errors.UserError, match=r"x\.nc is damaged, or not a file that"):
        feature_store.open_saved(path)


def test_a_file_is_written_completely_or_not_at_all(trained, tmp_path):
    def networks():
        yield "run", network.open_workdir(trained / "run")
        raise errors.DataError("in the middle")

    images = given([trained / "images"], 32)
    with pytest.raises(errors.DataError, match="in the middle"):
        feature_store.save(tmp_path / "x.nc", networks(), images, None, "none", labelled=False)
    other = network.open_workdir(trained / "run")
    pair = [("run", other), ("other", dataclasses.replace(other, classes=other.classes[::-1]))]
    with pytest.raises(errors.UserError, match="other has other layers, classes or sizes than the first run; give it"):
        feature_store.save(tmp_path / "x.nc", pair, images, None, "none", labelled=False)
    assert not list(tmp_path.iterdir())


def test_the_probe_beats_chance(trained, tmp_path):
    flags = ["--train_split=train", "--eval_split=test", "--images=300", "--json", tmp_path / "probe.json"]
    lines = run("alexnet_jax", "probe", "--workdir", trained / "run", *flags).splitlines()
    assert lines[0] == "300 images of train to train on, 300 of test to count errors on; step 60"
    result = json.loads((tmp_path / "probe.json").read_text())
    assert (result["train_images"], result["eval_images"], result["layers"]) == (300, 300, "fc7")
    methods = result["methods"]
    assert [row["method"] for row in methods] == ["fc7, logistic regression", "fc7, linear SVM", "HOG, linear SVM"]
    assert [row["dimensions"] for row in methods] == [32, 32, 8 * 8 * 4 * 9]
    for line, row in zip(lines[2:], methods, strict=True):
        low, high = row["interval"]
        assert low < row["top1_error"] < high < 0.7  # guessing one of ten: 0.9
        width = 2 * 1.96 * (row["top1_error"] * (1 - row["top1_error"]) / 300) ** 0.5  # of the normal approximation
        assert high - low == pytest.approx(width, rel=0.1, abs=1 / 300)
        assert line.startswith(row["method"]) and f"{row['top1_error']:.2%}" in line and f"{high:.2%}" in line
    again = run("alexnet_jax", "probe", "--workdir", trained / "run", "--train_split=test", code=errors.EXIT_USER_ERROR)
    assert "--train_split and --eval_split are both test" in again


@pytest.mark.parametrize(
    ("library", "command"),
    [("h5netcdf", ["features", "--split=test", "--output=x.nc"]), ("skimage", ["probe"])],
)
def test_a_missing_extra_gives_one_line(library, command, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(SystemExit, match=str(errors.EXIT_USER_ERROR)):
        __main__.main([*command, "--workdir=none"])
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert re.search(r'error: .* needs .*: pip install "alexnet_jax\[features\]"', message)
