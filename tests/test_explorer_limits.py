"""The explorer's page where something is wrong, for everyone, in two languages, and with the network on a server."""

import dataclasses
import importlib.util
import shutil
import signal
from pathlib import Path

import pytest
from PIL import Image

from alexnet_jax.explorer import folder, stages
from alexnet_jax.interop import networks
from alexnet_jax.run import config_files
from tests.conftest import encoded
from tests.explored import Opened, check, photo, probabilities
from tests.networks import random_network
from tests.test_serve import started

pytestmark = pytest.mark.long

LARGE = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (20000).to_bytes(4, "big") + (5001).to_bytes(4, "big") + b"\x08\x02\0\0\0"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("text.png", b"not an image", "text.png is not an image"),
        ("empty.jpg", b"", "empty.jpg is not an image"),
        ("large.png", LARGE, "100 million pixels"),
        ("drawing.svg", b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>", "Save it as PNG"),
        ("photo.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "cannot read HEIC"),
        ("scan.tif", encoded(photo(), "TIFF"), "cannot read TIFF"),
        ("broken.jpg", encoded(photo(), "JPEG")[:200], "broken.jpg is damaged"),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value else "",
)
def test_what_is_no_image_is_said_and_the_answer_stays(opened, name, content, words):
    page = opened()
    page.answered()
    before = page.top()
    page.show(content, name)
    assert words in page.page.get_by_role("alert").inner_text()
    page.answered()
    assert page.top() == before
    page.show(encoded(photo(), "PNG"), "good.png")
    page.answered()
    assert page.page.get_by_role("alert").count() == 0 and page.top() != before


@pytest.mark.parametrize("how", ["drop", "paste"])
def test_what_is_no_image_does_not_stop_the_work_on_another(opened, explored, how):
    """While a link is being cut: then the answer comes, the page is no longer busy, and links are weighed."""
    page = opened()
    page.answered()
    page.page.get_by_role("switch", name="Towers linked in conv3").evaluate("(button) => button.click()")
    page.show(b"not an image", "text.png", how)
    assert "text.png is not an image" in page.page.get_by_role("alert").inner_text()
    page.page.wait_for_function("document.querySelector('.caption .note:not(:empty)')")
    page.answered()
    assert page.page.locator(".bars s").count() >= 5
    page.page.wait_for_function("document.querySelectorAll('.caption .note:not(:empty)').length == 6")


def test_of_an_animation_the_first_frame_is_seen(opened, explored):
    frames = [Image.fromarray(photo(seed)).quantize(32) for seed in (1, 2)]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    page = opened()
    page.answered()
    page.show(content, "moving.gif")
    check(page, probabilities(explored.net, encoded(frames[0].convert("RGB"), "PNG")))
    assert "first frame" in page.page.locator(".picture .note").inner_text()


@pytest.mark.parametrize(
    ("piece", "content", "words"),
    [
        ("programs/{step}.0", None, "The file programs/{step}.0.js did not come. Reload the page"),
        ("programs/{step}.0", "explorer('another', '')", "The file programs/{step}.0.js did not come"),
        ("programs/{step}.0", "explorer('programs/{step}.0', 'H4sI')", "damaged. Copy the whole folder again"),
        ("runtime/wasm", None, "The file runtime/wasm.js did not come"),
        ("network", None, "The file network.js did not come"),
        ("units/conv1", None, "The file units/conv1.js did not come"),
    ],
)
def test_a_piece_that_does_not_come_is_named(browser, explored, tmp_path, piece, content, words):
    copy = tmp_path / "explorer"
    shutil.copytree(explored.folder, copy)
    path = copy / f"{piece.format(step=explored.net.step)}.js"
    path.unlink()
    if content is not None:
        path.write_text(content.format(step=explored.net.step))
    page = Opened(browser, f"{copy.as_uri()}/index.html")
    if piece.startswith("units"):
        page.page.locator(".kernels .tiles button").first.click()
    assert words.format(step=explored.net.step) in page.page.get_by_role("alert").inner_text()
    assert all("ERR_FILE_NOT_FOUND" in problem for problem in page.problems), page.problems
    page.context.close()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("delete globalThis.DecompressionStream", "no DecompressionStream"),
        ("WebAssembly.validate = () => false", "no WebAssembly SIMD"),
        ("delete globalThis.WebAssembly", "no WebAssembly SIMD"),
    ],
)
def test_what_a_browser_lacks_is_said(opened, script, words):
    assert words in opened(script=script).page.get_by_role("alert").inner_text()


