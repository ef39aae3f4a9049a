"""Own images with a network that has learned from others."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from alexnet_jax.configs import finetune
from alexnet_jax.errors import UserError
from alexnet_jax.interop import networks
from alexnet_jax.run import config_files, workdir
from tests.test_commands import CONFIG, run

SAVED = """
import json
from ml_collections import ConfigDict
from alexnet_jax.configs.finetune import tuples

def get_config():
    return ConfigDict(tuples(json.loads(open("PATH").read())))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A network that knows the digits."""
    home = tmp_path_factory.mktemp("source")
    (home / "config.py").write_text(CONFIG)
    flags = [
        "--config.data.source=digits",
        "--config.data.eval_split=test",
        "--config.model.num_classes=10",
        "--config.train.epochs=2",
    ]
    run("alexnet_jax.main", f"--config={home / 'config.py'}", *flags, f"--workdir={home / 'run'}")
    return home / "run"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three digits of other writers as image files, prepared."""
    home, digits = tmp_path_factory.mktemp("photos"), load_digits()
    names = ["four", "six", "zero"]
    for name, digit in zip(names, (4, 6, 0), strict=True):
        (home / "images" / name).mkdir(parents=True)
        for i in np.flatnonzero(digits.target[1437:] == digit)[:30].tolist():
            pixels = np.round(digits.images[1437 + i] * (255 / 16)).astype(np.uint8)
            Image.fromarray(pixels).resize((40, 40), Image.Resampling.BICUBIC).save(home / f"images/{name}/{i}.png")
    said = run(
        "alexnet_jax", "prepare", *f"--source=folder --input={home}/images --output={home}/data --size=32".split()
    )
    return home / "data", said


def test_the_head_is_new_and_the_rest_as_it_was(source, photos, tmp_path):
    said = photos[1]
    flags = next(line for line in said.splitlines() if "--config.model.num_classes=3" in line).split()
    flags = [flag for flag in flags if flag.startswith("--config.")]
    line = ["alexnet_jax.main", f"--config=configs/finetune.py:{source}", *flags, f"--workdir={tmp_path / 'fine'}"]
    said = run(*line, "--config.train.epochs=6", "--config.train.max_steps=8")
    assert "finished step 8" in said
    said = run(*line, "--config.train.epochs=25")  # goes on
    assert "going on from step 8" in said
    before, after = networks.of_workdir(source), networks.of_workdir(tmp_path / "fine")
    for layer in ("conv1", "conv2"):
        jax.tree.map(np.testing.assert_array_equal, before.params[layer], after.params[layer])
    for layer in ("conv3", "fc7"):
        moved = np.abs(before.params[layer]["kernel"] - after.params[layer]["kernel"]).max()
        assert 0 < moved < 0.1
    assert after.params["fc8"]["kernel"].shape == (2, 32, 2) and after.classes == ["four", "six", "zero"]
    jax.tree.map(np.testing.assert_array_equal, before.statistics, after.statistics)
    lines = [json.loads(line) for line in (tmp_path / "fine" / "metrics.jsonl").read_text().splitlines()]
    assert [line["top1_error"] for line in lines if line["split"] == "val"][-1] <= 0.1


def test_going_on_does_not_need_the_source(source, photos, tmp_path):
    shutil.copytree(source, tmp_path / "source")
    flags = [f"--config.data.directory={photos[0]}", "--config.model.num_classes=3", "--config.train.max_steps=2"]
    line = ["alexnet_jax.main", f"--config={tmp_path / 'fine.py'}", *flags, f"--workdir={tmp_path / 'fine'}"]
    values = finetune.get_config(str(tmp_path / "source"))
    (tmp_path / "values.json").write_text(config_files.to_json(config_files.parse(values)))
    (tmp_path / "fine.py").write_text(SAVED.replace("PATH", str(tmp_path / "values.json")))
    run(*line)
    shutil.rmtree(tmp_path / "source")
    assert "finished step 4" in run(*line, "--config.train.max_steps=4")


def test_what_it_is_given_must_be_a_run(tmp_path):
    for argument, message in (("", "which run's network?"), (f":{tmp_path}", "is no run, it has no config.json")):
        said = run("alexnet_jax.main", f"--config=configs/finetune.py{argument}", f"--workdir={tmp_path / 'x'}", code=2)
        assert message in said and "write --config configs/finetune.py:RUN" in said


def test_images_of_another_size_have_no_mean_image_there(source, photos, tmp_path):
    values = finetune.get_config(str(source))
    values.data.size = 40
    from alexnet_jax.run import warm_start

    with pytest.raises(UserError, match=r"images of 32 pixels and config.data.size is 40.*start.statistics=False"):
        warm_start.statistics(config_files.parse(values))


def test_more_classes_than_the_data_has(source, photos, tmp_path):
    flags = [f"--config.data.directory={photos[0]}", f"--workdir={tmp_path / 'x'}"]
    said = run("alexnet_jax.main", f"--config=configs/finetune.py:{source}", *flags, code=2)
    assert "the network has 10 classes and the data only 3; give --config.model.num_classes=3" in said
    assert not (tmp_path / "x" / workdir.CONFIG).exists()


def test_any_network_can_be_the_source(tmp_path):
    """Without layers, with settings for its own batch size."""
    from configs import code2012
    from configs.variants import six_conv, without

    for name, make in (
        ("a", code2012.get_config),
        ("b", six_conv.get_config),
        ("c", lambda: without.get_config("fc7")),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(config_files.to_json(config_files.parse(make())))
        config = config_files.parse(finetune.get_config(str(tmp_path / name)))
        assert config.augment.shared_by == 1 and "fc8" not in config.start.layers
        assert set(config.optim.layers) == set(config.start.layers)
