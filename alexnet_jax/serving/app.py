"""The page and its JSON endpoints."""

import asyncio
import contextlib
import importlib.resources
import threading
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import jinja2
import numpy as np
from fastapi import FastAPI, File, Form, HTTPException, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse, JSONResponse
from pydantic import BaseModel, Field
from starlette.middleware.trustedhost import TrustedHostMiddleware

from alexnet_jax.data.blocks import stored_pixels
from alexnet_jax.data.images import GZIP_MAGIC, CorruptImage
from alexnet_jax.serving import explain
from alexnet_jax.serving.batching import Batcher, Busy
from alexnet_jax.serving.explain import Served
from alexnet_jax.serving.guard import Guard

BEST = 5
ROOM = threading.BoundedSemaphore(4)  # images decoded or searched for at a time: each may take 200 MB
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Limits(BaseModel):
    max_bytes: int  # of a request
    max_images: int  # of a request
    max_pixels: int  # of an image


class Scored(BaseModel):
    name: str = Field(description="of the class")
    probability: float


class Prediction(BaseModel):
    name: str = Field(description="of the file")
    top: list[Scored] = Field(description="the best classes, the best first; none if the image cannot be read")
    error: str | None = Field(description="why it cannot be read")


class Kernel(BaseModel):
    kernel: int = Field(description="its place in its tower")
    response: float = Field(description="its largest anywhere in the image, before the activation")
    picture: str = Field(description="a data URL, as all pictures")


class Neighbour(BaseModel):
    name: str = Field(description="of its class")
    distance: float = Field(description="Euclidean, in the last hidden layer")
    picture: str


class Explanation(BaseModel):
    name: str
    seen: str = Field(description="a picture of what the network sees: the centre crop")
    top: list[Scored]
    of: str = Field(description="the class that the evidence is for")
    evidence: list[list[float]] = Field(
        description="rows of places: by how many nats the logarithm of its probability falls if a square is covered"
    )
    square: float = Field(description="its side in parts of the picture's")
    kernels: list[list[Kernel]] = Field(description="those of conv1 that fired, tower by tower")
    neighbours: list[Neighbour]
    no_neighbours: str = Field(description="why there are none")


class Health(BaseModel):
    network: str
    step: int
    classes: int
    images: int = Field(description="that the network was asked about so far")
    passes: int = Field(description="of the network that took")


Images = Annotated[list[UploadFile], File(description="one image or several")]
Problem = dict[int | str, dict[str, Any]]
PROBLEMS: Problem = {
    413: {"description": "the request is larger, or has more images, than allowed"},
    422: {"description": "no image was sent, or none of them can be read"},
    503: {"description": "too many images are waiting"},
}


def make_app(served: Served, limits: Limits, host: str, ready: Callable[[], None]) -> FastAPI:
    """The application; `ready` is called once it answers. On a loopback `host` only its own names are answered."""
    batcher = Batcher(served.predict)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        worker = asyncio.create_task(batcher.work())
        ready()
        yield
        worker.cancel()

    about = "What a network trained with alexnet_jax says of images."
    app = FastAPI(
        title=f"alexnet_jax: {served.name}", description=about, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.add_middleware(Guard, max_bytes=limits.max_bytes)
    if host in LOOPBACK:  # else a page of another site could reach it under a name of its own
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]"])

    @app.exception_handler(Busy)
    async def _busy(*_: Any) -> JSONResponse:
        return JSONResponse({"detail": "too many images are waiting; try again"}, 503, {"retry-after": "1"})

    text = importlib.resources.files("alexnet_jax.serving").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(text).render(served=served, limits=limits)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def _page() -> str:
        return page

    @app.get("/api/health")
    async def health() -> Health:
        """What is served, and how many passes the network took for how many images."""
        return Health(
            network=served.name,
            step=served.step,
            classes=len(served.classes),
            images=batcher.images,
            passes=batcher.passes,
        )

    @app.post("/api/predict", responses=PROBLEMS)
    async def predict(images: Images) -> list[Prediction]:
        """The best classes of each image. One that cannot be read has an `error`; if none can, the answer is 422."""
        if len(images) > limits.max_images:
            raise HTTPException(413, f"{len(images)} images are more than {limits.max_images}")
        found = await asyncio.gather(*(_predicted(served, batcher, limits, one) for one in images))
        if all(one.error for one in found):
            raise HTTPException(422, "; ".join(f"{one.name}: {one.error}" for one in found))
        return found

    @app.post("/api/explain", responses=PROBLEMS)
    async def explained(
        image: Annotated[UploadFile, File()],
        of: Annotated[str | None, Form(description="the class to show evidence for; else the best")] = None,
    ) -> Explanation:
        """The best classes of an image, and why: evidence, kernels, neighbours."""
        if of is not None and of not in served.classes:
            raise HTTPException(422, f"there is no class {of}")
        try:
            pixels = await _pixels(served, limits, image)
        except CorruptImage as error:
            raise HTTPException(422, f"{image.filename or 'image'}: {error}") from None
        return await _explained(served, batcher, pixels, image.filename or "image", of)

    return app


