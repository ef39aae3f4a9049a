"""The page and its JSON endpoints, and what every request passes before them."""

import asyncio
import contextlib
import dataclasses
import json
import math
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, File, HTTPException, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from pydantic import BaseModel, Field
from starlette.middleware.trustedhost import TrustedHostMiddleware

from alexnet_jax.data.images import GZIP_MAGIC, CorruptImage, claimed_pixels, stored_pixels
from alexnet_jax.inference import predictions
from alexnet_jax.serving.batching import Batcher, Budget
from alexnet_jax.serving.served import Served

BEST = 5  # classes in an answer
MAX_ANSWER = 64_000_000  # bytes of outputs
MAX_RUNS = 64  # that wait, each with its images
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
LOOPBACK = ("127.0.0.1", "localhost", "::1")
HEADERS = {
    b"content-security-policy": b"default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cache-control": b"no-store",
}
CLOSE = {"connection": "close"}  # after a refusal, since the rest of the body is not read


class Limits(BaseModel):
    max_bytes: int  # of a request
    max_images: int  # of a request
    max_pixels: int  # of an image, and of all images that are being decoded


class Scored(BaseModel):
    name: str = Field(description="name of the class")
    probability: float


class Prediction(BaseModel):
    name: str = Field(description="name of the file")
    top: list[Scored] = Field(description="the best classes, best first; empty if the image cannot be read")
    error: str | None = Field(description="why the image cannot be read")


class Health(BaseModel):
    network: str
    step: int
    classes: int
    images: int = Field(description="images classified so far")
    passes: int = Field(description="passes of the network that they took")


Images = Annotated[list[UploadFile], File(description="one image or several")]
PROBLEMS: dict[int | str, dict[str, Any]] = {
    413: {"description": "the request is larger, or has more images, than allowed"},
    422: {"description": "no image was sent, or none of them can be read"},
    503: {"description": "too many images are waiting"},
}


@dataclasses.dataclass(frozen=True)
class Endpoints:
    """What answers requests, one method for each path."""

    served: Served
    batcher: Batcher
    decoding: Budget  # pixels
    passes: Budget  # of a network, at a time
    limits: Limits

    async def health(self) -> Health:
        """The network, and how many passes it took for how many images."""
        net, done = self.served.net, {"images": self.batcher.images, "passes": self.batcher.passes}
        return Health(network=net.name, step=net.step, classes=len(net.classes), **done)

    async def predict(self, images: Images) -> list[Prediction]:
        """The best classes of each image. An image that cannot be read has an `error`; if none can, that is 422."""
        if len(images) > self.limits.max_images:
            raise HTTPException(413, f"{len(images)} images are too many; send at most {self.limits.max_images}")
        answers = await asyncio.gather(*map(self._predict_one, images))
        if all(answer.error for answer in answers):
            raise HTTPException(422, "; ".join(f"{answer.name}: {answer.error}" for answer in answers))
        return answers

    async def run(self, request: Request, step: int, links: str = "", outputs: str = "probabilities") -> Response:
        """What the network computes of stored images, the body: [N, size, size, 3] bytes.

        `links` has a 1 or 0 for each layer in which the towers meet, and `outputs` the names of some outputs, both
        separated by commas. The answer is the length of a header, 4 bytes, little-endian; the header, JSON with the
        name and shape of each output; and their numbers, float32, little-endian.
        """
        names, states = outputs.split(","), [float(state == "1") for state in links.split(",") if state]
        if step not in self.served.steps:
            raise HTTPException(422, f"there is no step {step}, only {', '.join(map(str, self.served.steps))}")
        if unknown := [name for name in names if name not in self.served.outputs]:
            raise HTTPException(422, f"there is no output {unknown[0]}")
        if not re.fullmatch(r"([01](,[01])*)?", links) or len(states) != len(self.served.links):
            raise HTTPException(422, f"links must be 1 or 0 for each of {', '.join(self.served.links) or 'no layer'}")
        pixels = await self._stored(request)
        answer = 4 * len(pixels) * sum(math.prod(self.served.outputs[name]) for name in names)
        if answer > MAX_ANSWER:
            raise HTTPException(413, f"an answer of {answer / 1e6:,.0f} MB is too large; ask for fewer outputs")
        if self.passes.waiting >= MAX_RUNS:
            raise HTTPException(503, "too many requests are waiting; try again", {"retry-after": "1"})
        async with self.passes.lend(1):
            found = await run_in_threadpool(self.served.run, step, states, pixels, names)
        header = json.dumps({"outputs": [{"name": name, "shape": x.shape} for name, x in found.items()]}).encode()
        numbers = (x.astype("<f4").tobytes() for x in found.values())
        content = b"".join([len(header).to_bytes(4, "little"), header, *numbers])
        return Response(content, media_type="application/octet-stream")

    async def _stored(self, request: Request) -> np.ndarray:
        """The images of a request's body, at most `max_images`."""
        size, body = self.served.net.config.data.size, bytearray()
        image = 3 * size**2
        async for part in request.stream():
            body += part
            if len(body) > self.limits.max_images * image:
                raise HTTPException(413, f"send at most {self.limits.max_images} images", CLOSE)
        if not body or len(body) % image:
            raise HTTPException(422, f"the body must be images of {size}x{size}x3 bytes")
        return np.frombuffer(body, np.uint8).reshape(-1, size, size, 3)

    async def _predict_one(self, image: UploadFile) -> Prediction:
        name = image.filename or "image"
        try:
            log_probabilities = await self.batcher.ask(await self._pixels(image))
        except CorruptImage as error:
            return Prediction(name=name, top=[], error=str(error))
        return Prediction(name=name, top=self._top(log_probabilities), error=None)

    async def _pixels(self, image: UploadFile) -> np.ndarray:
        """Raises CorruptImage."""
        content = await image.read()
        if content.startswith(GZIP_MAGIC):  # `prepare` accepts it, but a small one may unpack to anything
            raise CorruptImage("compressed with gzip")

        size, most = self.served.net.config.data.size, self.limits.max_pixels
        claimed = await run_in_threadpool(claimed_pixels, content)
        async with self.decoding.lend(claimed if claimed <= most else 0):  # a larger image is refused undecoded
            return (await run_in_threadpool(stored_pixels, content, size, most)).pixels

    def _top(self, log_probabilities: np.ndarray) -> list[Scored]:
        (top,) = predictions.Prediction(np.exp(log_probabilities[None]), self.served.net.classes).top(BEST)
        return [Scored(name=name, probability=probability) for name, probability in top]


