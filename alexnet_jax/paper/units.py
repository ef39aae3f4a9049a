"""The image patches to which units of conv3 and conv5 respond most strongly."""

from typing import NamedTuple

import jax
import numpy as np

from alexnet_jax.data.records import Images
from alexnet_jax.inference import activations
from alexnet_jax.inference.network import Network
from alexnet_jax.inference.predictions import best
from alexnet_jax.model_config import Model
from alexnet_jax.paper import figures
from alexnet_jax.paper.figures import Block
from alexnet_jax.paper.images import Splits, centre_crops, compute, sample
from alexnet_jax.run import kernel_images

LAYERS = ("conv3", "conv5")
UNITS, PATCHES = 8, 6  # in each tower; for each unit
MOST_IMAGES = 2000
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


class Strongest(NamedTuple):
    """The images to which units respond most strongly, the strongest first."""

    units: np.ndarray  # [units] indices within a tower, the same in every tower
    image: np.ndarray  # [tower, units, patches] indices of images
    position: np.ndarray  # [tower, units, patches, 2] row and column of the unit's highest response in the image


def strongest(network: Network, layers: tuple[str, ...], images: Images, index: np.ndarray) -> dict[str, Strongest]:
    """Find, among the images `index`, those to which units of each layer respond most strongly."""
    units, columns = {}, {}
    for name in layers:
        _, columns[name], count = activations.shapes(network.config.model)[1][f"{name}_response"]
        units[name] = np.unique(np.linspace(0, count - 1, min(UNITS, count)).astype(int))
    respond = network.activations_step("response", layers)

    @jax.jit
    def highest(params, image, statistics):
        """Each image's highest response and where it is: {layer: two of [B, tower, units]}."""
        maps = {name: x[..., units[name]] for name, x in respond(params, image, statistics).items()}
        flat = {name: x.reshape(*x.shape[:2], -1, x.shape[-1]) for name, x in maps.items()}
        return {name: (x.max(axis=2), x.argmax(axis=2)) for name, x in flat.items()}

    readable, results = compute(network, highest, images, index)
    best_of_layers = {}
    for name, (responses, positions) in results.items():
        order = np.apply_along_axis(best, 0, responses, PATCHES)  # [patches, tower, units]
        rows_columns = np.divmod(np.take_along_axis(positions, order, axis=0), columns[name])
        position = np.moveaxis(np.stack(rows_columns, axis=-1), 0, 2)
        best_of_layers[name] = Strongest(units[name], np.moveaxis(readable[order], 0, 2), position)
    return best_of_layers


def cut(image: np.ndarray, spec: Model, layer: str, position: tuple[int, int]) -> np.ndarray:
    """Cut the receptive field of `layer` at `position` out of an image [S, S, 3] uint8; grey beyond its edges."""
    (top, bottom), (left, right) = (receptive_field(spec, layer, i, clipped=False) for i in position)
    margin = max(-min(top, left), max(bottom, right) + 1 - len(image), 0)
    padded = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), constant_values=GREY)
    return padded[margin + top : margin + bottom + 1, margin + left : margin + right + 1]


def patches(network: Network, splits: Splits) -> list[Block]:
    """The patches of the evaluation images to which units respond most strongly."""
    spec, images = network.config.model, splits.evaluation
    layers = tuple(name for name, _ in spec.convs() if name in LAYERS)
    blocks: list[Block] = [f"This network has no {name}." for name in LAYERS if name not in layers]
    index = sample(len(images.labels), MOST_IMAGES)
    for name, layer in (strongest(network, layers, images, index) if layers else {}).items():
        for tower in range(spec.towers):
            crops = centre_crops(network, images, layer.image[tower].ravel())
            places = zip(crops, layer.position[tower].reshape(-1, 2), strict=True)
            cuts = np.stack([cut(crop, spec, name, tuple(position)) for crop, position in places])
            caption = (
                f"{name}, tower {tower}: a row for each of the units {', '.join(map(str, layer.units))}, its highest "
                f"response first; each patch is its receptive field, {cuts.shape[1]}x{cuts.shape[2]} pixels."
            )
            mosaic = kernel_images.mosaic(cuts, layer.image.shape[-1], gap=2)
            blocks.append(figures.photo(mosaic, f"What units of {name} in tower {tower} respond to", caption))
    about = (
        f"{len(index):,} of the {len(images.labels):,} images of the split {network.config.data.eval_split} were "
        "searched; a unit shows at most one patch of each. The units are spread evenly over a tower; their responses "
        "are those before the activation. Grey is outside the image."
    )
    return [*blocks, about]
