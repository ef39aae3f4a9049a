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

import itertools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from alexnet_jax import model_config, ops, sharding

SEEN = "intermediates"  # where Flax leaves what a layer computes, when `activations` asks for it

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"relu": nn.relu, "tanh": nn.tanh}


class Conv(nn.Module):
    """A tower's share of a convolutional layer: [B, H, W, C] -> [B, H', W', features]."""

    features: int
    layer: model_config.Conv

    @nn.compact
    def __call__(self, x: Array) -> Array:
        layer, channels = self.layer, x.shape[-1]
        shape: tuple[int, ...] = (layer.kernel, layer.kernel, channels, self.features)
        if not layer.shared:
            places = [(side + sum(layer.padding) - layer.kernel) // layer.stride + 1 for side in x.shape[1:3]]
            shape = (*places, layer.kernel**2 * channels, self.features)
        kernel = self.param("kernel", nn.initializers.constant(layer.init_std), shape)  # `init` draws it
        bias_shape = (self.features,) if layer.shared else (*shape[:2], self.features)
        bias = self.param("bias", nn.initializers.constant(layer.init_bias), bias_shape)
        if layer.shared:
            return ops.conv(x, kernel.astype(x.dtype), bias.astype(x.dtype), layer.stride, layer.padding)
        x = ops.local_conv(x, kernel.astype(x.dtype), layer.kernel, layer.stride, layer.padding)
        return x + bias.astype(x.dtype)[None]


class Dense(nn.Module):
    """A tower's share of a fully connected layer: [B, inputs] -> [B, features].

    With `splits_inputs` each device of the data axis holds the weights of its share of the inputs. It computes them
    for the whole batch, and sends activations instead of the gradients of weights: of images there are fewer.
    """

    features: int
    layer: model_config.Dense | model_config.Head
    splits_inputs: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = sharding.split_inputs(x) if self.splits_inputs else x
        init_std, init_bias = (
            nn.initializers.constant(self.layer.init_std),
            nn.initializers.constant(self.layer.init_bias),
        )
        kernel = self.param("kernel", init_std, (x.shape[1], self.features))  # `init` draws it
        bias = self.param("bias", init_bias, (self.features,))
        x = ops.dense(x, kernel.astype(x.dtype))
        x = sharding.sum_outputs(x) if self.splits_inputs else x
        return x + bias.astype(x.dtype)[None]


class Tower(nn.Module):
    """One tower. Runs only where the axis `tower` exists: under `sharding.over_towers` or `init`."""

    spec: model_config.Model
    splits_inputs: bool = False  # of fully connected layers, over the axis `data`

    @nn.compact
    def __call__(self, image: Array, keys: Array | None) -> Array:
        """Image [B, S, S, 3] -> float32 logits [B, ceil(classes / towers)] of this tower's classes.

        `keys` [B], a random key an example, switch dropout on; None is the network at test time. The
        columns past the last class, where classes do not divide by towers, are the lowest finite number.
        """
        spec = self.spec
        map_norm, pool = spec.map_norm, spec.pool
        activation = ACTIVATIONS[spec.activation]
        operations: dict[str, Callable[[Array], Array]] = {
            "activation": activation,
            "lrn": self._lrn,
            "map_norm": lambda x: ops.map_norm(x, map_norm.n, map_norm.alpha, map_norm.beta),
            "pool": lambda x: ops.max_pool(ops.fill_last_window(x, pool) if pool.ceil else x, pool.window, pool.stride),
        }
        x = image  # for the paper's network, 224x224x3
        for name, conv in spec.convs():
            x = sharding.exchange(x) if conv.exchange else x
            x = Conv(conv.features // spec.towers, conv, name=name)(x)
            self.sow(SEEN, f"{name}_response", x)  # nothing happens here unless `activations` asks
            for operation in conv.then:
                with jax.named_scope(operation):  # bench.step tells the time of each
                    x = operations[operation](x)
            self.sow(SEEN, f"{name}_output", x)
        for number, (name, dense) in enumerate(spec.hidden()):
            x = sharding.exchange(x) if dense.exchange else x
            x = x.reshape(x.shape[0], -1)  # the first time: 6x6x256 -> 9216
            x = activation(Dense(dense.features // spec.towers, dense, self.splits_inputs, name=name)(x))
            self.sow(SEEN, f"{name}_output", x)
            if dense.dropout:
                with jax.named_scope("dropout"):
                    x = self._dropout(x, keys, number)
        x = sharding.exchange(x) if spec.fc8.exchange else x
        x = x.reshape(x.shape[0], -1)
        classes = -(-spec.num_classes // spec.towers)
        logits = Dense(classes, spec.fc8, self.splits_inputs, name="fc8")(x).astype(jnp.float32)
        real = jax.lax.axis_index(sharding.TOWER) * classes + jnp.arange(classes) < spec.num_classes
        return jnp.where(real[None, :], logits, jnp.finfo(jnp.float32).min)

    def _lrn(self, x: Array) -> Array:
        """Paper 3.3, within this tower; or, as Caffe has it, over the channels of all."""
        lrn = self.spec.lrn
        whole = sharding.exchange(x) if lrn.across_towers else x
        whole = ops.local_response_norm(whole, lrn.k, lrn.n, lrn.alpha, lrn.beta)
        return sharding.own_share(whole, x.shape[-1]) if lrn.across_towers else whole

    def _dropout(self, x: Array, keys: Array | None, number: int) -> Array:
        """Paper 4.2: units set to zero in training; at test time all of them, scaled by what was kept.

        With `dropout_scaling` "training", as later programs do, those kept are scaled up instead. A unit's mask
        depends on its example's key, its layer and its tower: never on the layout.
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
    """The parameters at the start of training, each leaf [tower, ...], float32.

    Flax leaves biases at their value and kernels at their standard deviation; all kernels are then drawn at once,
    since XLA takes seconds to compile a draw for each.
    """

    def one_tower(_):
        image = jnp.zeros((1, spec.image_size, spec.image_size, 3))
        return Tower(spec).init(jax.random.key(0), image, None)["params"]

    params = jax.vmap(one_tower, axis_name=sharding.TOWER)(jnp.arange(spec.towers))
    *places, total = itertools.accumulate(math.prod(layer["kernel"].shape[1:]) for layer in params.values())
    parts = jnp.split(jax.random.normal(key, (spec.towers, total)), places, axis=1)
    return {
        name: layer | {"kernel": layer["kernel"] * part.reshape(layer["kernel"].shape)}
        for (name, layer), part in zip(params.items(), parts, strict=True)
    }


def logits(
    spec: model_config.Model, params: dict, image: Array, keys: Array | None, splits_inputs: bool = False
) -> Array:
    """What `Tower` computes with the parameters of one tower."""
    output = Tower(spec, splits_inputs).apply({"params": params}, image, keys)
    assert isinstance(output, Array)
    return output


def activations(
    spec: model_config.Model, params: dict, image: Array, keys: Array | None = None, splits_inputs: bool = False
) -> dict[str, Array]:
    """What the layers of one tower compute for image [B, S, S, 3], at test time or, with `keys`, in training.

    `convN_response` [B, H, W, C] is a convolution with its bias, `convN_output` that after all that follows it,
    `fcN_output` [B, units] a hidden layer's units before dropout, and `fc8_output` the logits.
    """
    logits, seen = Tower(spec, splits_inputs).apply({"params": params}, image, keys, mutable=[SEEN])
    return {name: values[0] for name, values in seen[SEEN].items()} | {"fc8_output": logits}
