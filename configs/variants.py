"""Variants of the paper's network: its ablations, its other networks, and those of other programs.

    alexnet train --config variants:no_lrn --config.data.directory=DATA --workdir runs/no_lrn

Several variants are joined by `+` and applied in that order, as in `variants:no_lrn+tanh`; two of them take a value:
`variants:without=conv3`, `variants:bias=0.1`. Errors are percentages of ILSVRC-2012 validation images, top-1 and top-5.
"""

import inspect
from collections.abc import Iterable

from ml_collections import ConfigDict

from alexnet_jax.configs import _later, _programs, code2012, digits, paper
from alexnet_jax.run import config_files


def get_config(argument: str = "") -> ConfigDict:
    """Return the paper's config with the variants that `argument` names."""
    config = paper.get_config()
    apply(config, argument.split("+"))
    return config


def apply(config: ConfigDict, variants: Iterable[str]) -> None:
    """Turn `config` into each of `variants` (NAME or NAME=VALUE) in turn. Raises ValueError for an unknown one."""
    for variant in variants:
        name, equals, value = variant.partition("=")
        if name not in VARIANTS:
            problem = f"there is no variant {name}" if name else "no variant is given"
            raise ValueError(f"{problem}; give one of {', '.join(VARIANTS)}, or several joined by +")
        if equals and len(inspect.signature(VARIANTS[name]).parameters) == 1:
            raise ValueError(f"the variant {name} takes no value; write {name} instead of {variant}")
        VARIANTS[name](config, *([value] if equals else []))


# --- The paper's comparisons ---


def tanh(config: ConfigDict) -> None:
    """tanh instead of ReLU (3.1), which trains several times more slowly."""
    config.model.activation = "tanh"


def one_gpu(config: ConfigDict) -> None:
    """The one-GPU network (3.2), with 1.7 and 1.2 points more error. 59,798,312 parameters.

    It has half the kernels in each convolutional layer but the last: "the one-GPU net actually has the same number of
    kernels as the two-GPU net in the final convolutional layer", since most parameters lie behind that layer.
    """
    model = config.model
    model.towers = 1
    for layer in (model.conv1, model.conv2, model.conv3, model.conv4):
        layer.features //= 2


def no_links(config: ConfigDict) -> None:
    """Towers that meet only in fc8: the authors' configuration 150, with 1.2 and 1.1 points more error in their logs.

    Its 60.7 million parameters match the paper's network. Here fc6 and fc7 are widened for that, to 6600 units each.
    """
    model = config.model
    for layer in (model.conv3, model.fc6, model.fc7):
        layer.exchange = False
    width = model.fc6.features * 6600 // 4096 // model.towers * model.towers
    model.fc6.features = model.fc7.features = width


def no_lrn(config: ConfigDict) -> None:
    """No local response normalization (3.3): 1.4 and 1.2 points more error."""
    for layer in (config.model.conv1, config.model.conv2):
        layer.then = paper.POOL


def non_overlapping_pooling(config: ConfigDict) -> None:
    """Pooling with s = 2, z = 2 (3.4): "output of equivalent dimensions", 0.4 and 0.3 points more error."""
    config.model.pool.window = 2


def pooling_147(config: ConfigDict) -> None:
    """Pooling with s = 2, z = 2 as in the authors' configuration 147: maps of 55-28-26-13-13-13-11-6 pixels."""
    config.model.pool.update(window=2, ceil=True)
    config.model.conv2.padding = (1, 1)
    config.model.conv5.padding = (0, 0)


def no_colour_noise(config: ConfigDict) -> None:
    """No colour noise (4.1), which reduces the top-1 error by more than one point."""
    config.augment.colour_noise_std = 0.0


def no_dropout(config: ConfigDict) -> None:
    """No dropout (4.2): "substantial overfitting"."""
    config.model.dropout_rate = 0.0


def bias(config: ConfigDict, value: str = "0") -> None:
    """Another initial bias where the paper has 1, which "accelerates the early stages of learning" (5)."""
    for name in paper.BIASED:
        config.model[name].init_bias = float(value)


