"""What a trained network computes inside, for the centre crop and without dropout."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from alexnet_jax import augment, model, sharding, steps
from alexnet_jax.errors import UserError
from alexnet_jax.model_config import Model
from alexnet_jax.run_config import Config

KINDS = ("output", "response")  # the suffixes of the names in `model.activations`


class Activation(NamedTuple):
    """The activation of one layer for one image."""

    values: np.ndarray  # float32

    @property
    def axes(self) -> tuple[str, ...]:
        return ("tower", "height", "width", "channel") if self.values.ndim == 4 else ("tower", "unit")

    def tower(self, number: int) -> np.ndarray:
        """The part that one tower computes."""
        return self.values[number]


@functools.cache
def shapes(spec: Model) -> tuple[dict, dict[str, tuple[int, ...]]]:
    """The parameters' shapes, [tower, ...], and those of `model.activations` for one image in one tower."""
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
    """`(params, image, statistics) -> features`: [B, H, W, 3] uint8 -> [B, units of all towers] float32."""
    name = f"{layer_of(config, layer)}_output"
    flat = _flat(config, mesh, [name])
    return jax.jit(lambda *inputs: flat(*inputs)[name])


def make_step(config: Config, mesh: Mesh, kind: str, layers: tuple[str, ...] | None = None) -> jax.stages.Wrapped:
    """`(params, image, statistics) -> {layer: [B, tower, ...] float32}` for `layers`, None for all that have `kind`.

    The kinds are those of `Network.activations`. Raises UserError if there is no such kind.
    """
    if kind not in KINDS:
        raise UserError(f"there are no activations of the kind {kind!r}; give one of {', '.join(KINDS)}")
    ending = f"_{kind}"
    shape = {name.removesuffix(ending): x for name, x in shapes(config.model)[1].items() if name.endswith(ending)}
    flat = _flat(config, mesh, [name + ending for name in layers or shape])

    def step(*inputs):
        outputs = ((name.removesuffix(ending), x) for name, x in flat(*inputs).items())
        return {layer: x.reshape(len(x), config.model.towers, *shape[layer]) for layer, x in outputs}

    return jax.jit(step)


def logits(config: Config, mesh: Mesh) -> Callable[[Any, Array, Any], Array]:
    """`(params, image, statistics) -> logits`: [B, H, W, 3] uint8 -> [B, num_classes] float32; not compiled."""
    flat = _flat(config, mesh, ["fc8_output"])
    return lambda *inputs: flat(*inputs)["fc8_output"][:, : config.model.num_classes]


def _flat(config: Config, mesh: Mesh, names: list[str]) -> Callable[[Any, Array, Any], dict[str, Array]]:
    """The `names` of `model.activations`, each [B, the units of all towers] float32."""
    spec = config.model

    def tower_program(params, image, statistics):
        view = augment.evaluation_views(image, statistics, spec.image_size, 1, config.augment.mean_crop)[:, 0]
        activations = model.activations(spec, params, view.astype(config.train.compute_dtype))
        return {name: activations[name].reshape(image.shape[0], -1).astype(jnp.float32) for name in names}

    return steps.with_precision(sharding.over_towers(tower_program, mesh, sharding.CLASSES), config)
