"""Feature vectors: their values, their files, nearest neighbours, and the probe."""

import functools
import json
import re
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from alexnet_jax import __main__, errors, sharding, steps
from alexnet_jax.data.datasets import open_dataset
from alexnet_jax.inference import activations, feature_store, network
from tests.conftest import ROOT, random_batch
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
    config.train.update(batch_size=32, max_steps=60, eval_batch_size=120)
    return config
"""
ABOUT = feature_store.About("fc7", "0123", ["a", "b"])


def stored_test_images(home: Path) -> np.ndarray:
    """[360, 32, 32, 3] uint8: the split `test` of the prepared digits."""
    split = open_dataset("prepared", str(home / "data"), 32, 10).splits["test"]
    pixels = np.empty((len(split.labels), 32, 32, 3), np.uint8)
    assert not split.read(np.arange(len(pixels)), pixels)
    return pixels


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with the digits prepared in `data`, a network trained on them in `run`, and five digits as files."""
    home = tmp_path_factory.mktemp("features")
    run("alexnet_jax", "prepare", "--source=digits", "--output", home / "data", "--size=32")
    (home / "config.py").write_text(CONFIG)
    run(
        "alexnet_jax.main",
        f"--config={home / 'config.py'}",
        f"--config.data.directory={home / 'data'}",
        f"--workdir={home / 'run'}",
    )
    for i, pixels in enumerate(stored_test_images(home)[:5]):
        path = home / "images" / ("even" if i % 2 == 0 else "odd") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    (home / "images" / ".hidden").write_text("no image")
    return home


def command(trained: Path, *arguments, code: int = 0) -> str:
    return run("alexnet_jax", "features", "--workdir", trained / "run", *arguments, code=code)


@pytest.fixture(scope="module")
def vectors_file(trained) -> Path:
    """A file with the vectors of the split `test`."""
    output = command(trained, "--split=test", "--output", trained / "test.npz")
    assert "360 vectors of fc7, step 60" in output
    return trained / "test.npz"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", pytest.param("float16", marks=pytest.mark.long)])
def test_layers_agree_with_numpy(dtype, statistics):
    """Plain NumPy computes each layer from the one before it, and the probabilities from the last."""
    values = tiny_config()
    values.train.compute_dtype = dtype
    cfg, mesh, state, batch, constants = on_mesh(values, "1x2", random_batch(), statistics)

    def layer(name):
        out = activations.make_features_step(cfg, mesh, name)(state.params, batch.image, constants)
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
    assert activations.layer_of(cfg, None) == "fc7" and last.shape == (8, 32) and last.any(axis=1).all()
    scores = np.exp(dense(0.5 * last, "fc8"))
    probabilities = np.exp(steps.make_log_predict_step(cfg, mesh, views=1)(state.params, batch.image, constants))
    check(probabilities, scores / scores.sum(axis=1, keepdims=True))


def test_meshes_give_the_same_features(statistics):
    found = {}
    for mesh_name in ("1x1", "1x2"):
        cfg, mesh, state, batch, constants = on_mesh(tiny_config(), mesh_name, random_batch(), statistics)
        found[mesh_name] = np.asarray(activations.make_features_step(cfg, mesh)(state.params, batch.image, constants))
    np.testing.assert_allclose(found["1x1"], found["1x2"], rtol=1e-5, atol=1e-6)


def test_without_hidden_layers_features_are_the_last_feature_maps(statistics):
    values = tiny_config()
    values.model.fc6 = values.model.fc7 = None
    cfg, mesh = parse_for_mesh(values, "1x2"), sharding.make_mesh(1, 2, 2)
    params = steps.abstract_state(cfg, mesh).params
    shape = jax.eval_shape(activations.make_features_step(cfg, mesh), params, random_batch().image, statistics)
    assert shape.shape == (8, 2 * 2 * 8) and shape.dtype == np.float32
    with pytest.raises(errors.UserError, match=r"no layer fc7 before fc8, only conv1, .*, conv5; give one as --layer"):
        activations.make_features_step(cfg, mesh, "fc7")


