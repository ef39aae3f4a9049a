"""Training from a source that is not prepared: `alexnet train --stream`."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import alexnet_jax
from alexnet_jax.data import packing, statistics
from alexnet_jax.data.datasets import Sample, open_dataset
from alexnet_jax.data.sources.kaggle import ARCHIVES as KAGGLE
from alexnet_jax.data.sources.registry import open_source
from alexnet_jax.errors import UserError
from alexnet_jax.run import config_files, run_data, workdir
from tests import ilsvrc, layouts, runs
from tests.runs import final_state, run

CLASSES, SIZE = 12, 32


@pytest.fixture(scope="module")
def truth(tmp_path_factory) -> ilsvrc.Truth:
    return ilsvrc.Truth(2012, CLASSES)


@pytest.fixture(scope="module")
def mounted(truth, tmp_path_factory) -> Path:
    return layouts.kaggle(tmp_path_factory.mktemp("streamed") / "mounted", truth)


@pytest.fixture(scope="module")
def prepared(mounted, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("prepared") / "data"
    packing.pack(open_source("kaggle", mounted), output, packing.Settings("raw", SIZE, 95, 0.0), show_progress=False)
    return output


@pytest.mark.parametrize("layout", ["kaggle", "zip", "parquet", "webdataset"])
def test_the_images_are_those_of_prepared_data(layout, truth, mounted, prepared, tmp_path):
    """And their statistics, where those of all images are taken. Parquet knows labels only once it has read."""
    if layout == "zip":
        source, path = "kaggle", layouts.kaggle_archive(tmp_path / "archive", mounted, KAGGLE[0])
    else:
        source, path = layout, mounted if layout == "kaggle" else getattr(layouts, layout)(tmp_path / layout, truth)
    streamed = open_dataset(source, str(path), SIZE, CLASSES)
    expected = open_dataset("prepared", str(prepared), SIZE, CLASSES)
    assert streamed.classes == expected.classes and list(streamed.splits) == list(expected.splits)
    for name, images in expected.splits.items():
        index = np.random.default_rng(0).permutation(len(images.labels))
        ours, theirs = (np.empty((len(index), SIZE, SIZE, 3), np.uint8) for _ in range(2))
        assert streamed.splits[name].read(index, ours) == images.read(index, theirs) == {}
        np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(streamed.splits[name].labels, images.labels)
    jax.tree.map(np.testing.assert_array_equal, streamed.statistics(), expected.statistics())


def test_statistics_of_a_sample(mounted):
    """They depend on the seed, and are those of as many images as are asked for."""
    first, again, other = (
        open_dataset("kaggle", str(mounted), SIZE, CLASSES, sample=Sample(5, seed)).statistics() for seed in (0, 0, 1)
    )
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert (first.mean_image != other.mean_image).any()
    train = open_dataset("kaggle", str(mounted), SIZE, CLASSES).splits["train"]
    pixels = np.empty((len(train.labels), SIZE, SIZE, 3), np.uint8)
    train.read(np.arange(len(pixels)), pixels)
    means = first.mean_image * 5
    chosen = np.linalg.lstsq(pixels.reshape(len(pixels), -1).T.astype(float), means.ravel(), rcond=None)[0]
    np.testing.assert_allclose(np.sort(chosen), [0] * (len(pixels) - 5) + [1] * 5, atol=1e-3)


def test_an_image_that_is_damaged_is_a_bad_record(truth, tmp_path):
    path = layouts.kaggle(tmp_path / "mounted", truth)
    name = truth.images["train"][3][0]
    (path / "ILSVRC/Data/CLS-LOC/train" / name).write_bytes(b"\xff\xd8\xff broken")
    dataset = open_dataset("kaggle", str(path), SIZE, CLASSES)
    train = dataset.splits["train"]
    bad = train.read(np.array([2, 3]), np.empty((2, SIZE, SIZE, 3), np.uint8))
    assert list(bad) == [1] and "not a valid image" in bad[1] and name in train.name(3)
    assert np.isfinite(dataset.statistics().mean_image).all()  # of the others


@pytest.mark.slow
def test_a_streamed_run_is_the_run_on_prepared_data(mounted, prepared, tmp_path):
    """Stopped and resumed, evaluated and verified; the statistics are those of a sample, which it keeps."""
    base = [f"--config.model.num_classes={CLASSES}", f"--config.data.size={SIZE}", "--config.train.batch_size=8"]
    base += ["--config.data.eval_split=val"]
    stream = [*base, "--stream=kaggle", f"--input={mounted}", "--config.data.statistics_examples=7"]
    run(runs.command(tmp_path, "streamed", *stream, "--config.train.max_steps=2"))
    assert "resuming from step 2" in run(runs.command(tmp_path, "streamed", *stream, "--config.train.max_steps=4"))
    kept = tmp_path / "streamed" / workdir.STATISTICS
    of_prepared = [*base, "--config.data.source=prepared", f"--config.data.directory={prepared}"]
    of_prepared += [f"--config.data.statistics_file={kept}", "--config.train.max_steps=4"]
    run(runs.command(tmp_path, "prepared", *of_prepared))
    jax.tree.map(
        np.testing.assert_array_equal,
        final_state(tmp_path / "streamed")[0].params,
        final_state(tmp_path / "prepared")[0].params,
    )
    for command in (["evaluate", "--workdir"], ["verify-run"]):
        run([sys.executable, "-m", "alexnet_jax", *command, str(tmp_path / "streamed")])
    assert statistics.read(kept, SIZE).mean_image.shape == (SIZE, SIZE, 3)


def test_what_cannot_be_streamed_is_refused(mounted, tmp_path):
    for source, path, message in (
        ("imagenet", str(mounted), "there is no source 'imagenet'; give one of "),
        ("kaggle", "", "--input"),
        ("digits", str(mounted), "is not read by config.data.source=digits"),
        ("kaggle", str(mounted), "the network has 13 classes and the data only 12"),
    ):
        with pytest.raises(UserError, match=message):
            open_dataset(source, path, SIZE, CLASSES + 1)
    archive = layouts.kaggle_archive(tmp_path / "archive", mounted, KAGGLE[1])
    with pytest.raises(UserError, match="archive can only be read from its start; unpack it, or run `alexnet prepare`"):
        open_dataset("kaggle", str(archive), SIZE, CLASSES)
    assert "give --stream=SOURCE too" in run(runs.command(tmp_path, "run", f"--input={mounted}"), 2)


def test_images_that_have_moved_are_asked_for(tmp_path):
    config = alexnet_jax.config("paper", **{"data.source": "folder", "data.directory": str(tmp_path / "gone")})
    with pytest.raises(UserError, match=r"gone is not there; give its folder as --data DIR"):
        run_data.of_network(config, [], None)


def test_the_share_of_a_validation_set_is_a_flag():
    """A flag takes its type from the value, which None does not have."""
    assert config_files.load("paper").data.get_type("val_fraction") is float
    assert alexnet_jax.config("paper").data.val_fraction is None
    assert alexnet_jax.config("paper", **{"data.val_fraction": 0.25}).data.val_fraction == 0.25
