"""The network of Krizhevsky, Sutskever and Hinton (2012), written as the program of one tower.

The paper's network, section 3.5 and Figure 2, with what each of its two towers holds:

    layer   a tower's share         its input            a tower's output
    conv1   48 of 11x11x3, /4       the image            55x55x48  -> LRN, pool -> 27x27x48
    conv2   128 of 5x5x48           its own tower        27x27x128 -> LRN, pool -> 13x13x128
    conv3   192 of 3x3x256          both towers          13x13x192
    conv4   192 of 3x3x192          its own tower        13x13x192
    conv5   128 of 3x3x192          its own tower        13x13x128 -> pool      -> 6x6x128
    fc6     2048 of 9216            both towers          2048, dropout
    fc7     2048 of 4096            both towers          2048, dropout
    fc8     500 of 4096             both towers          500 of the 1000 classes

60,965,224 parameters. The towers meet where the table says "both", in `sharding.exchange`, and nowhere else.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from alexnet_jax import batch_norm, blocks, model_config, ops, pooling, sharding
from alexnet_jax.batch_norm import Examples

# Flax collections, filled if they are asked for:
INTERMEDIATES = "intermediates"  # the output of each layer
STATISTICS = "statistics"  # of the batch, for the running averages of batch normalization

Normalize = Callable[[nn.Module, Array, Array], Array]
ACTIVATION_FUNCTIONS: dict[str, Callable[[Array], Array]] = {"relu": nn.relu, "tanh": nn.tanh}


class Conv(nn.Module):
    """A tower's share of a convolutional layer: [B, H, W, C] -> [B, H', W', features]; with `block`, all of that."""

    features: int
    layer: model_config.Conv
    block: blocks.Block | None

    @nn.compact
    def __call__(self, x: Array, normalize: Normalize | None) -> Array:
        layer, channels = self.layer, x.shape[-1]
        if layer.shared:
            shape = (layer.kernel, layer.kernel, channels, self.features)
            kernel, bias = _parameters(self, shape, (self.features,), x.dtype)
            if self.block:
                return blocks.convolve(x, kernel, bias, self.block)
            y = ops.conv(x, kernel, jnp.zeros_like(bias) if normalize else bias, layer.stride, layer.padding)
            return normalize(self, y, bias) if normalize else y
        rows, columns = (layer.output(side) for side in x.shape[1:3])
        shape = (rows, columns, layer.kernel**2 * channels, self.features)
        kernel, bias = _parameters(self, shape, (rows, columns, self.features), x.dtype)
        y = ops.local_conv(x, kernel, layer.kernel, layer.stride, layer.padding)
        return normalize(self, y, bias) if normalize else y + bias[None]


class Dense(nn.Module):
    """A tower's share of a fully connected layer: [B, inputs] -> [B, features].

    With `splits_inputs`, each device of the data axis holds the weights of its share of the inputs and applies them to
    the whole batch. Devices then send activations rather than weight gradients, which are far larger.
    """

    features: int
    splits_inputs: bool

    @nn.compact
    def __call__(self, x: Array, normalize: Normalize | None = None) -> Array:
        x = sharding.split_inputs(x) if self.splits_inputs else x
        kernel, bias = _parameters(self, (x.shape[1], self.features), (self.features,), x.dtype)
        x = ops.dense(x, kernel)
        x = sharding.sum_outputs(x) if self.splits_inputs else x
        return normalize(self, x, bias) if normalize else x + bias[None]


def _parameters(module: Conv | Dense, kernel: tuple[int, ...], bias: tuple[int, ...], dtype) -> tuple[Array, Array]:
    """Kernel and bias of these shapes, cast to `dtype`. Their initial values are those of `init`, not Flax's."""
    zeros = nn.initializers.zeros_init()
    return module.param("kernel", zeros, kernel).astype(dtype), module.param("bias", zeros, bias).astype(dtype)


