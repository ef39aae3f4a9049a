"""`paper.facts` against the paper's numbers, its authors' logs, and calculations by hand."""

import numpy as np
import pytest

from alexnet_jax.__main__ import main
from alexnet_jax.configs import paper
from alexnet_jax.errors import UserError
from alexnet_jax.paper import facts, signals
from alexnet_jax.run import config_files
from tests.ilsvrc import SAMPLES

# Parameters, neurons, multiply-adds, training FLOP, and bytes sent between the towers, forward.
PAPER = {
    "conv1": (34_944, 290_400, 105_415_200, 421_660_800, 0),
    "conv2": (307_456, 186_624, 223_948_800, 1_343_692_800, 0),
    "conv3": (885_120, 64_896, 149_520_384, 897_122_304, 173_056),
    "conv4": (663_936, 64_896, 112_140_288, 672_841_728, 0),
    "conv5": (442_624, 43_264, 74_760_192, 448_561_152, 0),
    "fc6": (37_752_832, 4096, 37_748_736, 226_492_416, 36_864),
    "fc7": (16_781_312, 4096, 16_777_216, 100_663_296, 16_384),
    "fc8": (4_097_000, 1000, 4_096_000, 24_576_000, 16_384),
}
TOTAL = (60_965_224, 659_272, 724_406_816, 4_135_610_496, 242_688)


def parsed(name: str, **changes):
    return config_files.parse(config_files.load(name, changes))


def total(layers, key: str) -> int:
    return sum(getattr(layer, key) for layer in layers)


@pytest.mark.parametrize("name", ["paper", "code2012"])
def test_every_layer_of_the_paper(name):
    layers = facts.layers(parsed(name))
    assert {layer.name: tuple(layer[1:]) for layer in layers} == PAPER
    assert tuple(sum(column) for column in zip(*(layer[1:] for layer in layers), strict=True)) == TOTAL
    assert facts.total(layers) == ("all", *TOTAL)


def test_what_follows_from_the_costs():
    layers = facts.layers(parsed("paper"))
    named = {layer.name: layer for layer in layers}
    convs = [layer for layer in layers if layer.name.startswith("conv")]
    multiply_adds, parameters = total(layers, "multiply_adds"), total(layers, "parameters")
    assert f"{total(convs, 'multiply_adds') / multiply_adds:.1%}" == "91.9%"
    assert f"{total(convs, 'parameters') / parameters:.1%}" == "3.8%"
    training = total(layers, "training_flop")
    assert f"{2 * multiply_adds / 1e9:.3f} {(training - 2 * multiply_adds) / 1e9:.3f}" == "1.449 2.687"
    assert f"{90 * 1_281_167 * training:.2e} {90 * 1.2e6 * training:.2e}" == "4.77e+17 4.47e+17"
    # fc8 and the softmax were on the first GPU.
    head, halves = named["fc8"].parameters, (parameters - named["fc8"].parameters) // 2
    assert (halves + head, halves) == (32_531_112, 28_434_112)
    assert f"{4 * parameters / 1e6:.1f} {3 * 4 * parameters / 1e6:.1f}" == "243.9 731.6"  # MB; momentum, gradients
    # Figure 2's caption has 55*48*96 for 55*55*96; the rest is right.
    neurons = {layer.name: layer.neurons for layer in layers}
    assert neurons | {"conv1": 55 * 48 * 96} == facts.PAPER_NEURONS and neurons["conv1"] == 55 * 55 * 96
    assert sum(facts.PAPER_NEURONS.values()) == 622_312
    # 1: each conv layer has "no more than 1 % of the model's parameters"; two have more.
    shares = {
        layer.name: f"{layer.parameters / parameters:.2%}" for layer in convs if layer.parameters > parameters / 100
    }
    assert shares == {"conv3": "1.45%", "conv4": "1.09%"}


def test_bytes_between_the_towers():
    config = parsed("paper")
    both_ways = {layer.name: 2 * layer.link_bytes for layer in facts.layers(config)}
    expected = {"conv3": 346_112, "fc6": 73_728, "fc7": 32_768, "fc8": 32_768}
    assert both_ways == dict.fromkeys(PAPER, 0) | expected
    assert facts.link_bytes(config) == 485_376 and 128 * facts.link_bytes(config) == 62_128_128
    assert facts.link_bytes(config, head_split=False) == 468_992
    assert [128 * expected[name] for name in ("conv3", "fc6", "fc7")] == [44_302_336, 9_437_184, 4_194_304]
    assert round(100 * expected["conv3"] / 468_992) == 74
    assert round(TOTAL[3] / 468_992, -2) == 8800  # training FLOP for each byte sent
    half = parsed("paper", **{"train.compute_dtype": "bfloat16"})
    assert 2 * facts.link_bytes(half) == facts.link_bytes(config)
    assert facts.link_bytes(parsed("variants:one_gpu")) == 0
    assert [layer.name for layer in facts.layers(parsed("variants:no_links")) if layer.link_bytes] == ["fc8"]