@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everyone_can_use_it(opened, locale, width, scheme):
    """axe finds nothing: with an answer, a link cut and evidence shown, with explanations open, with a map in large."""
    page = opened(locale=locale, width=width, color_scheme=scheme)
    page.answered()
    shown = page.page
    assert shown.evaluate("document.documentElement.lang") == locale[:2]
    spec = importlib.util.find_spec("axe_playwright_python")
    assert spec and spec.origin
    shown.evaluate(Path(spec.origin).with_name("axe.min.js").read_text())

    def violations() -> list[str]:
        assert shown.evaluate("document.documentElement.scrollWidth") <= width
        found = shown.evaluate("axe.run({ preload: false }).then((found) => found.violations)")
        return [f"{each['id']}: {node['html'][:200]}" for each in found for node in each["nodes"]]

    shown.wait_for_timeout(400)  # until colours stop changing
    assert violations() == []
    shown.locator(".crossing [role=switch]").first.click()
    shown.locator(".bars button").first.click()
    for layer in shown.locator(".layer h3 button").all():
        layer.click()
    page.answered()
    shown.wait_for_timeout(400)
    assert violations() == []
    shown.locator(".layer .tiles button").nth(40).click()
    shown.locator(".patches .sprite").first.wait_for()
    assert violations() == []


def test_the_language_can_be_changed_and_asked_for(opened, explored):
    page = opened(locale="zh-HK")
    page.page.get_by_role("button", name="English").click()
    page.page.get_by_role("heading", name="The network").wait_for()
    page.page.goto(f"{explored.folder.as_uri()}/index.html?lang=zh")
    page.page.get_by_role("heading", name="网络").wait_for()


@pytest.mark.parametrize("width", [1280, 390])
def test_more_towers_than_colours(browser, tmp_path, width):
    values = config_files.load("digits")
    values.model.towers = 8
    net = random_network(config_files.parse(values))
    networks.to_workdir(dataclasses.replace(net, classes=list("0123456789")), tmp_path / "run")
    folder.export(tmp_path / "run", tmp_path / "explorer", data=None, images=20)
    page = Opened(browser, (tmp_path / "explorer/index.html").as_uri(), width)
    page.show(encoded(photo(), "PNG"), "photo.png")
    page.answered()
    for tower in (3, 7):
        assert page.pixels(f".layer:has(#conv5) .tower:nth-child({tower + 1}) canvas").std() > 2
    page.page.locator(".layer:has(#conv3) .tower:nth-child(8) .tiles button").first.click()
    assert page.pixels("dialog .fires canvas").std() > 5
    assert page.page.evaluate("document.documentElement.scrollWidth") <= width + 1  # half a line
    page.close()


CAMERA = """
    const picture = document.createElement("canvas");
    const pen = picture.getContext("2d");
    setInterval(() => pen.fillRect(99 * Math.random(), 0, 30, 150), 20);
    navigator.mediaDevices.getUserMedia = async () => picture.captureStream();
"""


def test_a_photograph_is_answered_and_a_missing_camera_is_said(opened):
    page = opened(script=CAMERA)
    page.answered()
    before = page.top()
    page.page.get_by_role("button", name="Camera").click()
    page.page.get_by_role("button", name="Take the picture").click()
    page.page.wait_for_selector(".frame canvas[aria-label='The centre of the image, as the network sees it']")
    page.answered()
    assert page.top() != before and page.page.locator("dialog.camera").count() == 0
    page = opened()
    page.answered()
    page.page.get_by_role("button", name="Camera").click()
    assert "The camera cannot be used (NotFoundError)" in page.page.get_by_role("alert").inner_text()


def test_the_network_of_a_server(browser, explored):
    """The same page from `alexnet serve`, which has the network: stages come when they are asked for."""
    content = encoded(photo(1), "PNG")
    with started(explored.directory, signal.SIGTERM) as (url, _):
        page = Opened(browser, f"{url}/")
        page.show(content, "photo.png")
        check(page, probabilities(explored.net, content))
        page.page.locator(".crossing [role=switch]").first.click()
        check(
            page,
            probabilities(explored.net, content, (0.0, *[1.0] * (len(stages.links(explored.net.config.model)) - 1))),
        )
        page.page.locator(".layer:has(#conv1) .choice label").first.click()
        page.page.wait_for_timeout(1000)
        assert page.pixels(".layer:has(#conv1) .tower canvas").std() > 2
        page.close()
