"""Fine-tuning: images of one's own, with the layers of a network trained on others."""

import shutil
import sys

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from alexnet_jax import optim
from alexnet_jax.configs import finetune
from alexnet_jax.errors import UserError
from alexnet_jax.inference import network
from alexnet_jax.paper import signals
from alexnet_jax.run import config_files, run_data, workdir
from tests import runs
from tests.test_commands import CONFIG, run

pytestmark = pytest.mark.slow

SAVED = """
from ml_collections import ConfigDict
from alexnet_jax.run import config_files

def get_config():
    return ConfigDict(config_files.from_json(open("PATH").read()).model_dump())
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A network trained on the digits."""
    home = tmp_path_factory.mktemp("source")
    (home / "config.py").write_text(CONFIG)
    flags = [
        "--config.data.source=digits",
        "--config.data.eval_split=test",
        "--config.model.num_classes=10",
        "--config.train.epochs=5",
    ]
    run("alexnet_jax.main", f"--config={home / 'config.py'}", *flags, f"--workdir={home / 'run'}")
    return home / "run"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three of the digits, by other writers, as prepared image files, half to validate; and the output of `prepare`."""
    home, digits = tmp_path_factory.mktemp("photos"), load_digits()
    names = ["four", "six", "zero"]
    for name, digit in zip(names, (4, 6, 0), strict=True):
        for split in ("train", "val"):
            (home / "images" / split / name).mkdir(parents=True)
        for number, i in enumerate(np.flatnonzero(digits.target[1437:] == digit).tolist()):
            pixels = np.round(digits.images[1437 + i] * (255 / 16)).astype(np.uint8)
            path = home / "images" / ("val" if number % 2 else "train") / name / f"{i}.png"
            Image.fromarray(pixels).resize((40, 40), Image.Resampling.BICUBIC).save(path)
    output = run(
        "alexnet_jax", "prepare", *f"--source=folder --input={home}/images --output={home}/data --size=32".split()
    )
    return home / "data", output


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.long)])
def test_fc8_is_new_and_the_other_layers_are_those_of_the_source(processes, source, photos, tmp_path):
    """Begun in one process, or in two with a tower each; resumed in one with a device for each tower."""
    flags = next(line for line in photos[1].splitlines() if "--config.model.num_classes=3" in line).split()
    flags = [flag for flag in flags if flag.startswith("--config.")]
    command = ["alexnet_jax", "train", f"--config=finetune:{source}", *flags, f"--workdir={tmp_path / 'fine'}"]
    command += ["--config.mesh.tower=2"]
    first = [*command, f"--simulated_devices={2 // processes}", "--config.train.max_steps=8"]
    said = [runs.end(process) for process in runs.start_together([sys.executable, "-m", *first], processes)]
    assert "finished step 8" in said[0]
    assert "resuming from step 8" in run(*command, "--simulated_devices=2", "--config.train.epochs=25")
    before, after = network.open_workdir(source), network.open_workdir(tmp_path / "fine")
    for layer in ("conv1", "conv2"):
        jax.tree.map(np.testing.assert_array_equal, before.params[layer], after.params[layer])
    for layer in ("conv3", "fc7"):
        difference = np.abs(before.params[layer]["kernel"] - after.params[layer]["kernel"]).max()
        assert 0 < difference < 0.1
    assert after.params["fc8"]["kernel"].shape == (2, 32, 2) and after.classes == ["four", "six", "zero"]
    jax.tree.map(np.testing.assert_array_equal, before.statistics, after.statistics)
    lines = workdir.read_metrics(tmp_path / "fine")
    last = [line for line in lines if line["phase"] == "validation"][-1]
    assert last["top1_error"] <= 0.1 and last["count"] == 53


def test_signals_at_the_start_are_those_of_the_source(source, tmp_path):
    values = finetune.get_config(str(source))
    values.data.update(source="digits", directory="", statistics_file="")
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    conv1 = signals.at_start(config_files.parse(values), images, None)[0]
    weights = np.asarray(network.open_workdir(source).params["conv1"]["kernel"])
    assert conv1.kernel == pytest.approx(np.sqrt(np.mean(weights**2)))
    values.start.workdir = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match="nowhere is not a workdir"):
        signals.at_start(config_files.parse(values), images, None)


def test_resuming_does_not_need_the_source(source, photos, tmp_path):
    shutil.copytree(source, tmp_path / "source")
    flags = [f"--config.data.directory={photos[0]}", "--config.model.num_classes=3", "--config.train.max_steps=2"]
    command = ["alexnet_jax", "train", f"--config={tmp_path / 'fine.py'}", *flags, f"--workdir={tmp_path / 'fine'}"]
    values = finetune.get_config(str(tmp_path / "source"))
    (tmp_path / "values.json").write_text(config_files.to_json(config_files.parse(values)))
    (tmp_path / "fine.py").write_text(SAVED.replace("PATH", str(tmp_path / "values.json")))
    run(*command)
    shutil.rmtree(tmp_path / "source")
    assert "finished step 4" in run(*command, "--config.train.max_steps=4")


def test_the_argument_must_be_a_workdir(tmp_path):
    for argument, message in (("", "no network is given"), (f":{tmp_path}", "is not a workdir: it has no config.json")):
        output = run("alexnet_jax", "train", f"--config=finetune{argument}", f"--workdir={tmp_path / 'x'}", code=2)
        assert message in output and "write --config finetune:RUN" in output


def test_images_of_another_size_need_their_own_mean_image(source):
    values = finetune.get_config(str(source))
    values.data.update(source="digits", size=40)
    values.model.num_classes = 10
    message = r"statistics_file=.* images of 40x40; give another, or .*for those of the data"
    with pytest.raises(UserError, match=message):
        run_data.of_config(config_files.parse(values)).statistics()


def test_more_classes_than_in_the_data(source, photos, tmp_path):
    flags = [f"--config.data.directory={photos[0]}", f"--workdir={tmp_path / 'x'}"]
    output = run("alexnet_jax", "train", f"--config=finetune:{source}", *flags, code=2)
    assert "the network has 10 classes and the data only 3; give --config.model.num_classes=3" in output
    assert not (tmp_path / "x" / workdir.CONFIG).exists()


def test_any_network_can_be_the_source(tmp_path):
    """Also one with other layers, or with settings for its own batch size."""
    for name in ("code2012", "variants:six_conv", "variants:without=fc7"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(config_files.to_json(config_files.parse(config_files.load(name))))
        config = config_files.parse(finetune.get_config(str(tmp_path / name)))
        assert config.augment.shared_by == 1 and "fc8" not in config.start.layers
        assert set(config.optim.layers) == set(config.start.layers) and len(config.start.layers) >= 6
        for epoch, fast in ((0, 1e-2), (14, 1e-3)):  # biases learn as their weights do
            rates = optim.rates(config, config.model.layers(), epoch, optim.Validation())
            expected = dict.fromkeys(rates, fast / 10) | {"conv1": 0.0, "conv2": 0.0, "fc8": fast}
            for kind in ("kernel", "bias"):
                assert {name: kinds[kind] for name, kinds in rates.items()} == pytest.approx(expected, rel=1e-6)
