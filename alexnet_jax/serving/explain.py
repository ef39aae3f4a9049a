"""What a network says of an image and why: its classes, the kernels that fired, where the evidence lies, and the
training images nearest to it."""

import base64
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import jax
import numpy as np

from alexnet_jax import sharding, steps
from alexnet_jax.data.datasets import split_of
from alexnet_jax.data.records import Images, Some
from alexnet_jax.errors import UserError
from alexnet_jax.inference import activations, feature_store, features
from alexnet_jax.paper import kernels
from alexnet_jax.run import checkpoint, workdir
from alexnet_jax.serving.batching import SIZES

VECTORS = "neighbours.npz"  # in the workdir: of the training images that are searched
GRID, SHARE = 7, 0.25  # places along a side that a square is laid on, and its side in parts of the image's
KERNELS, NEIGHBOURS, LARGE = 8, 6, 128  # of each tower; shown; pixels of a kernel's picture at least


class Served(NamedTuple):
    """A network with all that the page shows of it."""

    name: str
    step: int  # of training
    classes: list[str]
    size: int  # of stored images, pixels
    crop: int  # of what the network sees
    mean: np.ndarray  # [size, size, 3] uint8: the mean image, which says nothing
    predict: Callable[[np.ndarray], np.ndarray]  # [B, size, size, 3] uint8 -> [B, classes] log-probabilities, nats
    fired: Callable[[np.ndarray], np.ndarray] | None  # the same -> [B, tower, F]: the largest response of each kernel
    pictures: list[list[str]]  # of conv1's kernels, tower by tower
    features: Callable[[np.ndarray], np.ndarray]  # the same -> [B, units]
    searched: "Index | None"
    no_index: str  # why there is none


class Index(NamedTuple):
    """Training images that neighbours are sought among."""

    vectors: np.ndarray  # [N, units] float32
    places: list[int]  # of each among `images`
    images: Images
    layer: str


def open_served(directory: Path, data: str | None, most: int) -> Served:
    """The newest network of a workdir, ready to answer. `most` training images are searched, at most."""
    found = features.open_network(directory, None)
    finished, config = found.finished, found.finished.config
    spec = config.model
    mesh = sharding.make_mesh(1, 0, spec.towers)
    wanted = steps.abstract_state(config, mesh).params
    step, params = checkpoint.restore_params(directory / workdir.CHECKPOINTS, wanted)
    statistics = sharding.put(finished.statistics, mesh, sharding.REPLICATED)
    log_predict = steps.make_log_predict_step(config, mesh, 1)
    respond = activations.make_conv_step(config, mesh, ("conv1",)) if spec.conv1.shared else None

    def run(compiled: Callable, pixels: np.ndarray) -> Any:
        return jax.device_get(compiled(params, sharding.put(pixels, mesh, sharding.EXAMPLES), statistics))

    index, why = _index(directory, found, data, most) if most else (None, "it was asked for none (--neighbours_of 0)")
    return Served(
        directory.resolve().name,
        step,
        finished.classes,
        config.data.size,
        spec.image_size,
        np.clip(np.round(finished.statistics.mean_image), 0, 255).astype(np.uint8),
        lambda pixels: run(log_predict, pixels)[:, : len(finished.classes)],
        (lambda pixels: run(respond, pixels)["conv1"].max(axis=(2, 3))) if respond else None,
        _drawn(np.asarray(params["conv1"]["kernel"], np.float32)) if respond else [],
        found.features,
        index,
        why,
    )


def warm(served: Served) -> None:
    """Compiles all that requests will run."""
    for size in SIZES:
        served.predict(np.zeros((size, served.size, served.size, 3), np.uint8))
    one = np.zeros((1, served.size, served.size, 3), np.uint8)
    served.features(one)
    if served.fired:
        served.fired(one)


