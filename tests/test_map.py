"""The map of when training starts, and the signals of a network at its start."""

import json
import os
import sys
from signal import SIGINT

import numpy as np
import pytest

from alexnet_jax import compiling, errors, steps
from alexnet_jax.__main__ import main
from alexnet_jax.errors import UserError
from alexnet_jax.paper import signals
from alexnet_jax.paper.studies import map as start_map
from alexnet_jax.paper.studies import map_cells, map_runs
from alexnet_jax.paper.studies.arms import Setting
from alexnet_jax.paper.studies.map_cells import Cell
from alexnet_jax.run import config_files, log_lines
from tests import runs
from tests.conftest import ROOT

PAPER = Cell("0.01", 1.0, "on", 0.01, 1)


def test_the_grid_begins_with_the_papers_values():
    grid = map_cells.grid(seeds=3, classes=10)
    assert len(set(grid)) == len(grid) == 3 * 3 * 3 * 3 * 2 * 3
    assert grid[0] == (PAPER, 0)
    assert {seed for _, seed in grid[: 3 * 3 * 3 * 3 * 2]} == {0}  # no tile of the figure stays empty for long
    assert {cell.finer for cell, _ in map_cells.grid(seeds=3, classes=1000)} == {1}  # ImageNet's classes are enough


def test_the_small_network_has_the_signals_and_rates_of_the_full_one():
    """By hand: fc7 has 4096 inputs at full size and 128 in small, so 32 times as many."""
    small = config_files.parse(config_files.load("scales:small_start"))
    full = map_cells.full_config(Cell("0.03 in conv3-5", 0.1, "alpha/n", 0.003, 100), 10)
    config = map_cells.shrunk(full, small)
    layers = config.model.layers()
    assert layers["fc7"].init_std == pytest.approx(0.01 * 32**0.5)
    assert layers["conv3"].init_std == pytest.approx(0.03 * (3 * 3 * 256 / (3 * 3 * 24)) ** 0.5)
    assert config.optim.layers["fc7"].lr_multipliers == ((0, 32**map_cells.SPEED, 1.0),)
    assert config.optim.layers["fc7"].weight_decay == pytest.approx(0.0005 / 32**map_cells.SPEED)
    assert [layers[name].init_bias for name in ("conv1", "conv2", "fc7")] == [0, 0.1, 0.1]
    assert config.model.lrn.alpha == pytest.approx(2e-5) and config.model.num_classes == 1000
    assert config.optim.learning_rate == 0.003
    he = map_cells.shrunk(map_cells.full_config(PAPER._replace(deviation="He", lrn="off"), 10), small)
    assert (
        he.model.layers()["fc6"].init_std == "he"
        and he.model.conv1.init_std != "he"
        and he.model.conv1.then == ("activation", "pool")
    )


def test_the_full_network_keeps_its_own_start():
    same = config_files.parse(config_files.load("scales:full_start"))
    full = map_cells.full_config(PAPER._replace(bias=0.1), 1000)
    config = map_cells.shrunk(full, same)
    assert config.model == full.model
    assert all(rule.lr_multipliers == ((0, 1.0, 1.0),) for rule in config.optim.layers.values())


