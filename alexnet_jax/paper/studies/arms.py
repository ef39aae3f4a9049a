"""The networks of the studies: what each scale trains, and the config of an arm on the given data."""

import functools
from pathlib import Path
from typing import Any, Literal, NamedTuple

from alexnet_jax.data import manifest
from alexnet_jax.paper.studies.trials import Trial
from alexnet_jax.run import config_files
from alexnet_jax.run_config import Config

Base = Literal[
    "network", "figure1", "four_layer", "four_layer_lrn",
    "digits", "cifar10", "brief", "half", "whole", "first_classes", "few", "start",
]  # fmt: skip

SCALES: dict[str, dict[Base, str]] = {  # scale -> base of an arm -> the config that the arm starts from
    "small": {
        "network": "scales:small",
        "figure1": "scales:small_four_layer",
        "four_layer": "scales:small_cifar",
        "four_layer_lrn": "scales:small_cifar_lrn",
        "digits": "digits",
        "cifar10": "cifar10",
        "brief": "scales:cifar10_brief",
        "first_classes": "scales:cifar10_half",
        "few": "scales:cifar10_few",
        "start": "scales:small_start",
    },
    "photos": {
        "network": "scales:photos",
        "half": "photos:0.5",
        "whole": "photos:1",
        "first_classes": "photos:0.25",
        "few": "scales:photos_few",
    },
    "full": {
        "network": "paper",
        "figure1": "scales:full_four_layer",
        "four_layer": "cifar_four_layer",
        "four_layer_lrn": "cifar_four_layer:lrn",
        "start": "scales:full_start",
    },
}
SCALES["smoke"] = SCALES["small"] | dict.fromkeys(("half", "whole", "first_classes", "few"), "photos:0.1")


class Arm(NamedTuple):
    """A network to train: a base, which the scale determines, and how this network differs from it."""

    base: Base
    variants: tuple[str, ...] = ()  # of configs/variants.py: NAME or NAME=VALUE
    changes: tuple[tuple[str, Any], ...] = ()  # (key of the config, value)
    start: str = ""  # the workdir of a network to fine-tune, whose architecture then stands for that of the base


class Setting(NamedTuple):
    """What the command was asked for."""

    scale: str  # one of SCALES
    data: str  # folder of prepared images; "": the embedded digits
    directory: Path  # of the runs and tables
    seeds: int  # runs of each network
    claims: tuple[str, ...]  # ids of those to test, in this order; only for the study of the claims


def trial(setting: Setting, name: str, arm: Arm, seed: int, views: tuple[int, ...]) -> Trial:
    """The training of an arm with a seed. Raises UserError if its config is wrong or the data is missing."""
    views = views[:1] if setting.scale == "smoke" else views
    return Trial(f"{name}/seed{seed}", config(setting.scale, setting.data, arm, seed), views)


@functools.cache
def config(scale: str, data: str, arm: Arm, seed: int) -> Config:
    """The config of an arm on the data: a folder of prepared images, or the embedded digits."""
    values = config_files.load(
        f"finetune:{arm.start}" if arm.start else SCALES[scale][arm.base]
    ).unlock()  # variants may add keys
    config_files.functions("variants")["apply"](values, arm.variants)
    values.seed = seed
    values.data.directory = data
    if data:  # the data determines classes and splits; the network determines the size of the images
        prepared = manifest.read(Path(data))
        values.model.num_classes = len(prepared.classes)
        splits = (values.data.eval_split, "val", "test")
        values.data.eval_split = next((split for split in splits if split in prepared.splits), splits[0])
    else:
        values.data.update(source="digits", eval_split="test", train_examples=0)
    values.lock().update_from_flattened_dict(dict(arm.changes))
    if scale == "smoke":
        values.data.train_examples = 64
        values.train.update(batch_size=32, epochs=1, max_steps=2, log_every_steps=1, eval_batch_size=64)
    return config_files.parse(values)


@functools.cache
def obstacle(setting: Setting, arm: Arm) -> str:
    """Why the arm cannot be trained on this data at this scale; "" if it can."""
    if arm.base not in SCALES[setting.scale]:
        return f"not at --scale {setting.scale}"
    known = config_files.functions("variants")["VARIANTS"]
    if unknown := [name for name in arm.variants if name.partition("=")[0] not in known]:
        return f"there is no variant {unknown[0]}"
    if not setting.data:
        return ""
    prepared = manifest.read(Path(setting.data))
    wanted, train = config_files.load(SCALES[setting.scale][arm.base]).data, prepared.splits.get("train")
    if wanted.size != prepared.size or train is None:
        return f"needs a split train of images of {wanted.size}x{wanted.size}"
    if train.count < wanted.train_examples:
        return f"needs {wanted.train_examples} training images"
    return ""


def describe(setting: Setting, arm: Arm) -> str:
    """The data, widths and epochs of an arm."""
    described = config(setting.scale, setting.data, arm, 0)
    data, model = described.data, described.model
    widths = [conv.features for _, conv in model.convs()] + [dense.features for _, dense in model.hidden()]
    count = f"{data.train_examples:,}" if data.train_examples else "all"
    name = Path(data.directory).name or data.source
    return f"{name}, {count} images; widths {'-'.join(map(str, widths))}, {described.train.epochs} epochs"
