"""The report: its numbers, every kind of network, and the page in a browser."""

import contextlib
import dataclasses
import io
import re
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from PIL import Image

from alexnet_jax import optim, sharding, steps
from alexnet_jax.data.datasets import open_dataset
from alexnet_jax.data.records import Images, Subset
from alexnet_jax.errors import DataError, UserError
from alexnet_jax.inference import activations, feature_store, patches
from alexnet_jax.inference.network import Network, open_workdir
from alexnet_jax.paper import colours, figures, page, report
from alexnet_jax.paper.report import Splits
from alexnet_jax.run import checkpoint, config_files, pictures, workdir
from tests.conftest import made_up_statistics, random_batch
from tests.test_commands import run
from tests.test_loader import read
from tests.tiny import tiny_config

pytestmark = pytest.mark.slow

CONFIG = """
from tests.tiny import tiny_config

def get_config():
    config = tiny_config()
    config.train.update(batch_size=32, max_steps=20, log_every_steps=5, eval_batch_size=120)
    return config
"""


def a_run(directory: Path, values) -> Path:
    """A workdir with an untrained network for images of noise, and without a log."""
    values.data.update(source="synthetic", directory="", size=32, eval_split="val")
    config = config_files.parse(values)
    dataset = open_dataset("synthetic", "", 32, config.model.num_classes)
    with workdir.lock(directory):
        workdir.prepare(directory, config, dataset)
    state = steps.init_state(config, sharding.make_mesh(1, 0, config.model.towers))
    with checkpoint.open_directory(directory / workdir.CHECKPOINTS, keep=1) as checkpoints:
        position = checkpoint.Position(0, optim.Validation(), 0)
        checkpoint.save(checkpoints, 7, state, position, {})
    return directory


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A short run on digits with two towers, evaluated, and with a report."""
    home = tmp_path_factory.mktemp("report")
    (home / "config.py").write_text(CONFIG)
    run("alexnet_jax.main", f"--config={home / 'config.py'}", f"--workdir={home / 'digits & <b>'}")
    run("alexnet_jax", "evaluate", "--workdir", home / "digits & <b>")
    assert "wrote" in run("alexnet_jax", "report", "--workdir", home / "digits & <b>")
    return home / "digits & <b>"


@pytest.fixture(scope="module")
def network(trained) -> Network:
    return open_workdir(trained)


@pytest.fixture(scope="module")
def splits(network) -> Splits:
    return report.open_splits(network, None)


def test_the_page_has_all_sections(trained):
    html = (trained / "report.html").read_text()
    sections = re.findall(r'<section id="([\w-]+)">', html)
    assert sections == [
        "results", "learning", "figure1", "figure2", "figure3", "figure4-left", "figure4-right", "units", "tables",
        "trust", "config",
    ]  # fmt: skip
    assert html.count("<img ") == 3 + 2 + 2 + 2 * 2  # plots, kernels and units of two towers each
    assert "Left out" not in html and "<b>" not in html and "digits &amp; &lt;b&gt;" in html
    assert "is not on ImageNet" in html and "have no colour" in html and "360" in html and "not been checked" in html


def test_hidden_features_are_the_input_of_the_last_layer(network, splits):
    """fc8 turns them into the network's probabilities, and both layouts give the same."""
    pixels, _ = read(splits.evaluation, np.arange(100, 110))
    spec, features = network.config.model, []
    for towers_on_devices in (1, 2):
        mesh = sharding.make_mesh(1, towers_on_devices, 2)
        step = activations.make_features_step(network.config, mesh, ("fc7",))
        features.append(np.asarray(step(*placed(network, mesh, pixels))))
    np.testing.assert_allclose(features[0], features[1], atol=1e-5)
    np.testing.assert_allclose(features[0], network.ask(network.features_step(None), pixels), atol=1e-5)
    head = jax.tree.map(np.asarray, network.params["fc8"])
    keep = 1 - spec.dropout_rate
    logits = np.concatenate([features[0] * keep @ head["kernel"][t] + head["bias"][t] for t in range(2)], axis=1)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = np.exp(network.ask(network.log_predict(1), pixels))
    np.testing.assert_allclose(powers / powers.sum(axis=1, keepdims=True), expected, atol=1e-5)


def placed(network: Network, mesh, pixels: np.ndarray):
    """The arguments of a step, on the devices of `mesh`."""
    return (
        sharding.put(jax.tree.map(np.asarray, network.params), mesh, sharding.TOWERS),
        sharding.put(pixels, mesh, sharding.EXAMPLES),
        sharding.put(network.statistics, mesh, sharding.REPLICATED),
    )


