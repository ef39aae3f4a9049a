"""What requests share: passes of the network, and memory for the images that are being decoded."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

import numpy as np
from fastapi import HTTPException

SIZES = (1, 8, 32)  # batch sizes: each is compiled once, and smaller batches are padded
WAIT = 0.002  # seconds that a pass waits for more images
MAX_WAITING = 4096  # images


class Budget:
    """Lends at most `total` at a time; whoever asks first is served first."""

    def __init__(self, total: int):
        self._free, self.waiting = total, 0
        self._turn, self._returned = asyncio.Lock(), asyncio.Event()

    @contextlib.asynccontextmanager
    async def lend(self, amount: int) -> AsyncIterator[None]:
        self.waiting += 1
        try:
            async with self._turn:
                while self._free < amount:
                    self._returned.clear()
                    await self._returned.wait()
                self._free -= amount
        finally:
            self.waiting -= 1
        try:
            yield
        finally:
            self._free += amount
            self._returned.set()


class Batcher:
    """Applies `step` to images from any number of requests, up to SIZES[-1] of them at a time.

    `step` maps [B, H, W, 3] uint8 to [B, ...]; it runs in a thread, one pass at a time, when `passes` lends it one.
    """

    def __init__(self, step: Callable[[np.ndarray], np.ndarray], passes: Budget):
        self._step, self._passes = step, passes
        self._queue: asyncio.Queue[tuple[np.ndarray, asyncio.Future]] = asyncio.Queue(MAX_WAITING)
        self.images = self.passes = 0  # so far

    async def ask(self, image: np.ndarray) -> np.ndarray:
        """The result of `step` for an image [H, W, 3]. Raises HTTPException if too many are waiting."""
        answer = asyncio.get_running_loop().create_future()
        try:
            self._queue.put_nowait((image, answer))
        except asyncio.QueueFull:
            raise HTTPException(503, "too many images are waiting; try again", {"retry-after": "1"}) from None
        return await answer

    async def work(self) -> None:
        """Answer until cancelled."""
        while True:
            batch = [await self._queue.get()]
            if self._queue.empty():
                await asyncio.sleep(WAIT)
            while len(batch) < SIZES[-1] and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            images, answers = zip(*batch, strict=True)
            self.images, self.passes = self.images + len(batch), self.passes + 1
            try:
                async with self._passes.lend(1):
                    results = await asyncio.to_thread(self._step, padded(np.stack(images)))
                for answer, result in zip(answers, results, strict=False):
                    if not answer.done():  # else the client has left
                        answer.set_result(result)
            except Exception as error:
                for answer in answers:
                    if not answer.done():
                        answer.set_exception(error)


def padded(images: np.ndarray) -> np.ndarray:
    """Append black images, up to the next of SIZES."""
    size = next(size for size in SIZES if size >= len(images))
    return np.concatenate([images, np.zeros((size - len(images), *images.shape[1:]), images.dtype)])