def test_classes_are_divided_by_brightness():
    task = map_runs.open_task("", "smoke")
    labels = map_runs.finer_labels(task, 4)
    np.testing.assert_array_equal(labels // 4, task.labels)
    brightness = task.pixels.mean(axis=(1, 2, 3))
    for digit in range(10):
        of_digit = task.labels == digit
        part, grey = labels[of_digit] % 4, brightness[of_digit]
        assert sorted(part) == sorted(np.arange(len(part)) * 4 // len(part))
        assert all(grey[part == i].max() <= grey[part == i + 1].min() for i in range(3) if i + 1 in part and i in part)


CONFIG = """\
from tests.tiny import tiny_config

def get_config(starved=""):
    values = tiny_config()
    values.model.conv2 = values.model.conv3 = values.model.conv4 = None
    values.train.batch_size = values.augment.shared_by = 16  # images of a crop: no divisor of the images there are
    if starved:
        values.model.conv5.update(init_std=1e-6, init_bias=1.0)
    return values
"""


@pytest.mark.slow
def test_a_layer_that_answers_all_images_alike_is_named(tmp_path, image_folder, capsys):
    """A network of few layers, and the same with a conv5 of small weights and biases of 1."""
    (tmp_path / "few.py").write_text(CONFIG)
    sound, starved = (config_files.parse(config_files.load(f"{tmp_path / 'few.py'}{end}")) for end in ("", ":starved"))
    pixels, labels, source = signals.images(sound, None)
    before, after = ({s.layer: s for s in signals.at_start(config, pixels, labels)} for config in (sound, starved))
    assert source == "digits" and list(before) == ["conv1", "conv5", "fc6", "fc7", "fc8"]
    weights = np.asarray(steps.random_state(sound, 0).params["fc7"]["kernel"])
    assert before["fc7"].kernel == pytest.approx(float(np.sqrt((weights**2).mean())))
    assert before["fc7"].units == 32 and 0.1 < before["fc7"].share < 1
    assert after["conv1"][:6] == before["conv1"][:6]
    assert after["conv5"].response == pytest.approx(1.0, rel=0.01)
    assert after["fc7"].share < 0.01 and after["conv1"].gradient < before["conv1"].gradient / 100
    remark = "of the output of fc7 depends on the image"
    assert remark not in "\n".join(signals.remarks(sound, list(before.values())))
    with pytest.raises(SystemExit, match="0"):
        main(["facts", "--config", f"{tmp_path / 'few.py'}:starved", "--start"])
    printed = capsys.readouterr().out
    assert remark in printed and f"{after['fc7'].share:.2g}" in printed
    pixels, labels, _ = signals.images(sound, image_folder({"cat": 3, "dog": 2}))
    assert pixels.shape == (5, 32, 32, 3) and labels.tolist() == [0, 2, 4, 6, 8]


def test_the_start_of_batch_normalization_is_not_measured():
    config = config_files.parse(config_files.load("variants:batch_norm"))
    with pytest.raises(UserError, match=r"the start of conv1, .*, fc7 cannot be measured: batch normalization"):
        signals.at_start(config, *signals.images(config, None)[:2])


def test_the_part_of_a_signal_that_weights_hand_on():
    parts = {
        name: log_lines.handed_on(config_files.parse(config_files.load(name)).model) for name in ("paper", "code2012")
    }
    assert parts["paper"]["conv2"] == pytest.approx(0.01 * (5 * 5 * 48 / 2) ** 0.5)
    assert np.prod(list(parts["paper"].values())) == pytest.approx(0.0023, rel=0.1)
    assert np.prod(list(parts["code2012"].values())) == pytest.approx(27 * np.prod(list(parts["paper"].values())))
    he = log_lines.handed_on(config_files.parse(config_files.load("variants:he")).model)
    assert list(he.values()) == pytest.approx([1.0] * 6)


def test_the_table_counts_what_started():
    def result(seed, outcome, step):
        return {**PAPER._asdict(), "seed": seed, "outcome": outcome, "step": step}

    several = [result(seed, "started", step) for seed, step in enumerate((100, 200, 400))]
    (row,) = start_map.aggregate([*several, result(3, "diverged", 7)])
    assert (row["started"], row["runs"], row["diverged"], row["steps"]) == (3, 4, 1, 200)
    low, high = row["steps_interval"]
    assert low < 100 and high > 400 and low * high == pytest.approx(200**2, rel=0.05)
    (never,) = start_map.aggregate([result(0, "stuck", 400)])
    assert never["steps"] is None and never["share_interval"][0] == 0


def test_a_predictor_is_judged_on_cells_that_its_bounds_were_not_fitted_to():
    """What starts between two learning rates is predicted by the rate, and not by noise."""
    rates = np.geomspace(1e-4, 1, 40)
    cells = [{**PAPER._asdict(), "rate": r, "runs": 3, "started": 3 * (0.001 < r < 0.1)} for r in rates]
    known: dict[start_map.Start, list] = {(PAPER.deviation, PAPER.bias, PAPER.lrn): []}
    row = start_map.judge("rate", lambda signal, rate, finer: rate, cells, known)
    assert 0.001 < row["lowest"] < 0.0015 and 0.07 < row["highest"] < 0.1 and row["accuracy"] >= 0.95
    assert row["always"] == pytest.approx(0.5, abs=0.1)
    noise = dict(zip(rates, np.random.default_rng(0).random(40), strict=True))
    assert start_map.judge("noise", lambda signal, rate, finer: noise[rate], cells, known)["accuracy"] < 0.65
    # Bounds fitted to all of these are right for three: around one that starts. Without it, none would be found.
    alternating = [cell | {"started": 3 * (number % 2)} for number, cell in enumerate(cells[:4])]
    assert start_map.judge("rate", lambda signal, rate, finer: rate, alternating, known)["accuracy"] < 0.75


def signal(layer, gradient, share=0.5):
    return signals.Signal(layer, 10, 1.0, share, 0.0, 1.0, gradient)


def test_the_slowest_layer_is_what_predicts():
    network = [signal("conv1", 0.3), signal("fc7", 0.1), signal("fc8", 2.0)]
    assert start_map.PREDICTORS["rate x smallest gradient/kernel"](network, 0.01, 1) == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("conv1", "fc7", "share", "message"),
    [
        (0.05, 1.0, 0.5, None),
        (0.05, 100.0, 0.5, "the first step changes the weights of fc7 by 1 of their size, so training may overshoot"),
        (0.5, 1.0, 0.5, "the first step changes the weights of conv1, the slowest layer, by 0.005 of their size, so"),
        (0.05, 1e-5, 0.5, "a step changes the weights of fc7 by only 1e-07 of their size"),
        (0.05, 1.0, 0.001, "only 0.1% of the output of fc7 depends on the image"),
    ],
)
def test_remarks_on_a_start(conv1, fc7, share, message):
    network = [signal("conv1", conv1), signal("fc7", fc7, share), signal("fc8", 1.0)]
    lines = signals.remarks(config_files.parse(config_files.load("paper")), network)
    assert [line[: len(message or "")] for line in lines] == ([message] if message else [])


def test_the_map_counts_the_cells_that_are_warned_of():
    """A cell starts if most of its runs do. With a rate of 0.03, the slowest layer is too fast."""
    known = {(PAPER.deviation, PAPER.bias, PAPER.lrn): [signal("conv1", 0.05), signal("fc7", 0.05), signal("fc8", 1.0)]}
    outcomes = ((0.01, 2), (0.01, 1), (0.003, 3), (0.03, 0), (0.03, 2))
    cells = [{**PAPER._asdict(), "rate": rate, "runs": 3, "started": started} for rate, started in outcomes]
    counts = start_map._warned(cells, known, 10)
    assert counts == {"warned": 2, "of these start": 1, "not warned": 3, "of those start": 2}


def test_remarks_take_each_layers_own_rate():
    """In the config cifar10, conv1 learns at a thousandth of the others' rate; a frozen layer is not too slow."""
    network = [signal("conv1", 60.0), signal("fc7", 0.05), signal("fc8", 1.0)]
    values = config_files.load("cifar10")
    assert signals.remarks(config_files.parse(values), network) == []
    assert "weights of conv1 by 0.6" in signals.remarks(config_files.parse(config_files.load("paper")), network)[0]
    network[0] = signal("conv1", 0.001)
    assert "weights of conv1 by only 1e-08" in signals.remarks(config_files.parse(values), network)[0]
    values.optim.layers.conv1.lr_multipliers = ((0, 0.0, 0.0),)
    assert signals.remarks(config_files.parse(values), network) == []
    assert signals.remarks(config_files.parse(values), network[:1] * 2)[0].startswith("every layer is frozen: give an")


def test_the_page_shows_the_published_map():
    published = ROOT / "alexnet_jax/paper/results/map-cifar10"
    assert (ROOT / "docs/map.svg").read_text() == (published / "map.svg").read_text()
    found = [json.loads(line) for line in (published / map_runs.RUNS).read_text().splitlines()][1:]
    cells = json.loads((published / "map.json").read_text())["cells"]
    assert sorted(start_map.aggregate(found), key=str) == sorted(cells, key=str)  # runs are recorded as they end


def test_the_page_counts_as_the_published_map_does():
    """The numbers that the page gives in words, which are sums over cells."""
    published = json.loads((ROOT / "alexnet_jax/paper/results/map-cifar10/map.json").read_text())
    cells, warned = published["cells"], published["warned"]

    def runs_of(**values):
        some = [cell for cell in cells if all(cell[key] == value for key, value in values.items())]
        return [sum(cell[key] for cell in some) for key in ("started", "runs", "diverged")]

    page = " ".join((ROOT / "docs/stuck.md").read_text().split())
    assert {cell["runs"] for cell in cells} == {3} and f"Each of the {len(cells)} cells was run three times" in page
    for finer, classes in ((1, "10"), (100, "1,000")):
        started, count, _ = runs_of(finer=finer)
        assert f"with {classes}, {started} of {count}" in page
    assert runs_of(bias=1.0, finer=100, deviation="0.01")[0] == 0
    started, count, _ = runs_of(bias=1.0, finer=100, deviation="0.03 in conv3-5")
    assert started == 1 and f"one run of {count}" in page
    assert "{} runs of {} started within 1,000 steps".format(*runs_of(deviation="He", finer=100)) in page
    started, count, diverged = runs_of(deviation="He", lrn="off")
    assert started == 0 and diverged > count / 2
    total, start, others, start_too = (sum(row[key] for row in warned) for key in list(warned[0])[1:])
    assert f"warns of {total} of the {len(cells)} cells, of which {start} start in most runs" in page
    assert f"of the other {others}, {start_too} do" in page


def test_signals_are_those_for_no_more_classes_than_the_cells_have(tmp_path, monkeypatch):
    counts: list[int] = []

    def at_start(config, pixels, labels):
        counts.append(config.model.num_classes)
        return []

    monkeypatch.setattr(signals, "at_start", at_start)
    cells = [cell._asdict() for cell, _ in map_cells.grid(1, classes=1000)[:1]]
    start_map._signals(map_runs.open_task("", "smoke"), cells, tmp_path, shrinks=False)
    assert counts == [10]


@pytest.mark.slow
def test_the_map_at_smoke_scale(tmp_path, capsys, monkeypatch):
    """Two cells are trained, each in a process, and not again; runs on other data are not taken for this one's."""
    asked: list[bool] = []
    monkeypatch.setattr(compiling, "quickly", lambda: asked.append(True))  # it would go on for the tests after this one
    command = ["reproduce", "map", "--scale", "smoke", "--jobs=2", "--output", str(tmp_path)]
    home = tmp_path / "smoke-digits/map"
    outputs = []
    for _ in range(2):
        with pytest.raises(SystemExit, match="0"):
            main(command)
        outputs.append(capsys.readouterr().out)
    assert asked == [True] * 2
    assert "2 of 2: deviations 0.01" in outputs[0] and "0 of 2" in outputs[0]
    assert outputs[1] == outputs[0][-len(outputs[1]) :] and "\nScale smoke, 1 seeds: `" in outputs[1]
    assert all((home / f"map.{ending}").stat().st_size > 500 for ending in ("md", "json", "svg"))
    lines = [json.loads(line) for line in (home / map_runs.RUNS).read_text().splitlines()]
    assert [line["outcome"] for line in lines[1:]] == ["stuck"] * 2 and len(lines[1]["losses"]) == 2
    assert "2 runs of up to 4 steps" in outputs[1] and f"JAX {lines[1]['environment']['jax']}, alexnet" in outputs[1]
    lines[0]["data"] = "other"
    (home / map_runs.RUNS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(SystemExit, match="2"):
        main(command)
    assert "other data or of another config; give another --output" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.slow
def test_ctrl_c_ends_the_map_with_its_runs_finished(tmp_path):
    command = [sys.executable, "-m", "alexnet_jax", "reproduce", "map", "--scale=smoke", f"--output={tmp_path}"]
    process = runs.start_as_group(command)
    runs.until(process, "1 of 2")
    os.killpg(process.pid, SIGINT)
    assert "finished runs are kept in" in runs.end(process, code=errors.EXIT_INTERRUPTED)
    _, *lines = (tmp_path / "smoke-digits/map" / map_runs.RUNS).read_text().splitlines()
    assert [json.loads(line)["outcome"] for line in lines] == ["stuck"] * len(lines) and lines


def test_a_process_that_ends_too_early_is_an_error(tmp_path, capfd):
    task, elsewhere = map_runs.open_task("", "smoke"), Setting("smoke", str(tmp_path / "nowhere"), tmp_path, 1, ())
    with pytest.raises(UserError, match="a process that trained a cell has ended; see above, and repeat"):
        map_runs.carry_out(task, elsewhere, map_cells.grid(1, 10)[:1], tmp_path / "map", 1, 1.0)
    assert "nowhere" in capfd.readouterr().err
