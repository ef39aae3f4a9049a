"""What a trained network computes inside, for the centre crop and without dropout."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from alexnet_jax import augment, model, sharding
from alexnet_jax.errors import UserError
from alexnet_jax.model_config import Model
from alexnet_jax.run_config import Config

KINDS = ("output", "response")  # the suffixes of the names in `model.activations`


class Activation(NamedTuple):
    """The activation of one layer for one image."""

    values: np.ndarray  # float32
    axes: tuple[str, ...]  # ("tower", "height", "width", "channel") or ("tower", "unit")

    def tower(self, number: int) -> np.ndarray:
        """The part that one tower computes."""
        return self.values[number]


def named(values: np.ndarray) -> Activation:
    """Name the axes of an array [tower, height, width, channel] or [tower, unit]."""
    return Activation(values, ("tower", "height", "width", "channel") if values.ndim == 4 else ("tower", "unit"))


@functools.cache
def shapes(spec: Model) -> tuple[dict, dict[str, tuple[int, ...]]]:
    """The shapes of parameters and activations, without computing anything.

    Returns:
        The parameters' shapes, [tower, ...], and those of `model.activations` for one image in one tower.
    """
    params = jax.eval_shape(lambda: model.init(spec, jax.random.key(0)))
    image = jax.ShapeDtypeStruct((1, spec.image_size, spec.image_size, 3), jnp.float32)
    towers = jax.vmap(lambda p, x: model.activations(spec, p, x), in_axes=(0, None), axis_name=sharding.TOWER)
    activations = jax.eval_shape(towers, params, image)
    return jax.tree.map(lambda leaf: leaf.shape, params), {name: leaf.shape[2:] for name, leaf in activations.items()}


def layer_of(config: Config, layer: str | None) -> str:
    """The name `layer`, or that of the last layer before fc8 if None. Raises UserError if there is no such layer."""
    known = [name for name, _ in (*config.model.convs(), *config.model.hidden())]
    if layer is not None and layer not in known:
        raise UserError(f"the network has no layer {layer} before fc8, only {', '.join(known)}; give one as --layer")
    return layer or known[-1]


def make_features_step(config: Config, mesh: Mesh, layer: str | None = None) -> jax.stages.Wrapped:
    """`(params, image, statistics) -> features`: [B, H, W, 3] uint8 -> [B, units] float32 (paper 6.1).

    The features are the output of `layer` (see `layer_of`), all towers side by side. A fully connected layer's output
    is taken after the activation and before dropout; a convolutional layer's after its activation, normalization and
    pooling, with each tower's [H', W', C] flattened.
    """
    name = f"{layer_of(config, layer)}_output"

    def tower_program(params, image, statistics):
        output = _activations(config, params, image, statistics)[name]
        return output.reshape(len(image), -1).astype(jnp.float32)

    return jax.jit(sharding.over_towers(tower_program, mesh, sharding.CLASSES))


def make_conv_step(config: Config, mesh: Mesh, layers: tuple[str, ...]) -> jax.stages.Wrapped:
    """`(params, image, statistics) -> {layer: [B, tower, H, W, channels / towers] float32}`.

    A response is the convolution with its bias, before activation, normalization and pooling, so that it belongs to
    one place in the image.
    """
    return _make_step(config, mesh, layers, "response")


def make_all_step(config: Config, mesh: Mesh, kind: str) -> jax.stages.Wrapped:
    """`(params, image, statistics) -> {layer: [B, tower, ...] float32}` for every layer with activations of `kind`.

    Raises UserError if `kind` is not in KINDS.
    """
    if kind not in KINDS:
        raise UserError(f"there are no activations of the kind {kind!r}; give one of {', '.join(KINDS)}")
    layers = [name.removesuffix(f"_{kind}") for name in shapes(config.model)[1] if name.endswith(f"_{kind}")]
    return _make_step(config, mesh, layers, kind)


def _make_step(config: Config, mesh: Mesh, layers: Sequence[str], kind: str) -> jax.stages.Wrapped:
    shape = shapes(config.model)[1]

    def tower_program(params, image, statistics):
        activations = _activations(config, params, image, statistics)
        # Flattened: `over_towers` puts towers side by side on the last axis.
        return {name: activations[f"{name}_{kind}"].reshape(len(image), -1).astype(jnp.float32) for name in layers}

    flat = sharding.over_towers(tower_program, mesh, sharding.CLASSES)

    def step(params, image, statistics):
        return {
            name: x.reshape(len(image), config.model.towers, *shape[f"{name}_{kind}"])
            for name, x in flat(params, image, statistics).items()
        }

    return jax.jit(step)


def logits(config: Config, mesh: Mesh) -> Callable[[Any, Array, Any], Array]:
    """`(params, image, statistics) -> logits`: [B, H, W, 3] uint8 -> [B, num_classes] float32; not compiled."""

    def tower_program(params, image, statistics):
        return _activations(config, params, image, statistics)["fc8_output"]

    towers = sharding.over_towers(tower_program, mesh, sharding.CLASSES)
    return lambda *inputs: towers(*inputs)[:, : config.model.num_classes]


def _activations(config: Config, params: Any, image: Array, statistics: Any) -> dict[str, Array]:
    spec = config.model
    view = augment.evaluation_views(image, statistics, spec.image_size, 1, config.augment.mean_crop)[:, 0]
    return model.activations(spec, params, view.astype(config.train.compute_dtype))
