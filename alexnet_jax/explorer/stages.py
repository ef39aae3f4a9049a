"""A network in the parts that an explorer shows: the stages of its layers, and the links between its towers."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from alexnet_jax.errors import UserError
from alexnet_jax.inference import activations
from alexnet_jax.model_config import Model
from alexnet_jax.run_config import Config

Params = dict[str, dict[str, Any]]


def stages(spec: Model) -> dict[str, tuple[str, ...]]:
    """Layer -> the names of its stages, in order; the last is its output, all that there is of hidden ones.

    Raises UserError if an operation comes twice in a layer, since its name would stand for two stages.
    """
    if twice := [name for name, conv in spec.convs() if len({*conv.then}) < len(conv.then)]:
        raise UserError(f"{twice[0]} has an operation twice in model.{twice[0]}.then, which an explorer cannot show")
    convs = {name: ("response", *conv.then) for name, conv in spec.convs()}
    return convs | {name: ("activation",) for name, _ in spec.hidden()} | {"fc8": ("response",)}


def key(spec: Model, name: str, stage: str) -> str:
    """The name of a stage among `model.activations`."""
    return f"{name}_{'output' if stage == stages(spec)[name][-1] else stage}"


def shapes(spec: Model) -> dict[str, dict[str, tuple[int, ...]]]:
    """Layer -> stage -> [F, H, W] or [F] of all towers; of fc8, [classes]."""
    known = activations.shapes(spec)[1]

    def shape(name: str, stage: str) -> tuple[int, ...]:
        if name == "fc8":
            return (spec.num_classes,)
        *sides, channels = known[key(spec, name, stage)]
        return spec.towers * channels, *sides

    return {name: {stage: shape(name, stage) for stage in each} for name, each in stages(spec).items()}


def links(spec: Model) -> tuple[str, ...]:
    """The layers in which the towers meet. conv1 sees the image, which all towers have."""
    return tuple(
        name for name, layer in spec.layers().items() if layer.exchange and spec.towers > 1 and name != "conv1"
    )


def by_tower(spec: Model, name: str, kernel: Any) -> Any:
    """A layer's kernel [tower, ...] as [tower, places, source, channels, F]: `source` is the tower that is read."""
    layers = spec.layers()
    features = [conv.features for _, conv in spec.convs()] + [dense.features for _, dense in spec.hidden()]
    channels = dict(zip(layers, [3 * spec.towers, *features], strict=True))[name] // spec.towers
    sources = spec.towers if layers[name].exchange else 1
    return kernel.reshape(spec.towers, -1, sources, channels, kernel.shape[-1])


def cut(spec: Model, params: Params, states: Sequence[float] | Array) -> Params:
    """The parameters of the network whose `links` are in these states, 1 or 0: towers see each other there, or not.

    Weights by which a tower reads another are multiplied by the state of their layer's link.
    """
    own = jnp.eye(spec.towers)[:, None, :, None, None]
    changed = {}
    for name, state in zip(links(spec), states, strict=True):
        kernel = jnp.asarray(params[name]["kernel"])
        linked = by_tower(spec, name, kernel) * (own + (1 - own) * state)
        changed[name] = params[name] | {"kernel": linked.reshape(kernel.shape)}
    return params | changed


def make_step(config: Config, mesh: Mesh, classes: int) -> jax.stages.Wrapped:
    """`(params, image, statistics, links) -> outputs`: those of `program`, of stored images [B, size, size, 3] uint8.

    `links` [links] is as for `cut`; None leaves all whole, at no cost.
    """
    spec, known = config.model, activations.shapes(config.model)[1]
    keys = {f"{name}.{stage}": key(spec, name, stage) for name, each in stages(spec).items() for stage in each}
    flat = activations.flat_outputs(config, mesh, list(keys.values()))

    def step(params, image, statistics, links=None):
        found = flat(params if links is None else cut(spec, params, links), image, statistics)
        outputs = {}
        for name, each in keys.items():
            units = jnp.moveaxis(found[each].reshape(len(image), spec.towers, *known[each]), -1, 2)
            outputs[name] = units.reshape(len(image), -1, *units.shape[3:])
        outputs["fc8.response"] = outputs["fc8.response"][:, : spec.num_classes]  # the towers' shares may hold more
        return outputs | {"probabilities": jax.nn.softmax(outputs["fc8.response"])[:, :classes]}

    return jax.jit(step)