def _index(directory: Path, found: features.Network, data: str | None, most: int) -> tuple[Index | None, str]:
    try:
        dataset = workdir.open_data(found.finished, data)
        train = split_of(dataset, found.finished.config.data.train_split, "config.data.train_split")
    except UserError as error:
        if data is not None:
            raise
        return None, str(error)
    images: Images = Some(train, min(most, len(train.labels)))
    path = directory / VECTORS
    identity = f"{found.identity} {dataset.fingerprint} {len(images.labels)}"
    about = feature_store.About(found.layer, identity, found.finished.classes)
    with contextlib.suppress(FileNotFoundError, UserError):  # damaged, it is made again
        saved = feature_store.open_saved(path)
        if saved.about == about:
            places = [int(name) for name in saved.names]
            return Index(np.concatenate(list(saved.blocks())), places, images, found.layer), ""
    parts = list(features.of_images(found, images, found.finished.config.data.max_bad, {}))  # bad records are left out
    places = np.concatenate([part.places for part in parts]).tolist()
    found_features = np.concatenate([part.features for part in parts])
    feature_store.save(path, [feature_store.Named([str(place) for place in places], None, found_features)], about)
    return Index(found_features, places, images, found.layer), ""


def _drawn(kernel: np.ndarray) -> list[list[str]]:
    """conv1's kernels [tower, k, k, 3, F] as pictures, all in one range, as Figure 3 has them."""
    kernel = kernels.of_one_place(kernel, kernel.shape[1])
    scaled = np.round((kernel - kernel.min()) / ((np.ptp(kernel)) or 1) * 255).astype(np.uint8)
    factor = -(-LARGE // kernel.shape[1])
    return [
        [picture(one.repeat(factor, 0).repeat(factor, 1)) for one in tower.transpose(3, 0, 1, 2)] for tower in scaled
    ]


def picture(pixels: np.ndarray) -> str:
    """An image [H, W, 3] uint8 as a data URL."""
    content = cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()
    return "data:image/png;base64," + base64.b64encode(content).decode()


def centre(served: Served, pixels: np.ndarray) -> np.ndarray:
    """What the network sees of a stored image: [..., size, size, 3] -> [..., crop, crop, 3]."""
    start = (served.size - served.crop) // 2
    return pixels[..., start : start + served.crop, start : start + served.crop, :]


def covered(served: Served, pixels: np.ndarray) -> np.ndarray:
    """The image [size, size, 3] with a square of the mean image at each of GRID x GRID places of what is seen:
    [GRID * GRID, size, size, 3]. What the network then believes less tells what was below the square."""
    side = max(1, round(SHARE * served.crop))
    start, room = (served.size - served.crop) // 2, served.crop - side
    found = np.repeat(pixels[None], GRID * GRID, axis=0)
    for place in range(GRID * GRID):
        row, column = (start + round(of * room / (GRID - 1)) for of in divmod(place, GRID))
        square = (slice(row, row + side), slice(column, column + side))
        found[place][square] = served.mean[square]
    return found


def strongest(served: Served, pixels: np.ndarray) -> list[list[tuple[int, float]]]:
    """The kernels of conv1 with the largest responses to an image, tower by tower: (kernel, response)."""
    if served.fired is None:
        return []
    (towers,) = served.fired(pixels[None])
    best = np.argsort(-towers, axis=1, kind="stable")[:, :KERNELS]
    return [[(int(k), float(responses[k])) for k in row] for row, responses in zip(best, towers, strict=True)]


def neighbours(served: Served, pixels: np.ndarray) -> list[tuple[int, float]]:
    """The nearest training images: (place among `index.images`, Euclidean distance)."""
    if served.searched is None:
        return []
    known = served.searched.vectors
    blocks = (known[start : start + feature_store.ROWS] for start in range(0, len(known), feature_store.ROWS))
    rows, distances = feature_store.nearest(served.features(pixels[None]), blocks, min(NEIGHBOURS, len(known)))
    return [(served.searched.places[row], apart) for row, apart in zip(rows[0], distances[0].tolist(), strict=True)]
