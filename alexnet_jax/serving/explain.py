"""Why the network classifies an image as it does: where the evidence lies, which kernels respond, and which training
images are nearest to it."""

import base64
import contextlib
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from alexnet_jax.data.datasets import split_of
from alexnet_jax.data.records import Images, spread
from alexnet_jax.errors import UserError
from alexnet_jax.inference import activations, feature_store, network
from alexnet_jax.inference.feature_store import About, Named
from alexnet_jax.inference.network import Network
from alexnet_jax.inference.predictions import best
from alexnet_jax.run import kernel_images
from alexnet_jax.serving.batching import SIZES

VECTORS = "neighbours.npz"  # in the workdir: the vectors of the training images that are searched
GRID, SHARE = 7, 0.25  # covered squares along each side, and their side as a share of the crop's
KERNELS, NEIGHBOURS = 8, 6  # shown: of each tower; in all
LARGE = 128  # pixels: the least side of a kernel's picture


class Index(NamedTuple):
    """The training images that are searched for neighbours."""

    vectors: np.ndarray  # [N, units] float32
    rows: list[int]  # the index of each in `images`
    images: Images


class Served(NamedTuple):
    """A network with what the page shows of it."""

    net: Network
    kernels: list[list[str]]  # tower -> pictures of conv1's kernels; none if every place has kernels of its own
    searched: Index | None
    no_index: str  # why there is none

    def log_probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """[B, size, size, 3] uint8 -> [B, classes] float32, nats."""
        return self.net.ask(self.net.log_predict(1), pixels)[:, : len(self.net.classes)]


def open_served(directory: Path, data: str | None, most: int) -> Served:
    """The newest network in a workdir, with at most `most` training images to search for neighbours."""
    net = network.open_workdir(directory)
    kernels: list[list[str]] = []
    if net.config.model.conv1.shared:
        kernel = np.asarray(net.params["conv1"]["kernel"], np.float32)
        factor = -(-LARGE // kernel.shape[1])
        kernels = [
            [picture(image.repeat(factor, 0).repeat(factor, 1)) for image in tower]
            for tower in kernel_images.as_images(kernel)
        ]
    index, why = _index(net, data, most) if most else (None, "the server was started with --neighbours_of 0")
    return Served(net, kernels, index, why)


def warm_up(served: Served) -> None:
    """Compile all programs that requests will run."""
    size = served.net.config.data.size
    for count in SIZES:
        served.log_probabilities(np.zeros((count, size, size, 3), np.uint8))
    black = np.zeros((size, size, 3), np.uint8)
    strongest_kernels(served, black)
    neighbours(served, black)


def _index(net: Network, data: str | None, most: int) -> tuple[Index | None, str]:
    try:
        dataset = net.dataset(data)
        train = split_of(dataset, net.config.data.train_split, "config.data.train_split")
    except UserError as error:
        if data is not None:
            raise
        return None, str(error)
    images = spread(train, min(most, len(train.labels)))
    origin = f"{net.identity} {dataset.fingerprint} {len(images.labels)}"
    about = About(activations.layer_of(net.config, None), origin, net.classes)
    path = net.path / VECTORS
    with contextlib.suppress(FileNotFoundError, UserError):  # a damaged file is written again
        saved = feature_store.open_saved(path)
        if saved.about == about:
            return Index(np.concatenate(list(saved.blocks())), [int(name) for name in saved.names], images), ""
    parts = [(part.example, part.result) for part in net.over(images, net.features_step(None), bad={})]
    rows, vectors = (np.concatenate(column) for column in zip(*parts, strict=True))
    feature_store.save(path, [Named([str(row) for row in rows], None, vectors)], about)
    return Index(vectors, rows.tolist(), images), ""


def picture(pixels: np.ndarray) -> str:
    """An image [H, W, 3] uint8 as a data URL."""
    content = cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()
    return "data:image/png;base64," + base64.b64encode(content).decode()


def covered(pixels: np.ndarray, mean_image: np.ndarray, crop: int) -> np.ndarray:
    """Copies of an image, each with another square of its centre crop covered by the mean image.

    Where the network becomes less sure of a class, the square covers evidence for it.

    Args:
        pixels: [size, size, 3] uint8.
        mean_image: the same shape, float32.
        crop: height and width of the centre crop, pixels.

    Returns:
        [GRID * GRID, size, size, 3] uint8, row by row.
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


def strongest_kernels(served: Served, pixels: np.ndarray) -> list[list[tuple[int, float]]]:
    """Tower -> the kernels of conv1 with the largest responses anywhere in an image, and these responses."""
    if not served.kernels:
        return []
    (towers,) = served.net.ask(served.net.responses_step(("conv1",)), pixels[None])["conv1"].max(axis=(2, 3))
    return [[(kernel, float(responses[kernel])) for kernel in best(responses, KERNELS)] for responses in towers]


def neighbours(served: Served, pixels: np.ndarray) -> list[tuple[int, float]]:
    """The index in `served.searched.images` and the Euclidean distance of the training images nearest to an image."""
    if served.searched is None:
        return []
    vectors, rows = served.searched.vectors, served.searched.rows
    query = served.net.ask(served.net.features_step(None), pixels[None])
    blocks = (vectors[start : start + feature_store.ROWS] for start in range(0, len(vectors), feature_store.ROWS))
    (nearest,), (distances,) = feature_store.nearest(query, blocks, min(NEIGHBOURS, len(vectors)))
    return [(rows[i], distance) for i, distance in zip(nearest.tolist(), distances.tolist(), strict=True)]
