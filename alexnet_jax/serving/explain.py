"""Why the network classifies an image as it does: where the evidence lies, which kernels respond, and which training
images are nearest to it."""

import base64
import contextlib
import threading
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from pydantic import BaseModel, Field

from alexnet_jax.data import arrays
from alexnet_jax.data.datasets import split_of
from alexnet_jax.data.files import replacing
from alexnet_jax.data.records import Images, Subset, spread
from alexnet_jax.errors import UserError, keeping
from alexnet_jax.inference import feature_store, network
from alexnet_jax.inference.network import Network
from alexnet_jax.inference.predictions import best
from alexnet_jax.run import pictures
from alexnet_jax.serving.batching import SIZES

VECTORS = "neighbours.npz"  # in the workdir: the vectors of the training images that are searched
GRID, SHARE = 7, 0.25  # covered squares along each side, and their side as a share of the crop's
KERNELS, NEIGHBOURS = 8, 6  # shown: of each tower; in all
LARGE = 128  # pixels: the least side of a kernel's picture
SEARCHES = threading.BoundedSemaphore(4)  # at a time: each may take 200 MB


class Kernel(BaseModel):
    kernel: int = Field(description="index of the kernel in its tower")
    response: float = Field(description="its largest response anywhere in the image, before the activation")
    picture: str = Field(description="data URL, as all pictures")


class Neighbour(BaseModel):
    name: str = Field(description="name of its class")
    distance: float = Field(description="Euclidean distance in the last hidden layer")
    picture: str


Index = tuple[np.ndarray, Images]  # vectors [N, units] float32 of training images, and these N


class Served(NamedTuple):
    """A network with what the page shows of it."""

    net: Network
    kernels: list[list[str]]  # tower -> pictures of conv1's kernels; none if every place has kernels of its own
    searched: Index | str  # for neighbours, or why not

    def log_probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """[B, size, size, 3] uint8 -> [B, classes] float32, nats."""
        return self.net.ask(self.net.log_predict(1), pixels)[:, : len(self.net.classes)]


def open_served(directory: Path, data: str | None, most: int) -> Served:
    """The newest network in a workdir, compiled, with at most `most` training images to search for neighbours."""
    net = network.open_workdir(directory)
    kernels: list[list[str]] = []
    if net.config.model.conv1.shared:
        images = pictures.as_images(np.asarray(net.params["conv1"]["kernel"], np.float32))
        factor = -(-LARGE // images.shape[2])
        kernels = [[picture(image) for image in tower] for tower in images.repeat(factor, 2).repeat(factor, 3)]
    searched = _index(net, data, most) if most else "the server was started with --neighbours_of 0"
    served = Served(net, kernels, searched)
    black = np.zeros((max(SIZES), net.config.data.size, net.config.data.size, 3), np.uint8)
    for count in SIZES:
        served.log_probabilities(black[:count])
    strongest_kernels(served, black[0])
    neighbours(served, black[0])
    return served


def _index(net: Network, data: str | None, most: int) -> Index | str:
    try:
        dataset = net.dataset(data)
        train = split_of(dataset, net.config.data.train_split, "config.data.train_split")
    except UserError as error:
        if data is not None:
            raise
        return str(error)
    images = spread(train, min(most, len(train.labels)))
    origin = f"{net.identity} {dataset.fingerprint} {len(images.labels)}"
    path = net.path / VECTORS
    with contextlib.suppress(OSError, ValueError, KeyError):  # a damaged file is written again
        saved = arrays.zipped(path, ("origin", "rows", "vectors"))
        if str(saved["origin"]) == origin:
            return saved["vectors"], Subset(images, saved["rows"])
    parts = [(part.example, part.result) for part in net.over(images, net.features_step(None), bad={})]
    rows, vectors = (np.concatenate(column) for column in zip(*parts, strict=True))
    with keeping(path), replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, origin=origin, rows=rows, vectors=vectors)
    return vectors, Subset(images, rows)


def picture(pixels: np.ndarray) -> str:
    """An image [H, W, 3] uint8 as a data URL."""
    content = cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()
    return "data:image/png;base64," + base64.b64encode(content).decode()


def covered(pixels: np.ndarray, mean_image: np.ndarray, crop: int) -> np.ndarray:
    """Copies of an image, each with another square of its centre crop, of side `crop`, covered by the mean image.

    [size, size, 3] uint8 -> [GRID * GRID, size, size, 3] uint8, row by row. A square that covers evidence for a class
    makes the network less sure of it.
    """
    mean = np.clip(np.round(mean_image), 0, 255).astype(np.uint8)
    side = max(1, round(SHARE * crop))
    start, room = (len(pixels) - crop) // 2, crop - side
    copies = np.repeat(pixels[None], GRID * GRID, axis=0)
    for place, copy in enumerate(copies):
        row, column = (start + round(step * room / (GRID - 1)) for step in divmod(place, GRID))
        square = (slice(row, row + side), slice(column, column + side))
        copy[square] = mean[square]
    return copies


def strongest_kernels(served: Served, pixels: np.ndarray) -> list[list[Kernel]]:
    """Tower -> the kernels of conv1 with the largest responses anywhere in an image."""
    if not served.kernels:
        return []
    step = served.net.activations_step("response", ("conv1",))
    (towers,) = served.net.ask(step, pixels[None])["conv1"].max(axis=(2, 3))
    return [
        [Kernel(kernel=k, response=float(responses[k]), picture=pictures[k]) for k in best(responses, KERNELS)]
        for responses, pictures in zip(towers, served.kernels, strict=True)
    ]


def neighbours(served: Served, pixels: np.ndarray) -> list[Neighbour]:
    """The training images nearest to an image."""
    if isinstance(served.searched, str):
        return []
    net, (vectors, images) = served.net, served.searched
    with SEARCHES:
        query = net.ask(net.features_step(None), pixels[None])
        blocks = (vectors[start : start + feature_store.ROWS] for start in range(0, len(vectors), feature_store.ROWS))
        (nearest,), (distances,) = feature_store.nearest(query, blocks, NEIGHBOURS)
        stored = np.empty((len(nearest), *pixels.shape), np.uint8)
        images.read(nearest, stored)
    shown = zip(images.labels[nearest], distances, net.centre_crop(stored), strict=True)
    return [Neighbour(name=net.classes[label], distance=d, picture=picture(crop)) for label, d, crop in shown]