def test_nearest_images_are_the_nearest(network, splits):
    step, index = network.features_step(None), np.arange(0, 300, 2)
    _, queries = report.compute(network, step, splits.evaluation, np.array([3, 200]))
    readable, features = report.compute(network, step, splits.train, index)
    assert features.shape == (150, network.config.model.fc7.features) and (readable == index).all()
    for query, rows in zip(queries.astype(np.float64), feature_store.nearest(queries, [features], 6)[0], strict=True):
        distances = [sum((float(a) - b) ** 2 for a, b in zip(row, query, strict=True)) for row in features]
        assert sorted(distances)[:6] == pytest.approx([distances[row] for row in rows])
    # An image is nearest to itself, whatever batch it was in.
    assert (feature_store.nearest(features[[5, 90]], [features], 1)[0][:, 0] == [5, 90]).all()


class Damaged(NamedTuple):
    """A split whose images divisible by `divisor` cannot be read."""

    split: Images
    divisor: int

    @property
    def labels(self) -> np.ndarray:
        return self.split.labels

    @property
    def size(self) -> int:
        return self.split.size

    def read(self, index: np.ndarray, out: np.ndarray) -> dict[int, str]:
        self.split.read(index, out)
        return {row: "damaged" for row, i in enumerate(index) if i % self.divisor == 0}

    def name(self, i: int) -> str:
        return f"image {i}"


def test_unreadable_images_are_left_out(network, splits, capsys):
    index = np.arange(40, 60)
    readable, _ = report.compute(network, network.features_step(None), Damaged(splits.train, 3), index)
    assert readable.tolist() == [i for i in index.tolist() if i % 3]
    assert "image 42" in capsys.readouterr().out
    with pytest.raises(DataError, match="none of the images can be read"):
        report.compute(network, network.features_step(None), Damaged(splits.train, 1), index)


def test_units_show_their_highest_responses(network, splits):
    index = np.arange(0, 360, 3)
    pixels, _ = read(splits.evaluation, index)
    step = activations.make_step(network.config, network.mesh, "response", ("conv3",))
    responses = np.asarray(step(*placed(network, network.mesh, pixels))["conv3"])  # [120, tower, H, W, 8]
    strongest = patches.strongest(network, ("conv3",), Subset(splits.evaluation, index), 6)["conv3"]
    assert strongest.image.shape == (6, 2, 8)
    for tower in range(2):
        for unit in range(8):
            highest = responses[:, tower, :, :, unit].max(axis=(1, 2))
            rows = strongest.image[:, tower, unit]
            assert len(set(rows)) == 6
            np.testing.assert_allclose(highest[rows], np.sort(highest)[::-1][:6], rtol=1e-5)
            np.testing.assert_allclose(strongest.response[:, tower, unit], highest[rows], rtol=1e-5)
            places = np.divmod(strongest.position[:, tower, unit], responses.shape[3])
            for i, row, column in zip(rows, *places, strict=True):
                assert responses[i, tower, row, column, unit] == pytest.approx(highest[i], rel=1e-5)


def test_chroma_shares():
    grey = np.random.default_rng(0).normal(size=(1, 5, 5, 1, 4)).repeat(3, axis=3)
    red = grey * np.array([1, 0, 0])[:, None]
    opponent = grey * np.array([1, -1, 0])[:, None]
    for kernel, share in ((grey, 0), (red, 2 / 3), (opponent, 1), (0 * grey, 0)):
        np.testing.assert_allclose(colours.chroma_share(kernel), np.full((1, 4), share), atol=1e-12)


def test_specialization_is_distinguished_from_chance():
    rng = np.random.default_rng(0)
    apart = np.stack([rng.uniform(0, 0.2, 48), rng.uniform(0.5, 0.7, 48)])
    specialized = colours.specialization(apart)
    assert specialized.difference == pytest.approx(apart[1].mean() - apart[0].mean())
    assert specialized.p == pytest.approx(1 / 1001) and specialized.chance < 0.1
    assert colours.specialization(apart) == specialized  # seeded
    assert colours.specialization(np.full((2, 48), 0.4)).p == 1
    mixed = colours.specialization(rng.uniform(size=(3, 48)))  # and of more than two towers
    assert 0 < mixed.chance < 0.2 and 0 < mixed.p <= 1
    alike = [colours.specialization(rng.uniform(size=(2, 48))).p for _ in range(20)]
    assert np.mean(alike) == pytest.approx(0.5, abs=0.25)


