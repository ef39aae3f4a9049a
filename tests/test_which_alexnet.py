"""The page Which AlexNet: its table is that of the configs, and its numbers are what the package computes."""

import re
import shlex

import numpy as np
import pytest

from alexnet_jax import __main__, ops
from alexnet_jax.paper import facts, signals
from alexnet_jax.run import config_files
from tests.documents import PAGES, commands
from tests.test_facts import SAMPLES

PAGE = PAGES["docs/which-alexnet.md"]
ROWS = dict(re.findall(r"^\| (\w+) \| (.*) \|$", PAGE.partition("## What each")[2], re.M))
CONFIGS = re.findall(r"\| `([\w:]+)` \|", PAGE.partition("## All")[0])


def config(name: str, **changes):
    values = config_files.load(name)
    values.model.update(changes)
    return config_files.parse(values)


def test_the_table_is_that_of_the_command(capsys):
    (command,) = [command for command in commands(PAGE) if "--compare" in command]
    assert shlex.split(command)[3:] == CONFIGS and len(CONFIGS) == 7
    with pytest.raises(SystemExit, match="0"):
        __main__.main(shlex.split(command)[1:])
    assert f"\n\n{capsys.readouterr().out}\n" in PAGE


def sides(name: str) -> tuple[int, int]:
    """Of conv1's maps, and inputs of fc6."""
    spec = config(name).model
    shapes = facts.activations.shapes(spec)[1]
    return shapes["conv1_response"][0], spec.towers * int(np.prod(shapes["conv5_output"]))


def inputs() -> list[str]:
    networks = [sides(name) for name in ("paper", "variants:caffe", "variants:cntk", "variants:one_weird_trick")]
    assert networks == [(55, 9216)] * 4 and sides("variants:slim") == (54, 6400)
    starts = [-config(name).model.conv1.padding[0] for name in ("paper", "variants:caffe", "variants:one_weird_trick")]
    views = [facts.crops(config(name)) for name in ("variants:caffe", "paper")]
    assert (256 - 227) % 2 and not (256 - 224) % 2, "crops of 227 have no exact centre"
    return [
        *("55 x 55", "54 x 54", "6,400 inputs in place of 9,216", "0, 0 and {2}".format(*starts)),
        f"crops of 227 have {views[0]:,} places and mirror images, none of them exactly in the centre",
        f"those of 224 have {views[1]:,}",
    ]


def normalized(value: float, k: float, alpha: float) -> float:
    """The middle channel of maps that are `value` in all."""
    return float(ops.local_response_norm(np.full((1, 1, 1, 9), value, np.float32), k, 5, alpha, 0.75)[0, 0, 0, 4])


def changed_channels(channels: int) -> int:
    """By windows that reach from one of two towers into the other."""
    maps = np.random.default_rng(0).normal(size=(1, 1, 1, channels)).astype(np.float32)
    across = ops.local_response_norm(maps, 2.0, 5, 1e-2, 0.75)
    within = [ops.local_response_norm(half, 2.0, 5, 1e-2, 0.75) for half in np.split(maps, 2, axis=-1)]
    return int((np.abs(across - np.concatenate(within, axis=-1)) > 1e-6).sum())


def order() -> list[str]:
    maps = facts.activations.shapes(config("paper").model)[1]
    pooled, whole = (2 * int(np.prod(maps[f"conv1_{kind}"])) for kind in ("output", "response"))
    return [f"{pooled:,} numbers in layer 1 in place of {whole:,}"]


def groups() -> list[str]:
    one, two = (facts.total(facts.layers(config("paper", towers=towers))) for towers in (1, 2))
    return [
        f"{one.parameters:,} parameters in place of {two.parameters:,}",
        f"{one.multiply_adds:,} multiply-adds in place of {two.multiply_adds:,}",
    ]


CHECKS = {
    "input": inputs,
    "k": lambda: [f"{normalized(1e-3, 2, 1e-4) / normalized(1e-3, 1, 1e-4):.3f} times"],
    "alpha": lambda: ["{:.1f} and {:.1f}".format(*(normalized(100, 2, alpha) for alpha in (1e-4, 1e-4 / 5)))],
    "towers": lambda: [f"{changed_channels(96)} of the 96", f"{changed_channels(256)} of the 256"],
    "order": order,
    "groups": groups,
}


@pytest.mark.parametrize("name", CHECKS)
def test_a_difference_has_the_numbers_of_its_row(name):
    for text in CHECKS[name]():
        assert text in ROWS[name]


@pytest.mark.long
@pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"needs images of ImageNet in {SAMPLES}")
def test_the_start_has_the_numbers_of_its_row():
    images = facts.read(SAMPLES, 256)
    printed = re.findall(r"`([\w:=.]+)`(?: \([^)]*\))? ([\d.]+\d)", ROWS["start"])
    assert {name for name, _ in printed} == {*CONFIGS, "variants:bias=0.1", "variants:bias=0"}
    for name, number in printed:
        variation = signals.at_start(config(name), images, None)[-1].variation
        assert variation == pytest.approx(float(number), rel=0.03), name
