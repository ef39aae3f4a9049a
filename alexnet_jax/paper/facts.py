"""What follows from a config alone, beside the paper's own numbers.

Parameters, neurons, arithmetic and traffic of each layer, beside the paper's own numbers. Our side is computed from
the parsed config and the shapes of the network: no parameter is made, but for the signal of images at the start.
"""

import math
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax import augment, model, sharding
from alexnet_jax.data import statistics
from alexnet_jax.data.blocks import stored_pixels
from alexnet_jax.data.images import CorruptImage
from alexnet_jax.data.sources.imagenet import EDITIONS
from alexnet_jax.errors import UserError
from alexnet_jax.model_config import Conv, Dense, Head
from alexnet_jax.run_config import Config

ILSVRC_2012 = EDITIONS["imagenet2012"].images["train"]  # images
MAX_IMAGES = 24  # for the signal; conv1 alone makes 1.2 MB of each

PAPER_NEURONS = {  # caption of Figure 2; its conv1 is 55*48*96, which should be 55*55*96
    "conv1": 253_440,
    "conv2": 186_624,
    "conv3": 64_896,
    "conv4": 64_896,
    "conv5": 43_264,
    "fc6": 4096,
    "fc7": 4096,
    "fc8": 1000,
}


class Layer(NamedTuple):
    """One layer over all towers; costs are of one image. Norms, pooling, activations and biases cost nothing here."""

    name: str
    parameters: int
    neurons: int  # before pooling
    multiply_adds: int  # forward
    training_flop: int  # 2 a multiply-add: forward, for the weights, and for the inputs if those are not the image
    link_bytes: int  # between the towers before this layer, all directions added; forward, and backward as many again


def layers(config: Config) -> list[Layer]:
    """The layers with parameters, in order; `link_bytes` with a device for each tower."""
    spec = config.model
    found: list[Layer] = []
    params, sizes = _shapes(config)
    itemsize = jnp.dtype(config.train.compute_dtype).itemsize
    named: list[tuple[str, Conv | Dense | Head]] = [*spec.convs(), *spec.hidden(), ("fc8", spec.fc8)]
    exchanging = {name for name, layer in named if layer.exchange}
    local = {name for name, layer in spec.convs() if not layer.shared}
    for name, (inputs, outputs) in sizes.items():
        kernel = params[name]["kernel"]  # [tower, k, k, C, F], [tower, H', W', C * k * k, F] or [tower, C, F]
        multiply_adds = kernel.size * (1 if name in local else math.prod(outputs[:-1]))
        found.append(
            Layer(
                name,
                parameters=kernel.size + params[name]["bias"].size,
                neurons=spec.towers * math.prod(outputs),
                multiply_adds=multiply_adds,
                training_flop=2 * multiply_adds * (3 if found else 2),
                # Each tower sends its share of the inputs to each other tower.
                link_bytes=math.prod(inputs) * itemsize * (spec.towers - 1) if name in exchanging else 0,
            )
        )
    return found


def _shapes(config: Config) -> tuple[dict, dict[str, tuple]]:
    """Shapes of the parameters [tower, ...], and by layer those of its input and output in a tower, one image."""
    sizes: dict[str, tuple] = {}

    def note(call, arguments, keywords, context):
        output = call(*arguments, **keywords)
        if isinstance(context.module, model.Conv | model.Dense) and context.method_name == "__call__":
            sizes[str(context.module.name)] = arguments[0].shape[1:], output.shape[1:]
        return output

    def init():
        with nn.intercept_methods(note):
            return model.init(config.model, jax.random.key(0))

    return jax.eval_shape(init), sizes


def crops(config: Config) -> int:
    """Different training views of an image: offsets down times right, and mirrored. The paper counts 2048 (4.1)."""
    return (config.data.size - config.model.image_size + 1) ** 2 * (2 if config.augment.flip else 1)


