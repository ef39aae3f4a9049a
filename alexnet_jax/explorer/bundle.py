"""The images that an explorer shows: patches that units respond to, nearest training images, examples to try."""

import base64
import contextlib
import json
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.data.files import replacing
from alexnet_jax.data.images import to_square
from alexnet_jax.data.records import Images, spread
from alexnet_jax.errors import UserError, keeping
from alexnet_jax.explorer import sprites, stages, units
from alexnet_jax.explorer.description import FORMAT
from alexnet_jax.inference import activations
from alexnet_jax.inference.network import Network
from alexnet_jax.run import pictures, run_data

KEPT = "explorer.json"  # in the workdir: the bundle made last
NEIGHBOURS = 500  # most training images whose likeness to an image is shown
THUMBNAIL, COLUMNS = 64, 20  # most of their sides, pixels; in a row of the sprite
EXAMPLES = 10
LARGE = 128  # pixels from which examples are JPEGs


class Bundle(NamedTuple):
    files: dict[str, Any]  # name -> value, as in web/src/contract.ts
    described: dict[str, Any]  # the parts of a Description that belong to them
    missing: str  # why there are no images; "" if there are


def of_network(network: Network, data: str | None, most: int) -> Bundle:
    """The images for a network, from its data or that in the folder `data`, with `most` training images searched.

    It is kept in a workdir that can be written, and used again for the same network, data and number. There are no
    images if `most` is 0, or the data is missing and none was given. Raises UserError if what was given is no data of
    the network, DataError if none of the images can be read.
    """
    nothing = {"examples": [], "units": 0, "searched": 0, "neighbours": 0}
    if not most:
        return Bundle({}, nothing, "no image of the data was asked for")
    try:
        dataset = network.dataset(data)
        train, examples = (
            run_data.images(dataset, network.config, getattr(network.config.data, kind), f"config.data.{kind}")
            for kind in ("train_split", "eval_split")
        )
    except UserError as error:
        if data is not None:
            raise
        return Bundle({}, nothing, str(error))
    train = spread(train, min(most, len(train.labels)))
    path, origin = network.path / KEPT, f"{FORMAT} {network.identity} {dataset.fingerprint} {len(train.labels)}"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # a damaged file is written again
        saved = json.loads(path.read_text())
        if saved["origin"] == origin:
            return Bundle(saved["files"], saved["described"], "")
    files = {f"units/{name}": value for name, value in units.of_layers(network, train)}
    files["neighbours"] = _neighbours(network, spread(train, min(NEIGHBOURS, len(train.labels))))
    counts = {"units": units.PATCHES, "searched": len(train.labels), "neighbours": len(files["neighbours"]["labels"])}
    described = {"examples": _examples(network, examples), **counts}
    with keeping(path), replacing(path) as temporary:
        temporary.write_text(json.dumps({"origin": origin, "files": files, "described": described}))
    return Bundle(files, described, "")


def _neighbours(network: Network, images: Images) -> dict[str, Any]:
    """The Neighbours of web/src/contract.ts. Raises DataError if none of the images can be read."""
    spec = network.config.model
    (layer,) = activations.layers_of(network.config, None)
    channels, *sides = list(stages.shapes(spec)[layer].values())[-1]
    parts = list(network.over(images, network.features_step(None), max_bad=1.0))
    features = np.concatenate([part.result for part in parts])
    if sides:  # in the order of the program's outputs
        maps = features.reshape(-1, spec.towers, *sides, channels // spec.towers)
        features = maps.transpose(0, 1, 4, 2, 3).reshape(len(maps), -1)
    limit = np.finfo(np.float16).max
    side = sprites.side_of(spec.image_size, -(-len(features) // COLUMNS), THUMBNAIL)
    thumbnails = [to_square(crop, side) for part in parts for crop in network.centre_crop(part.image)]
    return {
        "side": side,
        "columns": COLUMNS,
        "pictures": sprites.data_url(pictures.mosaic(np.stack(thumbnails), COLUMNS, gap=0), side),
        "labels": np.concatenate([part.label for part in parts]).tolist(),
        "layer": layer,
        "vectors": base64.b64encode(features.clip(-limit, limit).astype("<f2").tobytes()).decode(),
    }


def _examples(network: Network, images: Images) -> list[dict[str, str]]:
    """The first image of each of EXAMPLES classes, or of all if there are fewer."""
    present, first = np.unique(images.labels, return_index=True)
    count = min(EXAMPLES, len(present))
    chosen = first[np.arange(count) * len(present) // count]
    pixels = np.empty((count, images.size, images.size, 3), np.uint8)
    bad = images.read(chosen, pixels)
    side = images.size if images.size >= LARGE else 0
    return [
        {"picture": sprites.data_url(pixels[row], side), "label": network.classes[images.labels[i]]}
        for row, i in enumerate(chosen)
        if row not in bad
    ]
