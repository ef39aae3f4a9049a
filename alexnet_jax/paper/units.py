"""What single units of conv3 and conv5 respond to most."""

from typing import NamedTuple

import numpy as np

from alexnet_jax.inference import activations
from alexnet_jax.model_config import Model
from alexnet_jax.paper import figures
from alexnet_jax.paper.figures import Block, Picture, Section, Text
from alexnet_jax.paper.images import Network, centre, over, read, sample

LAYERS = ("conv3", "conv5")
UNITS, PATCHES = 8, 6  # of each tower; of each unit
MOST_IMAGES = 2000
GREY = 128  # where a receptive field hangs over the image


def receptive_field(spec: Model, layer: str, place: int, clipped: bool = True) -> tuple[int, int]:
    """First and last pixel of the image, along one axis, that the response of `layer` at `place` depends on.

    Not clipped, the field may hang over the image and what padding adds to it.
    """
    sides, side, operations = [], spec.image_size, []  # from the image to the layer: (window, stride, padding, input)
    for name, conv in spec.convs():
        operations.append((conv.kernel, conv.stride, conv.padding[0]))
        sides.append(side)
        side = (side + sum(conv.padding) - conv.kernel) // conv.stride + 1
        if name == layer:
            break
        for kind in conv.then:
            if kind == "pool":
                operations.append((spec.pool.window, spec.pool.stride, 0))
                sides.append(side)
                side = spec.pool.output(side)
            elif kind == "map_norm":
                operations.append((spec.map_norm.n, 1, spec.map_norm.n // 2))
                sides.append(side)
    first = last = place
    for (window, stride, padding), side in zip(reversed(operations), reversed(sides), strict=True):
        first, last = first * stride - padding, last * stride - padding + window - 1
        if clipped:  # what lies beyond does not exist: it is zero for every image
            first, last = max(first, 0), min(last, side - 1)
    return first, last


class Best(NamedTuple):
    """For each unit its best images, best first, each with the place of its highest response in it."""

    units: np.ndarray  # [units] numbers of the units within their tower, the same in every tower
    image: np.ndarray  # [tower, units, patches] indices of images
    place: np.ndarray  # [tower, units, patches, 2] row and column in the layer


def best(network: Network, layers: tuple[str, ...], index: np.ndarray) -> dict[str, Best]:
    """For each layer the images, among `index`, to which its units respond most."""
    step = activations.make_conv_step(network.config, network.mesh, layers)
    _, shapes = activations.shapes(network.config.model)
    units = {}
    for name in layers:
        count = shapes[f"{name}_response"][-1]
        units[name] = np.unique(np.linspace(0, count - 1, min(UNITS, count)).astype(int))
    parts: dict[str, list] = {name: [] for name in layers}
    for sound, responses in over(network, step, network.evaluation, index):
        for name in layers:
            chosen = responses[name][..., units[name]]  # [n, tower, H, W, units]
            flat = chosen.reshape(*chosen.shape[:2], -1, chosen.shape[-1])
            parts[name].append((sound, flat.max(axis=2), flat.argmax(axis=2)))  # the latter two [n, tower, units]
    found = {}
    for name in layers:
        images, highest, places = (np.concatenate(each) for each in zip(*parts[name], strict=True))
        order = np.argsort(-highest, axis=0, kind="stable")[:PATCHES]
        rows, columns = np.divmod(np.take_along_axis(places, order, axis=0), shapes[f"{name}_response"][1])
        place = np.moveaxis(np.stack([rows, columns], axis=-1), 0, 2)
        found[name] = Best(units[name], np.moveaxis(images[order], 0, 2), place)
    return found


def cut(image: np.ndarray, spec: Model, layer: str, place: tuple[int, int]) -> np.ndarray:
    """The receptive field of `layer` at `place` out of image [S, S, 3] uint8; grey where it hangs over."""
    (top, bottom), (left, right) = (receptive_field(spec, layer, i, clipped=False) for i in place)
    patch = np.full((bottom - top + 1, right - left + 1, 3), GREY, np.uint8)
    rows, columns = (slice(max(low, 0), min(high + 1, len(image))) for low, high in ((top, bottom), (left, right)))
    part = image[rows, columns]
    patch[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = part
    return patch


def respond(network: Network) -> Section:
    spec = network.config.model
    there = tuple(name for name, _ in spec.convs() if name in LAYERS)
    blocks: list[Block] = [Text(f"This network has no {name}.") for name in LAYERS if name not in there]
    index = sample(len(network.evaluation.labels), MOST_IMAGES)
    for name, found in (best(network, there, index) if there else {}).items():
        for tower in range(spec.towers):
            patches = [
                cut(centre(read(network.evaluation, np.array([i]))[0][0], spec.image_size), spec, name, tuple(place))
                for images, places in zip(found.image[tower], found.place[tower], strict=True)
                for i, place in zip(images, places, strict=True)
            ]
            canvas = figures.mosaic(np.stack(patches), found.image.shape[-1], gap=2)
            side = patches[0].shape[0]
            caption = (
                f"{name}, tower {tower}: a row for each of the units {', '.join(map(str, found.units))}, its highest "
                f"response first; each patch is its receptive field, {side}x{side} pixels."
            )
            alt = f"What units of {name} in tower {tower} respond to"
            blocks.append(Picture(alt, figures.pixels(canvas), caption))
    blocks.append(
        Text(
            f"Searched are {len(index):,} of the {len(network.evaluation.labels):,} images of the split "
            f"{network.config.data.eval_split}; a unit shows at most one patch of each. The units are spread evenly "
            "over a tower's; the response is that before the activation. Grey is outside the image."
        )
    )
    return Section("units", "What units of conv3 and conv5 respond to", blocks)