def test_unshared_kernels_of_the_middle_are_what_the_layer_computes_there():
    values = one_tower()
    values.model.conv1.shared = False
    config = config_files.parse(values)
    mesh = sharding.make_mesh(1, 1, 1)
    params = steps.init_state(config, mesh).params
    batch, statistics = random_batch(), made_up_statistics()
    response = activations.make_step(config, mesh, "response", ("conv1",))(params, batch.image, statistics)["conv1"]
    view = (batch.image - statistics.mean_image)[:, 2:30, 2:30]
    (kernel,) = pictures.at_one_place(np.asarray(params["conv1"]["kernel"]), 5)
    expected = np.einsum("bijc,ijcf->bf", view[:, 12:17, 12:17], kernel)  # place 14 of 28, padding 2
    np.testing.assert_allclose(response[:, 0, 14, 14], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "name",
    [
        "paper", "variants:no_links", "variants:six_conv", "variants:without=conv3", "variants:without=fc6",
        "tests/tiny.py", "variants:one_gpu", "cifar_four_layer",
    ],
)  # fmt: skip
def test_figure_2_crosses_where_the_config_does(name):
    values = tiny_config() if name == "tests/tiny.py" else config_files.load(name)
    spec = config_files.parse(values).model
    layers: list[tuple[str, Any]] = [*spec.convs(), *spec.hidden(), ("fc8", spec.fc8)]
    expected = [name for name, layer in layers if layer.exchange and spec.towers > 1]
    assert figures.links(spec) == [(name, i, 1 - i) for name in expected for i in range(2)]


def test_figure_2_has_the_papers_shapes():
    boxes = {box.layer: box.text for box in figures.boxes(config_files.parse(config_files.load("paper")).model)}
    assert boxes["conv1"] == "conv1: 48 of 11x11x3, /4\n55x55x48\nReLU, LRN, pool -> 27x27x48"
    assert boxes["conv3"] == "conv3: 192 of 3x3x256, /1\n13x13x192\nReLU"
    assert boxes["conv5"] == "conv5: 128 of 3x3x192, /1\n13x13x128\nReLU, pool -> 6x6x128"
    assert boxes["fc6"] == "fc6: 2048 of 9216\nReLU, dropout" and boxes["fc8"] == "fc8: 500 of 4096\nclasses"
    local = figures.boxes(config_files.parse(config_files.load("cifar_four_layer")).model)
    assert local[2].text.startswith("conv3: 32 of 3x3x64, /1, unshared\n6x6x32")


def test_figure_1_marks_the_first_line_at_the_target(trained):
    (reported,) = report.open_runs([trained])
    lines = [
        {"step": step, "phase": phase, "top1_error": error, "loss": 1.0, "epoch": step / 10}
        for step, phase, error in ((10, "train", 0.5), (15, "validation", 0.1), (20, "train", 0.25), (30, "train", 0.2))
    ]
    assert figures.crossing(lines) == 20
    assert figures.crossing(lines[:2]) is None
    for log, has_figure1, has_curves in (
        (lines, True, True), (lines[:1], True, True), (lines[1:2], False, True), ([], False, False)
    ):  # fmt: skip
        logged = [reported._replace(log=log)]
        for draw, has_lines in ((figures.figure1, has_figure1), (figures.learning, has_curves)):
            with contextlib.nullcontext() if has_lines else pytest.raises(UserError, match="logged yet"):
                drawn = draw(logged)["figure"].axes[0].lines
                assert drawn
                assert {line.get_linestyle() for line in drawn if "train" in str(line.get_label())} <= {"-"}


def test_tables_have_a_row_for_a_run_on_imagenet(trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "rsatoolbox", None)  # so that nothing else is computed for these runs
    (digits,) = report.open_runs([trained])
    assert digits.evaluation
    wordnet = dataclasses.replace(digits.network, classes=[f"n{i:08d}" for i in range(1000)])
    result = digits.evaluation | {"split": "val", "views": 10, "top1_error": 0.4071, "top5_error": 0.1824}
    ours = digits._replace(name="ours", network=wordnet, evaluation=result)
    first, second, notes = the_papers_tables(page.render([digits, ours], None))
    assert second[-1] == ["ours, 10 view(s)", "40.7 %", "18.2 %", "-"] and len(second) == 6
    assert len(first) == 3 and first[-1] == ["CNN", "37.5 %", "17.0 %"]
    assert "is not on ImageNet" in notes and "ours" not in notes
    test = ours._replace(evaluation=result | {"split": "test"})
    others = [ours._replace(name="new", evaluation=None), ours._replace(evaluation=result | {"split": "train"})]
    first, second, notes = the_papers_tables(page.render([digits, test, *others], None))
    assert first[-1] == ["ours, 10 view(s)", "40.7 %", "18.2 %"] and (len(first), len(second)) == (4, 5)
    assert "new is on ImageNet, but has not been evaluated yet" in notes and "ours was evaluated on train" in notes