def steps_per_epoch(config: Config, images: int) -> int:
    """The last batch of an epoch may be a part of one."""
    return -(-images // config.train.batch_size)


def link_bytes(config: Config, head_split: bool = True) -> int:
    """Bytes between the towers for one image and training step, forward and backward, all directions added.

    Without `head_split`, fc8 lies whole on one device, as in the authors' program: it only receives.
    """
    *hidden, head = layers(config)
    return 2 * (
        sum(layer.link_bytes for layer in hidden) + head.link_bytes // (1 if head_split else config.model.towers)
    )


def signal_at_start(config: Config, images: np.ndarray, seed: int) -> tuple[float, float]:
    """How far the images [N, H, W, 3] uint8 can be told apart at the start: std and magnitude of the logits.

    The std of each class's logit over the images, rms over the classes, and the mean |logit|. Centre views minus the
    images' own mean, dropout as at test time.
    """
    spec = config.model
    of_images = statistics.of_sums(statistics.sums_of(list(images)))
    view = augment.evaluation_views(jnp.asarray(images), of_images, spec.image_size, 1, config.augment.mean_crop)[:, 0]

    @jax.jit
    def logits(params, view):
        return jax.vmap(lambda params: model.logits(spec, params, view, None), axis_name=sharding.TOWER)(params)

    key = jax.random.key(seed, impl="rbg")  # the default generator takes XLA for CPU ten times as long to compile
    params = jax.jit(lambda key: model.init(spec, key))(key)
    found = np.concatenate(list(np.asarray(logits(params, view), np.float64)), axis=-1)
    found = found[:, : spec.num_classes]
    return float(np.sqrt((found.std(axis=0) ** 2).mean())), float(np.abs(found).mean())


def table(config: Config) -> list[tuple[str, ...]]:
    """A row a layer and one for all, under a heading."""
    found = layers(config)
    parameters = sum(layer.parameters for layer in found)
    rows: list[tuple[str, ...]] = [
        ("layer", "parameters", "share", "neurons", "Figure 2", "multiply-adds", "training FLOP", "link bytes")
    ]
    for layer in found:
        share, paper = f"{layer.parameters / parameters:.2%}", PAPER_NEURONS.get(layer.name)
        figure = f"{paper:,}" if paper else "-"
        rows.append((layer.name, f"{layer.parameters:,}", share, f"{layer.neurons:,}", figure, *_costs(layer)))
    total = Layer("all", *(sum(column) for column in zip(*(layer[1:] for layer in found), strict=True)))
    paper = sum(PAPER_NEURONS.values())
    rows.append(("all", f"{parameters:,}", "", f"{total.neurons:,}", f"{paper:,}", *_costs(total)))
    return rows


def _costs(layer: Layer) -> tuple[str, str, str]:
    return f"{layer.multiply_adds:,}", f"{layer.training_flop:,}", f"{layer.link_bytes:,}"


def statements(config: Config) -> list[tuple[str, str, str]]:
    """What it is, here, and in the paper ("-": it does not say)."""
    found = layers(config)
    parameters = sum(layer.parameters for layer in found)
    convs = [layer for layer in found if layer.name.startswith("conv")]
    largest = max(convs, key=lambda layer: layer.parameters)
    steps = steps_per_epoch(config, ILSVRC_2012)
    flop = sum(layer.training_flop for layer in found)
    whole_head = link_bytes(config, head_split=False)
    return [
        ("inputs", f"{3 * config.model.image_size**2:,}", "150,528 (Figure 2)"),
        ("parameters", f"{parameters:,}", "60 million (abstract)"),
        ("neurons", f"{sum(layer.neurons for layer in found):,}", "650,000 (abstract)"),
        ("most parameters in a conv", f"{largest.name}, {largest.parameters / parameters:.2%}", "no more than 1% (1)"),
        ("views of an image", f"{crops(config):,}", "2048 = 32 x 32 x 2 (4.1)"),
        (f"steps an epoch of {ILSVRC_2012:,} images", f"{steps:,}", "-"),
        ("epochs", str(config.train.epochs), "roughly 90 (5)"),
        ("FLOP of the training", f"{flop * ILSVRC_2012 * config.train.epochs:.2e}", "-"),
        ("link bytes an image and step", f"{link_bytes(config):,}", "-"),
        ("  with fc8 on one device, as in the authors' program", f"{whole_head:,}", "-"),
        ("link bytes a step", f"{link_bytes(config) * config.train.batch_size:,}", "-"),
    ]


def read(directory: Path, size: int) -> np.ndarray:
    """Up to MAX_IMAGES images below `directory`, evenly over the sorted names: [N, size, size, 3] uint8."""
    files = sorted(path for path in directory.rglob("*") if path.suffix.lower() in (".jpeg", ".jpg", ".png"))
    if len(files) < 2:
        raise UserError(f"{directory} has no images to compare; give a folder with two or more")
    found = []
    for path in files[:: -(-len(files) // MAX_IMAGES)]:
        try:
            found.append(stored_pixels(path.read_bytes(), size)[0])
        except CorruptImage as error:
            raise UserError(f"{path}: {error}; take it out of the folder") from None
    return np.stack(found)
