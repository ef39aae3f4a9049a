"""The explorer of a trained network, its page in a browser, and what JAX makes of the same images."""

import base64
import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from PIL import Image

from alexnet_jax.data.images import stored_pixels
from alexnet_jax.explorer import stages
from alexnet_jax.inference import network
from alexnet_jax.inference.network import Network
from tests import runs
from tests.networks import log_probabilities
from tests.test_commands import run


class Explored(NamedTuple):
    directory: Path  # of a run
    folder: Path  # its explorer
    net: Network


def explore(home: Path) -> Explored:
    """Train for 46 steps on the digits, keep the network of every tenth, and export all."""
    flags = ("--config.train.keep_every_steps=10", "--config.train.save_every_steps=10")
    runs.run(runs.command(home, "digits 图", *flags))
    directory, folder = home / "digits 图", home / "explorer 图"
    run("alexnet_jax", "export", "--explorer", folder, "--workdir", directory, "--images=100")
    return Explored(directory, folder, network.open_workdir(directory))


class Opened:
    """The page, and what must not happen there."""

    def __init__(self, browser: Any, address: str, width: int = 1280, script: str = "", **options: Any):
        self.context = browser.new_context(viewport={"width": width, "height": 900}, **({"locale": "en-US"} | options))
        self.page = self.context.new_page()
        self.problems: list[str] = []
        self.page.on("console", lambda message: self.problems.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        here = address.rpartition("/")[0]
        self.page.on("request", lambda request: self.problems.append(request.url)
                     if not request.url.startswith((here, "data:", "blob:")) else None)  # fmt: skip
        if script:
            self.page.add_init_script(script)
        if address.startswith("file:"):
            self.context.set_offline(True)
        self.page.goto(address)
        self.page.wait_for_selector("main .bars li, [role=alert]")

    def answered(self) -> None:
        """Wait for the answer to what was done last."""
        self.page.evaluate("new Promise((shown) => requestAnimationFrame(() => requestAnimationFrame(shown)))")
        self.page.wait_for_selector(".bars li")
        self.page.wait_for_selector(".busy, progress", state="detached")

    def show(self, content: bytes, name: str, how: str = "drop") -> None:
        if how == "file":
            self.page.set_input_files("#file", {"name": name, "mimeType": "", "buffer": content})
        else:
            self.page.evaluate(DROP, [base64.b64encode(content).decode(), name, how])
        self.page.wait_for_selector(f".frame canvas[aria-label*='{name}'], [role=alert]")

    def top(self) -> dict[str, float]:
        """The best classes and their probabilities, by the bars."""
        bars = self.page.locator(".bars li")
        names = bars.locator(".name").all_inner_texts()
        shares = bars.locator(".fill").evaluate_all("(all) => all.map((bar) => parseFloat(bar.style.width) / 100)")
        return dict(zip(names, shares, strict=True))

    def pixels(self, selector: str) -> np.ndarray:
        """[H, W, 3] of a canvas."""
        found = self.page.eval_on_selector(selector, PIXELS)
        return np.array(found["data"], np.uint8).reshape(found["height"], found["width"], 4)[..., :3]

    def close(self) -> None:
        assert self.problems == []
        self.context.close()


DROP = """([content, name, type]) => {
    const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
    const data = new DataTransfer();
    data.items.add(new File([bytes], name));
    const event = type === "paste" ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true })
        : new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
    document.body.dispatchEvent(event);
}"""
PIXELS = """(canvas) => {
    const { width, height } = canvas;
    return { width, height, data: [...canvas.getContext("2d").getImageData(0, 0, width, height).data] };
}"""


def probabilities(net: Network, content: bytes, links: tuple[float, ...] = ()) -> dict[str, float]:
    """By JAX, of each class; `links` that are 0 are cut in the parameters."""
    params = jax.device_get(stages.cut(net.config.model, net.params, links)) if links else net.params
    logs = log_probabilities(dataclasses.replace(net, params=params), stored_pixels(content, 32).pixels[None])
    return dict(zip(net.classes, np.exp(logs[0]).tolist(), strict=True))


def check(page: Opened, expected: dict[str, float], tolerance: float = 1e-3) -> None:
    """The five best classes are those of JAX."""
    page.answered()
    found = page.top()
    assert len(found) >= 5
    assert found == pytest.approx({name: expected[name] for name in found}, abs=tolerance)
    assert min(list(found.values())[:5]) >= sorted(expected.values())[-5] - tolerance


def photo(seed: int = 0, size: tuple[int, int] = (90, 70), bands: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 9, bands), dtype=np.uint8))
    return np.asarray(coarse.resize(size, Image.Resampling.BICUBIC))