async def _pixels(served: Served, limits: Limits, image: UploadFile) -> np.ndarray:
    """Raises CorruptImage."""
    content = await image.read()
    if content.startswith(GZIP_MAGIC):  # `prepare` takes it, but a small one may unpack to anything
        raise CorruptImage("packed with gzip")
    pixels, _ = await run_in_threadpool(_in_turn, stored_pixels, content, served.size, limits.max_pixels)
    return pixels


def _in_turn(work: Callable[..., Any], *arguments: Any) -> Any:
    with ROOM:
        return work(*arguments)


async def _predicted(served: Served, batcher: Batcher, limits: Limits, image: UploadFile) -> Prediction:
    name = image.filename or "image"
    try:
        log_probabilities = await batcher.ask(await _pixels(served, limits, image))
    except CorruptImage as error:
        return Prediction(name=name, top=[], error=str(error))
    return Prediction(name=name, top=_top(served, log_probabilities), error=None)


def _top(served: Served, log_probabilities: np.ndarray) -> list[Scored]:
    best = np.argsort(-log_probabilities, kind="stable")[:BEST].tolist()
    return [Scored(name=served.classes[k], probability=float(np.exp(log_probabilities[k]))) for k in best]


async def _explained(served: Served, batcher: Batcher, pixels: np.ndarray, name: str, of: str | None) -> Explanation:
    asked = asyncio.gather(*(batcher.ask(image) for image in (pixels, *explain.covered(served, pixels))))
    fired, near, (whole, *covered) = await asyncio.gather(
        run_in_threadpool(explain.strongest, served, pixels),
        run_in_threadpool(_in_turn, explain.neighbours, served, pixels),
        asked,
    )
    label = int(whole.argmax()) if of is None else served.classes.index(of)
    lost = whole[label] - np.array([one[label] for one in covered])
    return Explanation(
        name=name,
        seen=explain.picture(explain.centre(served, pixels)),
        top=_top(served, whole),
        of=served.classes[label],
        evidence=lost.reshape(explain.GRID, explain.GRID).tolist(),
        square=explain.SHARE,
        kernels=[
            [Kernel(kernel=k, response=response, picture=pictures[k]) for k, response in tower]
            for tower, pictures in zip(fired, served.pictures, strict=True)
        ],
        neighbours=await run_in_threadpool(_neighbours, served, near),
        no_neighbours=served.no_index,
    )


def _neighbours(served: Served, near: list[tuple[int, float]]) -> list[Neighbour]:
    found = []
    for place, distance in near:
        assert served.searched is not None
        images = served.searched.images
        pixels = np.empty((1, served.size, served.size, 3), np.uint8)
        images.read(np.array([place]), pixels)
        name = served.classes[images.labels[place]]
        found.append(
            Neighbour(name=name, distance=distance, picture=explain.picture(explain.centre(served, pixels[0])))
        )
    return found
