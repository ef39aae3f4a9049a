"""What a trained network computes inside, on the centre crop and without dropout. Each is one jitted call."""

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

KINDS = ("output", "response")  # what `model.activations` gives of a layer


@functools.cache
def shapes(spec: Model) -> tuple[dict, dict[str, tuple[int, ...]]]:
    """Shapes, without computing anything: parameters, each leaf [tower, ...], and activations of one tower and image.

    The activations are those of `model.activations`, without the axes of tower and example.
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

    The output of `layer` (see `layer_of`), all towers side by side: of a fully connected one after its activation
    and before dropout, of a convolutional one after all that follows it, [H', W', C] of each tower flattened.
    """
    name = f"{layer_of(config, layer)}_output"

    def tower_program(params, image, statistics):
        output = _activations(config, params, image, statistics)[name]
        return output.reshape(len(image), -1).astype(jnp.float32)

    return jax.jit(sharding.over_towers(tower_program, mesh, sharding.CLASSES))


def make_conv_step(config: Config, mesh: Mesh, layers: tuple[str, ...]) -> jax.stages.Wrapped:
    """`(params, image, statistics) -> {layer: [B, tower, H, W, features / towers] float32}`.

    A response is the convolution with its bias, before activation, normalization and pooling: so each one belongs
    to one place of the image.
    """
    return _make_step(config, mesh, layers, "response")


def _make_step(config: Config, mesh: Mesh, layers: Sequence[str], kind: str) -> jax.stages.Wrapped:
    """`(params, image, statistics) -> {layer: [B, tower, ...] float32}`."""
    _, of_one = shapes(config.model)

    def tower_program(params, image, statistics):
        seen = _activations(config, params, image, statistics)
        # Flat, so that towers can be put side by side as classes are.
        return {name: seen[f"{name}_{kind}"].reshape(len(image), -1).astype(jnp.float32) for name in layers}

    flat = sharding.over_towers(tower_program, mesh, sharding.CLASSES)

    def conv_step(params, image, statistics):
        responses = flat(params, image, statistics)
        return {
            name: x.reshape(len(image), config.model.towers, *of_one[f"{name}_{kind}"]) for name, x in responses.items()
        }

    return jax.jit(conv_step)


class Activation(NamedTuple):
    """What one layer computes for one image."""

    values: np.ndarray  # float32
    axes: tuple[str, ...]  # the names of its axes

    def tower(self, number: int) -> np.ndarray:
        """The share of one tower."""
        return self.values[number]


def named(values: np.ndarray) -> Activation:
    """An array [tower, height, width, channel] or [tower, unit] with the names of its axes."""
    return Activation(values, ("tower", "height", "width", "channel") if values.ndim == 4 else ("tower", "unit"))


def make_all_step(config: Config, mesh: Mesh, kind: str) -> jax.stages.Wrapped:
    """`(params, image, statistics) -> {layer: [B, tower, ...] float32}` of every layer that has `kind`."""
    if kind not in KINDS:
        raise UserError(f"there are no activations of the kind {kind!r}; give one of {', '.join(KINDS)}")
    layers = [name.removesuffix(f"_{kind}") for name in shapes(config.model)[1] if name.endswith(f"_{kind}")]
    return _make_step(config, mesh, layers, kind)


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