def test_files_and_folders_with_a_damaged_image(trained, tmp_path):
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes((trained / "images" / "odd" / "1.png").read_bytes()[:100])
    given = [damaged, trained / "images", tmp_path / "none.png", trained / "images" / "odd" / "3.png"]
    output = command(trained, *given, "--output", tmp_path / "out.npz", code=errors.EXIT_USER_ERROR)
    assert f"wrote {tmp_path / 'out.npz'}: 6 vectors" in output
    assert re.search(r"error: 2 of 8 images cannot be read: .*damaged.png: not a valid image.*none.png: ", output)
    with np.load(tmp_path / "out.npz") as out:  # which refuses pickles
        order = [0, 2, 4, 1, 3, 3]
        paths = [trained / "images" / ("odd" if i % 2 else "even") / f"{i}.png" for i in order]
        assert out["names"].tolist() == [str(path) for path in paths]
        assert out["vectors"].dtype == np.float32 and "labels" not in out
        expected = network.open_workdir(trained / "run").features(list(stored_test_images(trained)[:5]))
        np.testing.assert_allclose(out["vectors"], expected[order], rtol=1e-5, atol=1e-6)
    nothing = command(trained, damaged, "--output", tmp_path / "nothing.npz", code=errors.EXIT_USER_ERROR)
    assert "1 of 1 images cannot be read" in nothing and "wrote" not in nothing
    assert {path.name for path in tmp_path.iterdir()} == {"damaged.png", "out.npz"}


def test_both_formats_have_the_same_content(trained, vectors_file, tmp_path, monkeypatch):
    shutil.copytree(trained / "data", tmp_path / "moved")
    command(trained, "--split=test", "--data", tmp_path / "moved", "--output", tmp_path / "out.parquet")
    monkeypatch.setattr(feature_store, "BLOCK", 1000)  # 31 vectors of 32 numbers
    npz, parquet = feature_store.open_saved(vectors_file), feature_store.open_saved(tmp_path / "out.parquet")
    assert npz.about == parquet.about and npz.about.layer == "fc7" and len(npz.about.classes) == 10
    assert npz.names == parquet.names and npz.names[7] == "test/7"
    blocks = list(npz.blocks())
    assert len(blocks) == 12 and {block.dtype for block in blocks} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(np.concatenate(blocks), np.concatenate(list(parquet.blocks())))
    with np.load(vectors_file) as whole:
        np.testing.assert_array_equal(np.concatenate(blocks), whole["vectors"])
    labels = open_dataset("prepared", str(trained / "data"), 32, 10).splits["test"].labels
    assert npz.labels is not None and parquet.labels is not None
    np.testing.assert_array_equal(npz.labels, labels)
    np.testing.assert_array_equal(parquet.labels, labels)


def test_a_damaged_record_is_left_out_and_named(trained, tmp_path):
    shutil.copytree(trained / "data", tmp_path / "data")
    (shard,) = (tmp_path / "data").glob("test-*.raw")
    content = bytearray(shard.read_bytes())
    content[5 * 32 * 32 * 3] ^= 1
    shard.write_bytes(content)
    output = command(trained, "--split=test", "--data", tmp_path / "data", "--output", tmp_path / "out.npz")
    assert "359 vectors" in output and "bad record: image 5, test/5, " in output
    saved = feature_store.open_saved(tmp_path / "out.npz")
    assert len(saved.names) == len(saved.labels) == 359 and "test/5" not in saved.names
    content[0] ^= 1
    shard.write_bytes(content)
    output = command(trained, "--split=test", "--data", tmp_path / "data", "--output", tmp_path / "2.npz", code=65)
    assert "data error: 2 of 360 records are bad" in output and not (tmp_path / "2.npz").exists()


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


