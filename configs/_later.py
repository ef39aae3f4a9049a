"""Methods that came after 2012, each as a variant: the rungs of `alexnet reproduce ladder`."""

from ml_collections import ConfigDict


def he(config: ConfigDict) -> None:
    """He's initial weights, with biases of 0 (arXiv:1502.01852), in all layers but conv1 and fc8.

    The rule keeps the size of a signal, and conv1's inputs are grey levels, tens of times larger than what it is made
    for. fc8 keeps 0.01 so that training starts from nearly equal probabilities.
    """
    for name in ("conv2", "conv3", "conv4", "conv5", "conv6", "fc6", "fc7"):
        if layer := config.model[name]:
            layer.update(init_std="he", init_bias=0.0)


def batch_norm(config: ConfigDict) -> None:
    """Batch normalization (arXiv:1502.03167) in every layer but fc8, in place of local response normalization.

    It takes out what biases did: a layer's bias is now its shift, which starts at 0 as in that paper.
    """
    model = config.model
    for name in ("conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "fc6", "fc7"):
        if layer := model[name]:
            layer.update(batch_norm=True, init_bias=0.0)
            if "then" in layer:
                layer.then = tuple(operation for operation in layer.then if operation != "lrn")


def one_tower(config: ConfigDict) -> None:
    """One tower of full width, whose layers see all maps of those before. 62,378,344 parameters."""
    config.model.towers = 1


def cosine(config: ConfigDict) -> None:
    """A rate that follows half a cosine (arXiv:1608.03983), after a warm-up of 5 epochs of 90 or of as large a part."""
    config.optim.schedule.update(name="cosine", warmup_epochs=config.train.epochs / 18)


def label_smoothing(config: ConfigDict, value: str = "0.1") -> None:
    """Labels of which a share is spread over all classes (arXiv:1512.00567)."""
    config.train.label_smoothing = float(value)


def resized_crops(config: ConfigDict) -> None:
    """Random boxes of 8 to 100 % of the image, resized (arXiv:1409.4842), instead of crops of one size (4.1)."""
    config.augment.crop = "resized"


def nesterov(config: ConfigDict) -> None:
    """Nesterov's momentum (5)."""
    config.optim.name = "nesterov"


def adamw(config: ConfigDict) -> None:
    """AdamW instead of SGD with momentum (5)."""
    config.optim.update(name="adamw", learning_rate=3e-4)
    # Inputs s times as large multiply what a step changes by s^2 under SGD, whose steps grow with gradients, and by s
    # under Adam: so conv1's own rate (`digits.grey_levels`), which makes up for it, is the root of what it was.
    for layer in config.optim.layers.values():
        layer.lr_multipliers = tuple((epoch, *(x**0.5 for x in rates)) for epoch, *rates in layer.lr_multipliers)
    config.optim.weights.weight_decay = 0.05
    config.optim.biases.weight_decay = 0.0


def ema(config: ConfigDict, value: str = "0.999") -> None:
    """The network of an exponential moving average of the parameters, with this decay (arXiv:1512.00567, section 8)."""
    config.optim.ema_decay = float(value)


MEANS = (he, batch_norm, one_tower, cosine, label_smoothing, resized_crops, nesterov, adamw, ema)
