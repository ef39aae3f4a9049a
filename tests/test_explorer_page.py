"""The explorer's page in a real browser: opened from disk and offline, in a folder that the exporter wrote.

tests/test_explorer_limits.py is about what goes wrong and who can use it, tests/test_explorer_built.py about the files
that are shipped; `npm test` in explorer/web tests parts of the page.
"""

import re

import numpy as np
import pytest
from PIL import Image

from alexnet_jax.data.images import stored_pixels
from alexnet_jax.explorer import stages
from alexnet_jax.inference import network
from tests.conftest import encoded
from tests.explored import check, photo, probabilities

pytestmark = pytest.mark.long


def turned(pixels: np.ndarray) -> bytes:
    image = Image.fromarray(pixels)
    image.getexif()[0x0112] = 6
    return encoded(image, "JPEG", quality=95, exif=image.getexif())


@pytest.mark.parametrize(
    ("name", "content", "how", "difference"),
    [
        ("wide.png", encoded(photo(), "PNG"), "drop", 0),
        ("high.jpg", encoded(photo(1, (300, 401)), "JPEG", quality=90), "paste", 1),
        ("turned.jpg", turned(photo(2, (200, 300))), "file", 1),
        ("clear.png", encoded(Image.fromarray(photo(3, (64, 64), 4), "RGBA"), "PNG"), "drop", 0),
        ("grey.png", encoded(Image.fromarray(photo(4)).convert("L"), "PNG"), "drop", 0),
        ("palette.gif", encoded(Image.fromarray(photo(5)).quantize(16), "GIF"), "file", 0),
        ("photo.webp", encoded(photo(6, (120, 90)), "WEBP", lossless=True), "drop", 0),
        ("tiny.png", encoded(photo(7, (1, 1)), "PNG"), "drop", 0),
        ("small.bmp", encoded(photo(8, (20, 11)), "BMP"), "drop", 1),
        ("large.png", encoded(np.tile(photo(9, (500, 500)), (10, 10, 1)), "PNG", compress_level=1), "drop", 0),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value else "",
)
def test_an_image_is_answered_as_by_jax(opened, explored, name, content, how, difference):
    page = opened(width=390 if how == "file" else 1280)
    page.show(content, name, how)
    check(page, probabilities(explored.net, content))
    expected = stored_pixels(content, 32).pixels[2:30, 2:30].astype(int)
    assert np.abs(page.pixels(".frame canvas") - expected).max() <= difference


def test_each_layer_shows_its_maps_at_any_stage(opened, explored):
    page = opened()
    page.answered()
    towers = explored.net.config.model.towers
    for name, operations in stages.stages(explored.net.config.model).items():
        layer = page.page.locator(f".layer:has(#{name})")
        assert layer.locator(".tower").count() == towers
        if name == "fc8":
            assert layer.locator(".classes li").count() == 2 * 3
            continue
        for stage in range(len(operations)):
            if len(operations) > 1:
                layer.locator(".choice label").nth(stage).click()
            for tower in range(towers):
                assert page.pixels(f".layer:has(#{name}) .tower[data-tower='{tower}'] canvas").std() > 2
        layer.locator("h3 button").click()
        about = layer.locator(".about").inner_text()
        assert len(re.findall(r"[.] |[.]$", about, re.M)) >= 2 and re.search(r"alexnet_jax/\w+\.py:\d+", about), about


def test_a_cut_link_changes_the_answer_as_in_jax(opened, explored):
    page, content = opened(), encoded(photo(1), "PNG")
    page.show(content, "photo.png")
    whole = probabilities(explored.net, content)
    check(page, whole)
    names = stages.links(explored.net.config.model)
    switches = page.page.locator(".crossing [role=switch]")
    assert [switch.get_attribute("aria-label") for switch in switches.all()] == [f"Towers linked in {n}" for n in names]
    page.page.wait_for_function("document.querySelectorAll('.caption .note').length == 8")
    assert all(
        re.match(r"[\d.]+% of the response from tower", text)
        for text in page.page.locator(".caption .note").all_inner_texts()
    )
    for link in range(len(names)):
        switches.nth(link).click()
        check(page, probabilities(explored.net, content, tuple(float(each != link) for each in range(len(names)))))
        assert page.page.locator(".bars s").first.inner_text() == f"{100 * whole[next(iter(page.top()))]:.1f}%"
        switches.nth(link).click()
        page.answered()
    everything = page.page.get_by_role("switch", name="Towers linked", exact=True)
    everything.click()
    apart = probabilities(explored.net, content, (0.0,) * len(names))
    assert max(abs(apart[name] - whole[name]) for name in whole) > 0.01, "a test of what changes nothing"
    check(page, apart)
    everything.click()
    check(page, whole)
    assert page.page.locator(".bars s").count() == 0


def test_a_map_in_large(opened, explored):
    """Its dialog shows where it fires, its kernels, whose inputs lead on to other maps, and training images."""
    page = opened()
    page.answered()
    tile = page.page.locator(".layer:has(#conv3) .tower[data-tower='1'] .tiles button").first
    unit = int(re.search(r"\d+", tile.get_attribute("aria-label") or "")[0])  # type: ignore[index]
    tile.click()
    dialog = page.page.locator("dialog.unit")
    assert (
        dialog.locator("h2").inner_text() == f"conv3, map {unit}"
        and unit >= explored.net.config.model.conv3.features // 2
    )
    assert page.pixels("dialog .fires canvas").std() > 5
    assert dialog.locator(".stages li").all_inner_texts() == ["response", "ReLU"]
    dialog.locator(".patches .sprite").first.wait_for()
    for kind in (".patches", ".wiring"):
        assert "blob:" in dialog.locator(f"{kind} .sprite").first.evaluate("(each) => each.style.backgroundImage")
    towers = dialog.locator(".wiring [data-tower]").evaluate_all("(all) => all.map((each) => each.dataset.tower)")
    counts = [f"{towers.count(t)} from tower {t}" for t in sorted(set(towers))]
    assert dialog.locator(".wiring .note").inner_text() == ", ".join(counts)
    strongest = dialog.locator(".wiring button").first
    name = strongest.get_attribute("aria-label")
    strongest.click()
    assert dialog.locator("h2").inner_text() == name and str(name).startswith("conv2, map")
    dialog.get_by_role("button", name="Close").click()
    assert not dialog.is_visible()
    page.page.locator(".kernels .tiles button").nth(3).click()
    assert dialog.locator("h2").inner_text() == "conv1, map 3"
    dialog.locator(".kernel .sprite").wait_for()


def test_evidence_for_a_class(opened, explored):
    page, content = opened(), encoded(photo(1), "PNG")
    page.show(content, "photo.png")
    page.answered()
    best = page.page.locator(".bars button").first
    best.click()
    name = best.locator(".name").inner_text()
    page.page.locator(".bars .note", has_text=f"makes “{name}” less likely").wait_for()
    assert page.pixels(".evidence").max() > 0
    best.click()
    page.page.locator(".evidence").wait_for(state="detached")


def test_evidence_where_links_are_cut_compares_with_the_answer_of_then(opened, explored):
    """Red in the middle of squares without which the class is less likely than it is now, blue where it is more."""
    page, pixels = opened(), stored_pixels(encoded(photo(1), "PNG"), 32).pixels
    page.show(encoded(pixels, "PNG"), "photo.png")
    page.page.get_by_role("switch", name="Towers linked", exact=True).click()
    page.answered()
    best, links = next(iter(page.top())), (0.0,) * len(stages.links(explored.net.config.model))
    page.page.locator(".bars button").first.click()
    page.page.locator(".bars .note", has_text="red square").wait_for()
    starts = [2 + int(3.5 * i + 0.5) for i in range(7)]  # of squares of 7 pixels in the crop of 28
    mean = explored.net.statistics.mean_image.mean(axis=(0, 1)).round().astype(np.uint8)
    evidence = np.empty((7, 7))
    for row, top in enumerate(starts):
        for column, left in enumerate(starts):
            copy = pixels.copy()
            copy[top : top + 7, left : left + 7] = mean
            evidence[row, column] = -np.log(probabilities(explored.net, encoded(copy, "PNG"), links)[best])
    evidence += np.log(probabilities(explored.net, encoded(pixels, "PNG"), links)[best])
    middles = [int(8.75 + 17.5 * (i + 0.5)) for i in range(7)]  # of the squares in the overlay of 140 pixels
    shown = page.pixels(".evidence").astype(int)[np.ix_(middles, middles)]
    clear = np.abs(evidence) > 0.2 * np.abs(evidence).max()
    assert ((shown[..., 0] > shown[..., 2]) == (evidence > 0))[clear].all(), evidence


def test_the_networks_along_training(opened, explored):
    page, content = opened(), encoded(photo(1), "PNG")
    page.show(content, "photo.png")
    check(page, probabilities(explored.net, content))
    slider = page.page.get_by_label("Training step")
    kernels = page.page.locator(".kernels .sprite").first
    newest = kernels.evaluate("(each) => each.style.backgroundImage")
    for key, step in (("Home", 0), ("ArrowRight", 10), ("End", explored.net.step)):
        slider.press(key)
        assert slider.get_attribute("aria-valuetext") == f"after {step} steps of training"
        assert (kernels.evaluate("(each) => each.style.backgroundImage") == newest) == (step == explored.net.step)
        page.page.wait_for_timeout(100)
        check(
            page, probabilities(network.open_workdir(explored.directory, step), content), tolerance=1e-2
        )  # half precision
    page.page.get_by_role("button", name="Play").click()
    page.page.get_by_role("button", name="Stop").wait_for()
    page.page.get_by_role("button", name="Play").wait_for()
    assert slider.get_attribute("aria-valuetext") == f"after {explored.net.step} steps of training"


def test_the_keyboard_is_enough(opened, explored):
    page = opened()
    page.answered()
    press, focus = page.page.keyboard.press, lambda: page.page.evaluate("document.activeElement.ariaLabel || ''")

    def tab_to(selector: str) -> None:
        for _ in range(200):
            press("Tab")
            if page.page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
                return
        raise AssertionError(f"Tab does not reach {selector}")

    tab_to(".examples button:nth-child(3)")
    press("Enter")
    page.page.wait_for_selector(f".frame canvas[aria-label*='image {explored.net.classes[2]}']")
    page.answered()
    before = page.top()
    tab_to(".bars button")
    press("Space")
    page.page.locator(".bars .note", has_text="red square").wait_for()
    tab_to(".kernels button[aria-label]")
    press("ArrowRight")
    assert focus() == "Kernel 1"
    tab_to("input[name='conv1.stage']")
    press("ArrowLeft")
    assert page.page.locator(".layer:has(#conv1) :checked + span").inner_text() == "normalized"
    tab_to(".layer .tiles button")
    press("ArrowDown")
    here = focus()
    press("Enter")
    dialog = page.page.locator("dialog.unit")
    dialog.wait_for()
    assert here.split(",")[0].removeprefix("Map ") in dialog.locator("h2").inner_text()
    press("Escape")
    assert not dialog.is_visible() and focus() == here
    tab_to(".crossing [role=switch]")
    press("Space")
    page.page.locator(".bars s").first.wait_for()
    page.answered()
    assert page.top() != before and focus() == "Towers linked in conv3"
