"""The patches of images to which the units of convolutional layers respond most strongly."""

from typing import NamedTuple

import jax
import numpy as np

from alexnet_jax.data.records import Images
from alexnet_jax.inference.network import Bad, Network
from alexnet_jax.model_config import Model

GREY = 128  # where a receptive field extends beyond the image


def receptive_field(spec: Model, layer: str, position: int, clipped: bool = True) -> tuple[int, int]:
    """The first and last pixel, along one axis, on which the response of `layer` at `position` depends.

    Unless clipped, the field may extend beyond the image, and includes what padding adds to it.
    """
    operations, side = [], spec.image_size  # from the image to the layer: (window, stride, padding, input's side)
    for name, conv in spec.convs():
        operations.append((conv.kernel, conv.stride, conv.padding[0], side))
        if name == layer:
            break
        side = (side + sum(conv.padding) - conv.kernel) // conv.stride + 1
        for operation in conv.then:
            if operation == "pool":
                operations.append((spec.pool.window, spec.pool.stride, 0, side))
                side = spec.pool.output(side)
            elif operation == "map_norm":
                operations.append((spec.map_norm.n, 1, spec.map_norm.n // 2, side))
    first = last = position
    for window, stride, padding, side in reversed(operations):
        first, last = first * stride - padding, last * stride - padding + window - 1
        if clipped:  # padding is zero whatever the image
            first, last = max(first, 0), min(last, side - 1)
    return first, last


class Field(NamedTuple):
    """The receptive fields of a layer's responses, along one axis."""

    size: int  # pixels
    stride: int  # pixels from one to the next
    start: int  # first pixel of the first, below 0 where padding comes first


def field(spec: Model, layer: str) -> Field:
    """The receptive fields of a convolutional layer, not clipped."""
    (first, last), (second, _) = (receptive_field(spec, layer, position, clipped=False) for position in (0, 1))
    return Field(last - first + 1, second - first, first)


class Strongest(NamedTuple):
    """The images to which each unit of a layer responds most strongly, the strongest first."""

    response: np.ndarray  # [patches, tower, units] float32: the highest in the image
    image: np.ndarray  # [patches, tower, units] indices of images
    position: np.ndarray  # [patches, tower, units] of that response in the layer's map, row by row


def strongest(
    network: Network, layers: tuple[str, ...], images: Images, patches: int, bad: Bad | None = None
) -> dict[str, Strongest]:
    """Find, for each unit of the layers, the `patches` images to which it responds most strongly, or all if fewer.

    Damaged images are left out, and reported as `Network.over` does. Raises DataError if none can be read.
    """
    respond = network.activations_step("response", layers)

    @jax.jit
    def highest(params, image, statistics):
        """Each image's highest response and where it is: {layer: two of [B, tower, units]}."""
        maps = respond(params, image, statistics)
        flat = {name: x.reshape(*x.shape[:2], -1, x.shape[-1]) for name, x in maps.items()}
        return {name: (x.max(axis=2), x.argmax(axis=2)) for name, x in flat.items()}

    found: dict[str, Strongest] = {}
    for part in network.over(images, highest, max_bad=1.0, bad=bad):
        for name, (response, position) in part.result.items():
            image = np.broadcast_to(part.example[:, None, None], response.shape)
            columns: tuple[np.ndarray, ...] = (response, image, position)
            if name in found:
                columns = tuple(map(np.concatenate, zip(found[name], columns, strict=True)))
            order = np.argsort(-columns[0], axis=0, kind="stable")[:patches]
            found[name] = Strongest(*(np.take_along_axis(column, order, axis=0) for column in columns))
    return found


def cut(image: np.ndarray, spec: Model, layer: str, position: tuple[int, int]) -> np.ndarray:
    """Cut the receptive field of `layer` at `position` out of an image [S, S, 3] uint8; grey beyond its edges."""
    (top, bottom), (left, right) = (receptive_field(spec, layer, i, clipped=False) for i in position)
    margin = max(-min(top, left), max(bottom, right) + 1 - len(image), 0)
    padded = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), constant_values=GREY)
    return padded[margin + top : margin + bottom + 1, margin + left : margin + right + 1]
