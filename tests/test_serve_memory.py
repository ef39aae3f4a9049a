"""The memory that requests with large images take."""

import asyncio
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest

from alexnet_jax.run import config_files
from alexnet_jax.serving.app import Limits, make_app
from alexnet_jax.serving.batching import Budget
from tests import runs
from tests.conftest import encoded
from tests.tiny import tiny_config

PIXELS = 6_000_000  # of each image, and of those that may be decoded at a time


def memory(kind: str) -> int:
    """Bytes: VmRSS, which this process has now, or VmHWM, the most it had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(kind))


async def most_taken() -> int:
    """The bytes that the application takes for two requests at once, of eight images each."""
    net = SimpleNamespace(name="net", step=1, classes=["a"], config=config_files.parse(tiny_config()), path=Path("net"))
    served: Any = SimpleNamespace(net=net, files={}, log_probabilities=lambda x: np.zeros((len(x), 1)))
    app = make_app(served, Limits(max_bytes=10**7, max_images=8, max_pixels=PIXELS), "localhost", lambda: None)
    part = ("images", ("a.png", encoded(np.zeros((2000, PIXELS // 2000, 3), np.uint8), "PNG")))
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, timeout=60) as client:

        async def ask(count: int) -> None:
            answer = await client.post("http://localhost/api/predict", files=[part] * count)
            assert answer.status_code == 200 and [image["error"] for image in answer.json()] == [None] * count

        await ask(1)
        Path("/proc/self/clear_refs").write_text("5")  # forgets VmHWM
        before = memory("VmRSS")
        await asyncio.gather(ask(8), ask(8))
        return memory("VmHWM") - before


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="it reads and resets the peak in /proc")
def test_the_images_of_all_requests_share_one_limit():
    """Pillow takes 10 to 17 bytes a pixel for an image; four at once took over 40."""
    program = f"import asyncio, {__name__}\nprint(asyncio.run({__name__}.most_taken()))"
    output = runs.run([sys.executable, "-c", program])
    assert 8 * PIXELS < int(output.split()[-1]) < 25 * PIXELS, output


def test_a_large_image_is_not_overtaken_for_ever():
    """Images that would fit beside those being decoded wait behind a larger one; one that leaves makes room."""
    started: list[int] = []

    async def decode(budget: Budget, pixels: int, done: asyncio.Event) -> None:
        async with budget.lend(pixels):
            started.append(pixels)
            await done.wait()

    async def scenario() -> None:
        budget, done, never = Budget(10), asyncio.Event(), asyncio.Event()
        tasks = [asyncio.ensure_future(decode(budget, 4, never))]
        tasks += [asyncio.ensure_future(decode(budget, pixels, done)) for pixels in (10, 1, 2)]
        await asyncio.sleep(0)
        assert started == [4]
        tasks[0].cancel()
        done.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert started == [4, 10, 1, 2]

    asyncio.run(scenario())