def the_papers_tables(html: str) -> tuple[list[list[str]], list[list[str]], str]:
    """The rows of Tables 1 and 2, and what follows them."""
    section = html[html.index('<section id="tables">') : html.index('<section id="trust">')]
    first, second = (re.findall("<tr>(.*?)</tr>", table) for table in re.findall("(?s)<tbody>(.*?)</tbody>", section))
    rows, others = ([re.findall("<td>(.*?)</td>", row) for row in table] for table in (first, second))
    return rows, others, section.rpartition("</table>")[2]


def no_hidden_layers():
    values = tiny_config()
    values.model.fc6 = values.model.fc7 = values.model.conv3 = None
    values.model.conv5.shared = False
    return values


def one_tower():
    values = tiny_config()
    values.model.towers = 1
    values.model.num_classes = 3
    values.model.activation = "tanh"
    return values


@pytest.mark.parametrize("make", [no_hidden_layers, one_tower])
def test_any_network_has_a_page(make, tmp_path):
    html = page.render(report.open_runs([a_run(tmp_path / "run", make())]), None)
    assert "not evaluated yet" in html and "nothing has been logged yet" in html
    assert html.count("Left out") == 2  # the curves
    assert f"in {'conv5' if make is no_hidden_layers else 'fc7'} (32 numbers)" in html
    assert ("This network has no conv3" in html) == (make is no_hidden_layers)
    assert ("<td>one tower</td>" in html) == (make is not no_hidden_layers)


def test_several_runs_share_a_page(trained, tmp_path):
    shutil.copytree(trained, tmp_path / trained.name)
    directories, path = [trained, tmp_path / trained.name], tmp_path / "page.html"
    command = ["alexnet_jax", "report", "--images=20", "--output", path, f"--explorer={tmp_path / 'our explorer'}"]
    assert "is no explorer; make one by `alexnet export" in run(*command, "--workdir", *directories, code=2)
    explorer = tmp_path / "our explorer/index.html"
    explorer.parent.mkdir()
    explorer.touch()
    assert f"wrote {path}" in run(*command, "--workdir", *directories)
    html = path.read_text()
    assert '<a href="our%20explorer/index.html">' in html
    for directory in directories:  # both named after their whole path
        assert html.count(f"<td>{directory}</td>".replace("& <b>", "&amp; &lt;b&gt;")) == 2
    assert len(re.findall(r"<tr><td>\w+</td><td>1.00 / 1.00</td><td>-?[\d.]+ / [\d.]+</td><td>[\d.]+ /", html)) == 8


def test_the_report_says_that_its_data_is_missing(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    text = (tmp_path / "run" / "config.json").read_text()
    text = text.replace('"source": "digits"', '"source": "prepared"').replace('"directory": ""', '"directory": "gone"')
    (tmp_path / "run" / "config.json").write_text(text)
    html = page.render(report.open_runs([tmp_path / "run"]), None)
    assert len(re.findall(r"Left out: [^<]*\bgone\b[^<]*--data DIR", html)) == 3
    message = run("alexnet_jax", "report", "--workdir", tmp_path / "run", "--data=none", code=2)
    assert re.search(r"\bnone\b.*--data DIR", message)


@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_shows_the_page(browser, trained, width):
    messages: list[str] = []
    shown = browser.new_page(viewport={"width": width, "height": 844})
    shown.on("console", lambda message: messages.append(message.text))
    shown.on("pageerror", lambda error: messages.append(str(error)))
    requested: list[str] = []
    shown.on("request", lambda request: requested.append(request.url))
    shown.goto((trained / "report.html").as_uri())
    assert messages == []
    assert [url for url in requested if not url.startswith("data:")] == [(trained / "report.html").as_uri()]
    sizes = shown.eval_on_selector_all("img", "all => all.map(i => [i.complete, i.naturalWidth, i.alt.length])")
    assert len(sizes) == 11 and all(complete and wide > 0 and alt > 0 for complete, wide, alt in sizes)
    links = shown.eval_on_selector_all("a", "all => all.map(a => [a.getAttribute('href'), a.textContent])")
    assert len(links) == 11
    for href, text in links:
        assert shown.locator(f"section{href} h2").text_content() == text
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    for image in shown.locator("img").all():
        pixels = np.asarray(Image.open(io.BytesIO(image.screenshot())).convert("L"), float)
        assert pixels.std() > 5, image.get_attribute("alt")  # not blank
    shown.locator("summary").click()
    assert '"seed": 0' in shown.locator("details pre").inner_text()
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    shown.close()
