"""The config is the whole truth: every key is known, typed and required."""

import json

import pytest

from alexnet_jax import model_config, run_config
from alexnet_jax.configs import paper
from alexnet_jax.errors import UserError
from alexnet_jax.run import config_files, workdir

NAMES: tuple[str, ...] = ("paper", "code2012", "digits", "cifar10", "cifar_four_layer", "scales:small")
NAMES += ("variants:data_parallel", "photos", "photos:1")


@pytest.mark.parametrize("name", NAMES)
def test_shipped_configs_are_valid_and_survive_json(name):
    parsed = config_files.parse(config_files.load(name))
    assert config_files.from_json(config_files.to_json(parsed)) == parsed
    assert workdir.differences(parsed, parsed) == []


def paper_with(change) -> run_config.Config:
    values = paper.get_config().unlock()
    change(values)
    return config_files.parse(values)


def set_key(path, value):
    def change(values):
        *sections, key = path.split(".")
        for section in sections:
            values = values[section]
        with values.ignore_type():
            values[key] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_key("optim.learning_rat", 0.1), r"unknown key config.optim.learning_rat \(did you mean learning_rate\?\)"),
        (set_key("model.conv9", None), "unknown key config.model.conv9"),
        (lambda values: values.optim.__delattr__("momentum"), "missing key config.optim.momentum"),
        (set_key("optim.learning_rate", "fast"), "config.optim.learning_rate='fast': .*valid number"),
        (
            set_key("model.fc8.init_std", "hi"),
            "config.model.fc8.init_std='hi': .*number.*model.fc8.init_std='hi': .*'he'",
        ),
        (set_key("train.batch_size", 12.5), "config.train.batch_size=12.5"),
        (set_key("model.dropout_rate", 1.0), "config.model.dropout_rate=1.0: .*less than 1"),
        (set_key("model.activation", "gelu"), "config.model.activation='gelu': .*'relu' or 'tanh'"),
        (set_key("model.lrn.n", 4), "model.lrn.n=4 must be odd"),
        (set_key("model.conv2.features", 255), "model.conv2.features=255 does not divide by model.towers=2"),
        (set_key("model.image_size", 32), "model.image_size=32 is too small: nothing is left .* after conv5"),
        (set_key("model.image_size", 300), "model.image_size=300 is larger than the stored images"),
        (set_key("optim.schedule.warmup_epochs", 90.0), "warmup_epochs=90.0 leaves none of train.epochs=90"),
        (set_key("mesh.tower", 3), "mesh.tower=3 does not fit model.towers=2"),
        (set_key("augment.shared_by", 48), "augment.shared_by=48 does not divide the 128 images per device"),
        (set_key("start.layers", ("conv7",)), "settings for layer conv7, but the network has only conv1, "),
        (set_key("start.workdir", "runs/other"), "start.workdir=runs/other, but start.layers names none"),
        (set_key("mesh.data", 3), "train.batch_size=128 does not divide by mesh.data=3"),
    ],
)
def test_a_wrong_config_is_an_error_that_names_the_key(change, message):
    with pytest.raises(UserError, match=message):
        paper_with(change)


def test_every_key_is_required():
    """No key has a default: nothing that a config leaves out is silently assumed."""

    def optional(section, path=""):
        keys = []
        for name, field in section.model_fields.items():
            kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
            for kind in kinds:
                if isinstance(kind, type) and issubclass(kind, model_config.Section):
                    keys += optional(kind, f"{path}{name}.")
            keys += [] if field.is_required() else [path + name]
        return keys

    assert optional(run_config.Config) == []


def test_differences_ignore_only_layout_and_length():
    first, other = paper.get_config(), paper.get_config()
    other.mesh.tower = 1
    other.train.epochs = 3
    assert workdir.differences(config_files.parse(first), config_files.parse(other)) == []
    other.optim.learning_rate = 0.5
    other.model.conv5 = None
    listed = workdir.differences(config_files.parse(first), config_files.parse(other))
    assert "optim.learning_rate: 0.01 -> 0.5" in listed
    assert any(line.startswith("model.conv5") for line in listed)


def test_the_json_of_a_workdir_is_readable():
    text = config_files.to_json(config_files.parse(paper.get_config()))
    assert json.loads(text)["model"]["conv3"]["exchange"] is True