def test_the_command_finds_neighbours(trained, vectors_file):
    image = trained / "images" / "odd" / "3.png"
    lines = command(trained, image, "--neighbours=4", "--of", vectors_file).splitlines()
    assert lines[0] == str(image) and len(lines) == 5
    with np.load(vectors_file) as whole:
        (indices,), (distances,) = brute_force(whole["vectors"][3:4], whole["vectors"], 4)
        labels = whole["labels"]
    printed = [re.fullmatch(r" +(\S+)  test/(\d+)  \((\d)\)", line) for line in lines[1:]]
    assert all(printed)
    assert [int(match[2]) for match in printed if match] == indices.tolist() and indices[0] == 3
    assert [int(match[3]) for match in printed if match] == labels[indices].tolist()
    np.testing.assert_allclose([float(match[1]) for match in printed if match], distances, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output=x.npz"], "give either images .files or folders. or --split"),
        (["x.png", "--split=test", "--output=x.npz"], "give either images .files or folders. or --split"),
        (["x.png"], "give either --output FILE.npz, .* or --neighbours"),
        (["x.png", "--output=x.npz", "--neighbours=3", "--of={home}/test.npz"], "give either --output"),
        (["x.png", "--neighbours=3"], "--neighbours K and --of FILE.npz go together"),
        (["x.png", "--neighbours=0", "--of={home}/test.npz"], "--neighbours 0 is too few"),
        (["x.png", "--data=d", "--output=x.npz"], "--data gives the folder of --split's data"),
        (["x.png", "--output=x.csv"], "x.csv: files of vectors end in .npz or .parquet"),
        (["x.png", "--output={tmp}/none/x.npz"], "No such file or directory.*check that it exists"),
        (["{tmp}", "--output=x.npz"], "the folder {tmp} holds no image"),
        (["x.png", "--layer=fc8", "--output=x.npz"], "no layer fc8 before fc8, only conv1, "),
        (["--split=val", "--output=x.npz"], "no split 'val', only test, train; give one of them as --split"),
        (["--split=test", "--data={tmp}/none", "--output=x.npz"], "is not there; give its folder as --data"),
        (["{image}", "--neighbours=361", "--of={home}/test.npz"], "holds only 360 vectors; give no more as"),
        (["{image}", "--neighbours=1", "--of={home}/test.npz", "--layer=fc6"], "come from fc7 of another"),
        (["{image}", "--neighbours=1", "--of={home}/run/statistics.npz"], "statistics.npz is damaged, or not a file"),
        (["{image}", "--neighbours=1", "--of={home}/none.npz"], "No such file.*check that it exists"),
    ],
)  # fmt: skip
def test_bad_arguments_give_one_line(trained, vectors_file, arguments, message, tmp_path, capsys):
    names = {"home": trained, "tmp": tmp_path, "image": trained / "images" / "even" / "0.png"}
    with pytest.raises(SystemExit, match=str(errors.EXIT_USER_ERROR)):
        __main__.main(["features", f"--workdir={trained / 'run'}", *(text.format(**names) for text in arguments)])
    output = capsys.readouterr().err
    assert re.search(message.format(**names), output) and output.count("\n") == 1, output
    assert not list(tmp_path.iterdir()) and not (ROOT / "x.npz").exists()


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_files_that_are_damaged_or_of_another_network_are_refused(suffix, trained, tmp_path):
    path = tmp_path / f"other{suffix}"
    part = feature_store.Named(["x", "y"], None, np.ones((2, 32), np.float32))
    assert feature_store.save(path, [part, part], ABOUT) == 4
    saved = feature_store.open_saved(path)
    assert saved.about == ABOUT and saved.labels is None and saved.names == ["x", "y", "x", "y"]
    image = trained / "images" / "even" / "0.png"
    assert "of another network" in command(trained, image, "--neighbours=1", "--of", path, code=2)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(errors.UserError, match="is damaged, or not a file"):
        feature_store.open_saved(path)


def test_a_file_is_written_completely_or_not_at_all(tmp_path):
    def parts():
        yield feature_store.Named(["x"], None, np.ones((1, 4), np.float32))
        raise errors.DataError("in the middle")

    assert feature_store.save(tmp_path / "x.npz", [], ABOUT) == 0
    with pytest.raises(errors.DataError, match="in the middle"):
        feature_store.save(tmp_path / "x.npz", parts(), ABOUT)
    assert not list(tmp_path.iterdir())


def test_the_probe_beats_chance(trained, tmp_path):
    flags = ["--train_split=train", "--eval_split=test", "--images=300", "--json", tmp_path / "probe.json"]
    lines = run("alexnet_jax", "probe", "--workdir", trained / "run", *flags).splitlines()
    assert lines[0] == "300 images of train to train on, 300 of test to count errors on; step 60"
    result = json.loads((tmp_path / "probe.json").read_text())
    assert (result["train_images"], result["eval_images"], result["layer"]) == (300, 300, "fc7")
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
    [
        ("pyarrow", ["features", "--split=test", "--output=x.parquet"]),
        ("skimage", ["probe"]),
    ],
)
def test_a_missing_extra_gives_one_line(library, command, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(SystemExit, match=str(errors.EXIT_USER_ERROR)):
        __main__.main([*command, "--workdir=none"])
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert re.search(r'error: .* needs .*: pip install "alexnet_jax\[features\]"', message)
