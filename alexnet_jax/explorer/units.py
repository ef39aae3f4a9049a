"""What the units of convolutional layers respond to, and their kernels: the Units of web/src/contract.ts."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from alexnet_jax.data.images import to_square
from alexnet_jax.data.records import Images
from alexnet_jax.explorer import sprites, stages
from alexnet_jax.inference import activations, patches
from alexnet_jax.inference.network import Network
from alexnet_jax.inference.patches import Strongest
from alexnet_jax.interop import networks

PATCHES = 4  # of each unit
INPUTS = 6  # maps of the layer before, whose kernels are shown of each unit


def of_layers(network: Network, images: Images) -> Iterator[tuple[str, dict[str, Any]]]:
    """The name of each convolutional layer, and its Units, with patches of `images`.

    Raises DataError if none of the images can be read.
    """
    spec, plain = network.config.model, networks.folded(network)
    found = patches.strongest(network, tuple(name for name, _ in spec.convs()), images, PATCHES)
    for name, conv in spec.convs():
        by_unit = Strongest(*(column.reshape(len(column), -1).T for column in found[name]))  # [units, patches]
        side = sprites.side_of(patches.field(spec, name).size, len(by_unit.image))
        kernels, inputs = kernels_of(plain, name)
        yield (
            name,
            {
                "side": side,
                "patches": sprites.data_url(_patches(network, name, images, by_unit, side), side),
                "responses": [row[row > 0].round(3).tolist() for row in by_unit.response.astype(np.float64)],
                "kernelSide": conv.kernel,
                "kernels": sprites.data_url(kernels),
                "inputs": inputs,
            },
        )


def _patches(network: Network, name: str, images: Images, found: Strongest, side: int) -> np.ndarray:
    """The units' patches, in rows: [units * side, PATCHES * side, 3] uint8; grey where a unit does not respond."""
    spec, (units, count) = network.config.model, found.image.shape
    columns = activations.shapes(spec)[1][f"{name}_response"][1]
    sprite = np.full((units, side, PATCHES, side, 3), patches.GREY, np.uint8)
    pixels = np.empty((count, images.size, images.size, 3), np.uint8)
    for unit, (response, image, position) in enumerate(zip(*found, strict=True)):
        images.read(image, pixels)
        for column, crop in enumerate(network.centre_crop(pixels)):
            if response[column] > 0:
                place = divmod(int(position[column]), columns)
                sprite[unit, :, column] = to_square(patches.cut(crop, spec, name, place), side)
    return sprite.reshape(units * side, -1, 3)


def kernels_of(network: Network, name: str) -> tuple[np.ndarray, list[list[int]]]:
    """A layer's kernels, those of each unit in a row, and the maps that those of each row are for.

    Of conv1 in colour, and no maps. Of others, those of the INPUTS maps with the largest weights: grey is 0, black and
    white the largest weight of the unit. Those of the middle place, if each place has its own.
    """
    spec = network.config.model
    conv = dict(spec.convs())[name]
    if name == "conv1":
        colours = sprites.conv1(network)
        return colours.reshape(-1, *colours.shape[3:]), []
    rows, columns, _ = activations.shapes(spec)[1][f"{name}_response"]
    blocks = stages.by_tower(
        spec, name, np.asarray(network.params[name]["kernel"], np.float32)
    )  # [tower, places, source, C, F]
    towers, sources, channels, features = (blocks.shape[axis] for axis in (0, 2, 3, 4))
    blocks = blocks.reshape(towers, -1, conv.kernel, conv.kernel, sources * channels, features)
    middle = blocks[:, 0 if conv.shared else rows // 2 * columns + columns // 2].transpose(0, 4, 3, 1, 2)
    order = np.argsort(-(middle**2).sum(axis=(3, 4)), axis=2, kind="stable")[..., :INPUTS]  # [tower, F, INPUTS]
    shown = np.take_along_axis(middle, order[..., None, None], axis=2)
    largest = np.abs(shown).max(axis=(2, 3, 4), keepdims=True)
    grey = np.round(127.5 + 127.5 * shown / np.where(largest > 0, largest, 1)).astype(np.uint8)
    first = 0 if sources > 1 else np.arange(towers)[:, None, None] * channels  # maps of the tower's own
    sprite = grey.transpose(0, 1, 3, 2, 4).reshape(towers * features * conv.kernel, -1)
    return sprite, (order + first).reshape(towers * features, -1).tolist()