def _normalize(epsilon: float, examples: Examples, module: nn.Module, x: Array, bias: Array) -> Array:
    """Batch normalization of a module's output x as in training, with `bias` as its shift."""
    params = {kind: module.param(kind, nn.initializers.zeros_init(), x.shape[-1:]) for kind in batch_norm.STARTS}
    frozen = examples.frozen.get(str(module.name), False)
    y, taken = batch_norm.normalize(x, params, bias, examples.mask, frozen, epsilon)
    for kind, value in taken.items():
        module.sow(STATISTICS, kind, value, init_fn=lambda: None, reduce_fn=lambda _, last: last)
    return y


class Tower(nn.Module):
    """One tower. It runs only where the axis `tower` exists: under `sharding.over_towers` or in `init`."""

    spec: model_config.Model
    splits_inputs: bool = False  # split fully connected layers by their inputs, over the axis `data`
    kernels: str | None = None  # of `kernels.choose`

    @nn.compact
    def __call__(self, image: Array, keys: Array | None, examples: Examples | None = None) -> Array:
        """Compute float32 logits [B, ceil(classes / towers)] of this tower's classes from image [B, S, S, 3].

        `keys` [B], one random key per example, switches dropout on; None is the network at test time. If the classes
        do not divide by the towers, the columns past the last class are the lowest finite number. Batch normalization
        is that of training, with the statistics of `examples`, None: all; for test time see `batch_norm.folded`.
        """
        spec = self.spec
        normalize = functools.partial(
            _normalize, spec.batch_norm.epsilon, examples or Examples(jnp.ones(image.shape[0], bool), {})
        )
        map_norm, pool = spec.map_norm, spec.pool
        activation = ACTIVATION_FUNCTIONS[spec.activation]
        operations: dict[str, Callable[[Array], Array]] = {
            "activation": activation,
            "lrn": self._lrn,
            "map_norm": lambda x: ops.map_norm(x, map_norm.n, map_norm.alpha, map_norm.beta),
            "pool": lambda x: pooling.max_pool(
                pooling.fill_last_window(x, pool) if pool.ceil else x, pool.window, pool.stride
            ),
        }
        x = image  # for the paper's network, 224x224x3
        for name, conv in spec.convs():
            x = sharding.exchange(x) if conv.exchange else x
            block, then = blocks.plan(spec, conv, None if conv.batch_norm else self.kernels)
            convolution = Conv(conv.features // spec.towers, conv, block, name=name)
            x = convolution(x, normalize if conv.batch_norm else None)
            self.sow(INTERMEDIATES, f"{name}_response", x)  # does nothing unless `activations` asks for it
            for operation in then:
                with jax.named_scope(operation):  # `alexnet bench step` reports the time of each
                    x = operations[operation](x)
                self.sow(INTERMEDIATES, f"{name}_{operation}", x)
            self.sow(INTERMEDIATES, f"{name}_output", x)
        for number, (name, dense) in enumerate(spec.hidden()):
            x = sharding.exchange(x) if dense.exchange else x
            x = x.reshape(x.shape[0], -1)  # in the first layer: 6x6x256 -> 9216
            layer = Dense(dense.features // spec.towers, self.splits_inputs, name=name)
            x = activation(layer(x, normalize if dense.batch_norm else None))
            self.sow(INTERMEDIATES, f"{name}_output", x)
            if dense.dropout:
                with jax.named_scope("dropout"):
                    x = self._dropout(x, keys, number)
        x = sharding.exchange(x) if spec.fc8.exchange else x
        x = x.reshape(x.shape[0], -1)
        classes = -(-spec.num_classes // spec.towers)
        logits = Dense(classes, self.splits_inputs, name="fc8")(x).astype(jnp.float32)
        exists = jax.lax.axis_index(sharding.TOWER) * classes + jnp.arange(classes) < spec.num_classes
        return jnp.where(exists[None, :], logits, jnp.finfo(jnp.float32).min)

    def _lrn(self, x: Array) -> Array:
        """Local response normalization, paper 3.3: within this tower or, as in Caffe, over the channels of all."""
        lrn = self.spec.lrn
        maps = sharding.exchange(x) if lrn.across_towers else x
        maps = ops.local_response_norm(maps, lrn.k, lrn.n, lrn.alpha, lrn.beta)
        return sharding.own_share(maps, x.shape[-1]) if lrn.across_towers else maps

    def _dropout(self, x: Array, keys: Array | None, number: int) -> Array:
        """Dropout, paper 4.2: random units are zero in training; at test time all units are scaled by the share kept.

        With `dropout_scaling` "training", as in later software, the kept units are scaled up in training instead. The
        mask depends on the example's key, the layer and the tower, and never on the layout of the devices.
        """
        keep, scaled_at_test = 1 - self.spec.dropout_rate, self.spec.dropout_scaling == "test"
        if keys is None:
            return x * jnp.asarray(keep, x.dtype) if scaled_at_test else x
        tower = jax.lax.axis_index(sharding.TOWER)

        def mask(key):
            key = jax.random.fold_in(jax.random.fold_in(key, number), tower)
            return jax.random.bernoulli(key, keep, x.shape[1:])

        kept = x if scaled_at_test else x / jnp.asarray(keep, x.dtype)
        return jnp.where(jax.vmap(mask)(keys), kept, jnp.zeros((), x.dtype))


def init(spec: model_config.Model, key: Array) -> dict:
    """The parameters at the start of training (paper 5): {layer: {"kernel", "bias"}}, each [tower, ...] float32.

    Layers with batch normalization have those of `batch_norm.STARTS` too. Flax only determines the shapes. One call
    draws all kernels: XLA takes seconds to compile a call for each.
    """
    image = jnp.zeros((1, spec.image_size, spec.image_size, 3))
    towers = jax.vmap(Tower(spec).init, in_axes=None, axis_size=spec.towers, axis_name=sharding.TOWER)
    params = jax.eval_shape(towers, key, image, None)["params"]
    layers, starts = spec.layers(), batch_norm.STARTS
    sizes = [params[name]["kernel"].size // spec.towers for name in layers]
    draws = jnp.split(jax.random.normal(key, (spec.towers, sum(sizes))), np.cumsum(sizes)[:-1], axis=1)
    inputs = {name: params[name]["kernel"].size // params[name]["bias"].size for name in layers}  # of a unit
    return {
        name: {
            "kernel": model_config.std(layer.init_std, inputs[name]) * draw.reshape(params[name]["kernel"].shape),
            "bias": jnp.full(params[name]["bias"].shape, layer.init_bias, jnp.float32),
        }
        | {
            kind: jnp.full(params[name][kind].shape, start, jnp.float32)
            for kind, start in starts.items()
            if kind in params[name]
        }
        for (name, layer), draw in zip(layers.items(), draws, strict=True)
    }


def outputs(
    spec: model_config.Model,
    params: dict,
    image: Array,
    keys: Array | None = None,
    examples: Examples | None = None,
    splits_inputs: bool = False,
    kernels: str | None = None,
    collection: str = STATISTICS,
) -> tuple[Array, dict]:
    """The logits of `Tower`, given the parameters of one tower, and the contents of one of its Flax collections.

    As in training if `keys` are given, with the batch statistics of `examples`; otherwise as at test time, where batch
    normalization is folded into the layers.
    """
    if keys is None:
        spec, params = batch_norm.folded(spec, params)
    tower = Tower(spec, splits_inputs, kernels)
    logits, found = tower.apply({"params": params}, image, keys, examples, mutable=[collection])
    return logits, found.get(collection, {})


def logits(
    spec: model_config.Model, params: dict, image: Array, keys: Array | None, kernels: str | None = None
) -> Array:
    """The logits of `outputs`."""
    return outputs(spec, params, image, keys, kernels=kernels)[0]


def activations(
    spec: model_config.Model,
    params: dict,
    image: Array,
    keys: Array | None = None,
    examples: Examples | None = None,
    splits_inputs: bool = False,
) -> dict[str, Array]:
    """The activations of every layer of one tower for image [B, S, S, 3]; as in training if `keys` are given.

    `convN_response` [B, H, W, C] is a convolution with its bias (normalized, if it is), `convN_output` the result of
    the operations after it, `fcN_output` [B, units] a hidden layer before dropout, and `fc8_output` the logits.
    """
    logits, found = outputs(spec, params, image, keys, examples, splits_inputs, collection=INTERMEDIATES)
    return {name: values[0] for name, values in found.items()} | {"fc8_output": logits}
