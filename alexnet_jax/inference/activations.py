"""What a trained network computes inside, for the centre crop and without dropout."""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from alexnet_jax import augment, compiling, model, sharding
from alexnet_jax.errors import UserError
from alexnet_jax.model_config import Model
from alexnet_jax.run_config import Config

KINDS = ("output", "response")  # the suffixes of the names in `model.activations`
POOLS: dict[str, Callable[[Array], Array]] = {  # what becomes of the maps [B, H, W, C] of a tower
    "none": lambda maps: maps,
    "mean": lambda maps: maps.mean(axis=(1, 2)),
    "max": lambda maps: maps.max(axis=(1, 2)),
}


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


def deviations(full: Model, small: Model) -> dict[str, float | Literal["he"]]:
    """The deviation at the start for each layer of `small` that makes its responses as large as those in `full`.

    It is sqrt(r) times that of `full`, with r of `fan_in_ratios`.
    """
    return {
        name: "he" if (std := full.layers()[name].init_std) == "he" else std * ratio**0.5
        for name, ratio in fan_in_ratios(full, small).items()
    }


def fan_in_ratios(full: Model, small: Model) -> dict[str, float]:
    """The inputs of a unit in `full` / those in `small`, for each layer that both have."""
    of_full, of_small = (
        {name: math.prod(leaves["kernel"][1:-1]) for name, leaves in shapes(spec)[0].items()} for spec in (full, small)
    )
    return {name: inputs / of_small[name] for name, inputs in of_full.items() if name in of_small}


def layers_of(config: Config, layers: str | None) -> tuple[str, ...]:
    """The layers that `layers` names, in the network's order: "all", or names separated by commas.

    None stands for the last layer before fc8. Raises UserError if there is no such layer.
    """
    known = tuple(config.model.layers())
    wanted = known[-2:-1] if layers is None else known if layers == "all" else layers.split(",")
    for name in wanted:
        if name not in known:
            raise UserError(f"the network has no layer {name!r}, only {', '.join(known)}; give some of these, or all")
    return tuple(name for name in known if name in wanted)


def units(config: Config, layers: tuple[str, ...], pool: str) -> dict[str, np.ndarray]:
    """Where each of the features [B, units] that `make_features_step` returns comes from.

    Returns the columns `layer` (a name) and `tower`, `y`, `x` and `channel` (within the tower), each [units]; y and x
    are 0 where a layer has no maps, or they are pooled.
    """
    columns = []
    for name in layers:
        *sides, channels = shapes(config.model)[1][f"{name}_output"]
        height, width = sides if sides and pool == "none" else (1, 1)
        places = np.indices((config.model.towers, height, width, channels), np.int32).reshape(4, -1)
        places = places[:, : config.model.num_classes] if name == "fc8" else places  # the last tower may have fewer
        columns.append((np.full(places.shape[1], name, object), *places))
    joined = map(np.concatenate, zip(*columns, strict=True))
    return dict(zip(("layer", "tower", "y", "x", "channel"), joined, strict=True))


def make_features_step(config: Config, mesh: Mesh, layers: tuple[str, ...], pool: str = "none") -> jax.stages.Wrapped:
    """`(params, image, statistics) -> features`: [B, H, W, 3] uint8 -> [B, units] float32, in the order of `units`."""
    return jax.jit(_features(config, mesh, layers, pool))


def make_step(config: Config, mesh: Mesh, kind: str, layers: tuple[str, ...] | None = None) -> jax.stages.Wrapped:
    """`(params, image, statistics) -> {layer: [B, tower, ...] float32}` for `layers`, None for all that have `kind`.

    The kinds are those of `Network.activations`. Raises UserError if there is no such kind.
    """
    if kind not in KINDS:
        raise UserError(f"there are no activations of the kind {kind!r}; give one of {', '.join(KINDS)}")
    ending = f"_{kind}"
    shape = {name.removesuffix(ending): x for name, x in shapes(config.model)[1].items() if name.endswith(ending)}
    flat = flat_outputs(config, mesh, [name + ending for name in layers or shape])

    def step(*inputs):
        outputs = ((name.removesuffix(ending), x) for name, x in flat(*inputs).items())
        return {layer: x.reshape(len(x), config.model.towers, *shape[layer]) for layer, x in outputs}

    return jax.jit(step)


def logits(config: Config, mesh: Mesh) -> Callable[[Any, Array, Any], Array]:
    """`(params, image, statistics) -> logits`: [B, H, W, 3] uint8 -> [B, num_classes] float32; not compiled."""
    return _features(config, mesh, ("fc8",), "none")


def _features(config: Config, mesh: Mesh, layers: tuple[str, ...], pool: str) -> Callable[[Any, Array, Any], Array]:
    flat = flat_outputs(config, mesh, [f"{layer}_output" for layer in layers], POOLS[pool])

    def features(*inputs):
        outputs = flat(*inputs)
        # The towers' shares of fc8 may hold a few units more than there are classes.
        ends = [(layer, config.model.num_classes if layer == "fc8" else None) for layer in layers]
        return jnp.concatenate([outputs[f"{layer}_output"][:, :end] for layer, end in ends], axis=1)

    return features


def flat_outputs(
    config: Config, mesh: Mesh, names: list[str], pool: Callable[[Array], Array] = POOLS["none"]
) -> Callable[[Any, Array, Any], dict[str, Array]]:
    """The `names` of `model.activations`, with maps pooled, each [B, the units of all towers] float32."""
    spec = config.model

    def tower_program(params, image, statistics):
        view = augment.evaluation_views(image, statistics, spec.image_size, 1, config.augment.mean_crop)[:, 0]
        activations = model.activations(spec, params, view.astype(config.train.compute_dtype))
        outputs = {name: activations[name].astype(jnp.float32) for name in names}
        return {name: (pool(x) if x.ndim == 4 else x).reshape(image.shape[0], -1) for name, x in outputs.items()}

    return compiling.with_precision(sharding.over_towers(tower_program, mesh, sharding.CLASSES), config)
