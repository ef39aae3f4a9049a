"""Images of many requests in one pass of the network."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

SIZES = (1, 8, 32)  # images a pass; each is compiled once, and fewer are filled up
WAIT = 0.002  # seconds that a pass waits for company
MOST_WAITING = 4096  # images


class Busy(Exception):
    """More images are waiting than can be answered soon."""


class _Waiting(NamedTuple):
    image: np.ndarray
    answer: asyncio.Future


class Batcher:
    """`ask(image)`, from any number of requests at once, is answered by passes of `step` over up to SIZES[-1] images.

    `step` takes [B, H, W, 3] uint8 and gives [B, ...]; it runs in a thread, one pass at a time.
    """

    def __init__(self, step: Callable[[np.ndarray], np.ndarray]):
        self._step = step
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue(MOST_WAITING)
        self._thread = ThreadPoolExecutor(1)
        self.images = self.passes = 0  # so far

    async def ask(self, image: np.ndarray) -> np.ndarray:
        """What `step` gives for an image [H, W, 3]. Raises Busy."""
        answer = asyncio.get_running_loop().create_future()
        try:
            self._queue.put_nowait(_Waiting(image, answer))
        except asyncio.QueueFull:
            raise Busy from None
        return await answer

    async def work(self) -> None:
        """Answers, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._queue.get()]
            if self._queue.empty():
                await asyncio.sleep(WAIT)
            while len(batch) < SIZES[-1] and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            images = np.stack([one.image for one in batch])
            self.images, self.passes = self.images + len(batch), self.passes + 1
            try:
                results = await loop.run_in_executor(self._thread, self._step, filled(images))
                for one, result in zip(batch, results, strict=False):
                    if not one.answer.done():  # else the client has left
                        one.answer.set_result(result)
            except Exception as error:
                for one in batch:
                    if not one.answer.done():
                        one.answer.set_exception(error)


def filled(images: np.ndarray) -> np.ndarray:
    """With black images behind, as many as the next of SIZES has."""
    size = next(size for size in SIZES if size >= len(images))
    return np.concatenate([images, np.zeros((size - len(images), *images.shape[1:]), images.dtype)])
