"""The page and its JSON endpoints, and what every request passes before them."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import jinja2
import numpy as np
from fastapi import FastAPI, File, Form, HTTPException, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, Field
from starlette.middleware.trustedhost import TrustedHostMiddleware

from alexnet_jax.data.images import GZIP_MAGIC, CorruptImage, claimed_pixels, stored_pixels
from alexnet_jax.inference import predictions
from alexnet_jax.serving import explain
from alexnet_jax.serving.batching import Batcher, Budget
from alexnet_jax.serving.explain import Kernel, Neighbour, Served

BEST = 5  # classes in an answer
LOOPBACK = ("127.0.0.1", "localhost", "::1")
HEADERS = {
    b"content-security-policy": b"default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
    b"script-src 'self' 'unsafe-inline'; frame-ancestors 'none'",
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


class Explanation(BaseModel):
    name: str = Field(description="name of the file")
    crop: str = Field(description="picture of the centre crop, the network's input")
    top: list[Scored]
    label: str = Field(description="the class that the evidence is for")
    evidence: list[list[float]] = Field(
        description="rows of squares: how far the log probability of the class falls if that square is covered, nats"
    )
    square: float = Field(description="side of a square, as a share of the crop's")
    kernels: list[list[Kernel]] = Field(description="for each tower, the kernels of conv1 that respond most strongly")
    neighbours: list[Neighbour] = Field(description="the nearest training images, nearest first")
    no_neighbours: str = Field(description="why there are none")


class Health(BaseModel):
    network: str
    step: int
    classes: int
    images: int = Field(description="images classified so far")
    passes: int = Field(description="passes of the network that they took")


Images = Annotated[list[UploadFile], File(description="one image or several")]
Label = Annotated[str | None, Form(description="the class to show evidence for (default: the best)")]
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

    async def explain(self, image: Annotated[UploadFile, File()], label: Label = None) -> Explanation:
        """The best classes of an image, and why: evidence, kernels, neighbours."""
        net, name = self.served.net, image.filename or "image"
        if label is not None and label not in net.classes:
            raise HTTPException(422, f"there is no class {label}")
        try:
            pixels = await self._pixels(image)
        except CorruptImage as error:
            raise HTTPException(422, f"{name}: {error}") from None
        copies = explain.covered(pixels, net.statistics.mean_image, net.config.model.image_size)
        kernels, neighbours, (whole, *covered) = await asyncio.gather(
            run_in_threadpool(explain.strongest_kernels, self.served, pixels),
            run_in_threadpool(explain.neighbours, self.served, pixels),
            asyncio.gather(*map(self.batcher.ask, (pixels, *copies))),
        )
        target = int(whole.argmax()) if label is None else net.classes.index(label)
        lost = whole[target] - np.array([log_probabilities[target] for log_probabilities in covered])
        return Explanation(
            name=name,
            crop=explain.picture(net.centre_crop(pixels)),
            top=self._top(whole),
            label=net.classes[target],
            evidence=lost.reshape(explain.GRID, explain.GRID).tolist(),
            square=explain.SHARE,
            kernels=kernels,
            neighbours=neighbours,
            no_neighbours=self.served.searched if isinstance(self.served.searched, str) else "",
        )

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
    batcher = Batcher(served.log_probabilities)

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

    loader = jinja2.PackageLoader("alexnet_jax", "serving")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.get_template("page.html.j2").render(net=served.net, limits=limits)
    app.get("/", response_class=HTMLResponse, include_in_schema=False)(lambda: page)
    endpoints = Endpoints(served, batcher, Budget(limits.max_pixels), limits)
    app.get("/api/health")(endpoints.health)
    app.post("/api/predict", responses=PROBLEMS)(endpoints.predict)
    app.post("/api/explain", responses=PROBLEMS)(endpoints.explain)
    return app