def test_views_and_steps():
    for name in ("paper", "code2012"):
        config = parsed(name)
        assert facts.crops(config) == 33 * 33 * 2 == 2178  # the paper counts 32 * 32 * 2
        (steps,) = (here for quantity, here, _ in facts.statements(config) if quantity.startswith("steps an epoch"))
        assert steps == "10,010"
    assert facts.crops(parsed("paper", **{"augment.flip": False})) == 1089


def test_other_networks():
    one_gpu, six_conv, one_weird_trick = (
        facts.layers(parsed(f"variants:{name}")) for name in ("one_gpu", "six_conv", "one_weird_trick")
    )
    assert (total(one_gpu, "parameters"), total(one_gpu, "multiply_adds")) == (59_798_312, 391_514_384)
    assert total(six_conv, "parameters") == 61_555_304
    (conv6,) = (layer for layer in six_conv if layer.name == "conv6")
    assert (conv6.neurons, conv6.link_bytes) == (6 * 6 * 256, 36_864)
    assert total(one_weird_trick, "parameters") == 61_100_840
    one_tower = facts.layers(parsed("paper", **{"model.towers": 1}))
    assert total(one_tower, "multiply_adds") == 1_135_256_096  # the same widths, no groups


def test_locally_connected_layers_share_nothing():
    (conv3,) = (layer for layer in facts.layers(parsed("cifar_four_layer")) if layer.name == "conv3")
    assert conv3.multiply_adds == 6 * 6 * (3 * 3 * 64) * 32
    assert conv3.parameters == conv3.multiply_adds + 6 * 6 * 32
    assert conv3.neurons == 6 * 6 * 32


def command(*arguments: str, code: int = 0) -> None:
    with pytest.raises(SystemExit) as done:
        main(["facts", *arguments])
    assert done.value.code == code


@pytest.mark.parametrize("name", ["configs/paper.py", "variants:without=conv4"])
def test_the_command(name, capsys):
    command("--config", name)
    printed = capsys.readouterr().out
    assert ("\nconv4 " in printed) == (name == "configs/paper.py")
    if name == "configs/paper.py":
        totals = ("60,965,224", "659,272", "724,406,816", "4,135,610,496", "485,376", "2,178", "10,010", "622,312")
        assert all(number in printed for number in totals)
        assert "conv3, 1.45%" in printed and "2048 = 32 x 32 x 2" in printed
        conv3 = next(line for line in printed.splitlines() if line.startswith("conv3"))
        assert conv3.split() == [
            "conv3",
            "885,120",
            "1.45%",
            "64,896",
            "64,896",
            "149,520,384",
            "897,122,304",
            "173,056",
        ]


def test_a_layer_that_the_paper_lacks_has_a_dash(capsys):
    command("--config", "variants:six_conv")
    (conv6,) = (line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("conv6"))
    assert conv6[3:5] == ["9,216", "-"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "configs/none.py"], "there is no config file configs/none.py"),
        (["--images", "empty"], "empty has no images to compare"),
    ],
)
def test_missing_files(arguments, message, tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    monkeypatch.chdir(tmp_path)
    command(*arguments, code=2)
    assert message in capsys.readouterr().err


def test_an_image_that_cannot_be_read(image_folder):
    folder = image_folder({"cat": 2})
    (folder / "cat" / "000.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"000\.jpg: .*image.*; remove it from the folder"):
        facts.read(folder, 32)


def test_the_signal_grows_with_the_deviation_of_fc8(tiny):
    """Logits without biases are linear in the weights of fc8."""
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype="uint8")
    narrow = signals.at_start(config_files.parse(tiny), images, None)[-1]
    tiny.model.fc8.init_std *= 3
    wide = signals.at_start(config_files.parse(tiny), images, None)[-1]
    assert (wide.variation, wide.response) == pytest.approx((3 * narrow.variation, 3 * narrow.response), rel=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(
    not SAMPLES.is_dir(), reason=f"needs images of ImageNet in {SAMPLES}, or in the folder IMAGENET_SAMPLES"
)
def test_the_signal_fades_with_the_papers_deviations():
    """Initially, images differ 15 times less in the logits than with the authors' 0.03 in conv3, conv4 and conv5."""
    images = facts.read(SAMPLES, 256)
    assert 12 <= len(images) <= facts.MAX_IMAGES
    weak, strong = (signals.at_start(parsed(name), images, None)[-1] for name in ("paper", "code2012"))
    assert 0.0028 < weak.variation < 0.0042 and 0.040 < strong.variation < 0.065
    assert 12 < strong.variation / weak.variation < 18
    assert 0.007 < weak.share < 0.012 and 0.09 < strong.share < 0.15
    values = paper.get_config()
    for name in ("conv3", "conv4", "conv5"):
        values.model[name].init_std = 0.03
    mixed = signals.at_start(config_files.parse(values), images, None)[-1]
    assert mixed.variation == pytest.approx(strong.variation, rel=0.2)