def guard(app: Any, max_bytes: int) -> Callable:
    """ASGI middleware. Answers a body of more than `max_bytes` with 413, whether or not its length was declared."""

    async def guarded(scope: dict, receive: Any, send: Any) -> None:
        headers = dict(scope.get("headers", ()))
        _, given, charset = headers.get(b"content-type", b"").lower().partition(b"charset=")
        decodable = not given or charset.partition(b";")[0].strip(b' "') in (b"utf-8", b"utf8")
        declared = headers.get(b"content-length", b"")
        too_large = declared.isdigit() and int(declared) > max_bytes
        received = 0

        async def checked() -> dict:  # what it raises is answered by the application
            nonlocal received
            if not decodable:
                raise HTTPException(400, "only UTF-8 is understood", CLOSE)
            message = {} if too_large else await receive()
            received += len(message.get("body", b""))
            if too_large or received > max_bytes:
                raise HTTPException(413, f"the request is larger than {max_bytes / 1e6:g} MB", CLOSE)
            return message

        async def extended(message: dict) -> None:
            if message["type"] == "http.response.start":
                message = message | {"headers": [*message["headers"], *HEADERS.items()]}
            await send(message)

        await app(scope, checked, extended)

    return guarded


def make_app(served: Served, limits: Limits, host: str, ready: Callable[[], None]) -> FastAPI:
    """The application; `ready` is called once it answers. On a loopback `host` it only answers to loopback names."""
    passes = Budget(1)
    batcher = Batcher(served.log_probabilities, passes)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        worker = asyncio.create_task(batcher.work())
        ready()
        yield
        worker.cancel()

    title, about = f"alexnet_jax: {served.net.name}", "Classifies images with a network trained by alexnet_jax."
    app = FastAPI(title=title, description=about, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(guard, max_bytes=limits.max_bytes)
    if host in LOOPBACK:  # else a page of another site could reach it under a name of its own
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]"])

    def answer(request: Request) -> Response:
        path = request.url.path[1:] or "index.html"
        return Response(served.files[path], media_type=TYPES[Path(path).suffix])

    for path in served.files:
        app.add_route("/" if path == "index.html" else f"/{path}", answer)
    endpoints = Endpoints(served, batcher, Budget(limits.max_pixels), passes, limits)
    app.get("/api/health")(endpoints.health)
    app.post("/api/predict", responses=PROBLEMS)(endpoints.predict)
    app.post("/api/run", responses=PROBLEMS, response_class=Response)(endpoints.run)
    return app