def paper_start(config: ConfigDict) -> None:
    """The paper's initial weights and biases (5), and one learning rate, for networks that start and learn otherwise.

    Narrow layers have larger weights: their responses are as large as in the paper's network, where 0.01 is enough.
    """
    from alexnet_jax.inference import activations  # with JAX, which a command sets up after reading its config

    full = config_files.parse(paper.get_config()).model
    for name, std in activations.deviations(full, config_files.parse(config).model).items():
        config.model[name].update(init_std=std, init_bias=full.layers()[name].init_bias)
    config.optim.layers = {}


def width(config: ConfigDict, value: str = "0.5") -> None:
    """Another width: this many times the kernels and units of every layer."""
    model = config.model
    try:
        share = float(value)
    except ValueError:
        share = 0.0
    if not 0.02 <= share <= 4:
        raise ValueError(f"the width {value} is no number from 0.02 to 4; 0.5 is half the kernels and units")
    for name in (*(f"conv{number}" for number in range(1, 7)), "fc6", "fc7"):
        if layer := model[name]:
            layer.features = model.towers * round(layer.features * share / model.towers)


def without(config: ConfigDict, name: str = "conv4") -> None:
    """One layer fewer (7): without a middle layer, "a loss of about 2%" of top-1.

    The layer's pooling moves to the layer before it, and its connection between the towers to the layer after it.
    """
    model = config.model
    order = [each for each in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8") if model[each]]
    if name not in order[1:-1]:
        raise ValueError(f"without={name} names no layer that can be removed; give one of {', '.join(order[1:-1])}")
    before, after = (model[order[order.index(name) + step]] for step in (-1, 1))
    if "pool" in model[name].get("then", ()):
        before.then = (*before.then, "pool")
    after.exchange = after.exchange or model[name].exchange
    model[name] = None


# --- Since 2012 ---


# --- The paper's networks with pre-training ---


def six_conv(config: ConfigDict) -> None:
    """Six convolutional layers, for whole releases of ImageNet (6): the authors' configuration 146.

    conv6 sees both towers. Train it on the source `imagenet_full`, then continue with `from_pretrained`. 61,555,304
    parameters with 1000 classes.
    """
    config.model.conv6 = paper.conv(
        256, 3, (1, 1), stride=1, exchange=True, then=paper.PLAIN, init_bias=1.0, init_std=0.03
    )


def from_pretrained(config: ConfigDict) -> None:
    """The layers of a trained `six_conv` and a new fc8 (6, Table 2: 39.0 and 16.6 %).

    Name the run with --config.start.workdir=runs/six_conv.
    """
    six_conv(config)
    config.start.layers = ("conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "fc6", "fc7")


# --- The same network, trained otherwise ---


def epochs(config: ConfigDict, value: str = "90") -> None:
    """Another number of epochs; the learning rate drops at the same parts of the run as in the authors' log."""
    log, count = code2012.get_config(), int(value)
    drops = (max(1, round(epoch * count / log.train.epochs)) for epoch in log.optim.schedule.boundaries_epochs)
    config.train.epochs = count
    config.optim.schedule.update(name="steps", boundaries_epochs=tuple(drops))


def half_size(config: ConfigDict) -> None:
    """Crops of 112 from images of 128: a quarter of the pixels to store and decode.

    Half the stride in conv1 keeps all maps, and so the parameters, as they are. Not in the paper.
    """
    config.data.size = 128
    config.model.image_size = 112
    config.model.conv1.update(stride=2, padding=(3, 4))


def one_device(config: ConfigDict) -> None:
    """Both towers on one device: one program, and the same numbers as on two."""
    config.mesh.tower = 1


def data_parallel(config: ConfigDict) -> None:
    """The whole network on each of two devices, each with half of every batch; again the same numbers.

    For more devices add --config.mesh.data=N; with --config.mesh.tower=2 each copy is split over two devices too.
    """
    config.mesh.update(data=2, tower=1)


VARIANTS = {"code2012": code2012.apply} | {
    function.__name__: function
    for function in (
        *(tanh, one_gpu, no_links, no_lrn, non_overlapping_pooling, pooling_147, no_colour_noise, no_dropout),
        *(bias, paper_start, width, without, six_conv, from_pretrained, *_programs.PROGRAMS),
        *(epochs, half_size, digits.grey_levels, *_later.MEANS, one_device, data_parallel),
    )
}
