"""What requests of a server share: passes of the network."""

import asyncio
import threading
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import HTTPException

from alexnet_jax.run import config_files
from alexnet_jax.serving import app, batching
from alexnet_jax.serving.batching import Budget
from tests.tiny import tiny_config


def test_a_batch_is_padded_to_a_compiled_size():
    for count, size in ((1, 1), (2, 8), (8, 8), (9, 32), (32, 32)):
        images = np.ones((count, 2, 2, 3), np.uint8)
        padded = batching.padded(images)
        assert padded.shape == (size, 2, 2, 3) and padded.sum() == images.sum()


def test_a_full_queue_is_answered_with_503(monkeypatch):
    """No worker empties the queue here, so the second image finds it full."""
    monkeypatch.setattr(batching, "MAX_WAITING", 1)

    async def ask_twice() -> None:
        batcher, image = batching.Batcher(lambda images: images, Budget(1)), np.zeros((2, 2, 3), np.uint8)
        first = asyncio.ensure_future(batcher.ask(image))
        await asyncio.sleep(0)
        with pytest.raises(HTTPException, match=r"503.*too many images are waiting"):
            await batcher.ask(image)
        first.cancel()

    asyncio.run(ask_twice())


def test_a_failed_pass_is_the_error_of_its_requests_alone():
    """The worker goes on with the next ones; who has left meanwhile is not answered."""

    def step(images: np.ndarray) -> np.ndarray:
        if images.any():
            raise ValueError("a failed pass")
        return images

    async def ask() -> None:
        batcher, image = batching.Batcher(step, Budget(1)), np.ones((2, 2, 3), np.uint8)
        worker = asyncio.ensure_future(batcher.work())
        waiting = [asyncio.ensure_future(batcher.ask(image)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError, ValueError, ValueError]
        assert not (await batcher.ask(0 * image)).any() and not worker.done()
        worker.cancel()

    asyncio.run(ask())


def test_too_many_runs_are_answered_with_503(monkeypatch):
    """One is computed, and one may wait; each holds its images in memory."""
    monkeypatch.setattr(app, "MAX_RUNS", 1)
    begun, go_on = threading.Event(), threading.Event()

    def run(*arguments: Any) -> dict[str, np.ndarray]:
        begun.set()
        assert go_on.wait(30)
        return {"probabilities": np.ones((1, 1), np.float32)}

    net = SimpleNamespace(name="net", config=config_files.parse(tiny_config()), classes=["a"])
    served: Any = SimpleNamespace(
        net=net, files={}, steps={0: net}, links=(), outputs={"probabilities": (1,)}, run=run, log_probabilities=None
    )
    application = app.make_app(served, app.Limits(max_bytes=9999, max_images=1, max_pixels=1), "::1", lambda: None)

    async def scenario() -> None:
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:

            def ask() -> asyncio.Task[httpx.Response]:
                return asyncio.create_task(client.post("/api/run?step=0", content=bytes(3 * 32**2)))

            tasks = [ask()]
            await asyncio.to_thread(begun.wait, 30)
            tasks.append(ask())
            refused = await ask()  # which comes after that
            assert refused.status_code == 503 and "try again" in refused.json()["detail"]
            go_on.set()
            assert [(await task).status_code for task in tasks] == [200, 200]

    asyncio.run(scenario())
