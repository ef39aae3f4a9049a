"""The networks that `alexnet reproduce` trains: the paper's, at sizes for two CPU cores, and that of its Figure 1.

    alexnet reproduce --scale small --data DATA
    alexnet train --config scales:small --config.data.directory=DATA --workdir runs/small

DATA is CIFAR-10 as `alexnet prepare` wrote it; for --scale photos, ten classes of photos, prepared with --size 144.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import cifar10, cifar_four_layer, digits, paper
from alexnet_jax.configs import photos as photo_sets


def get_config(name: str = "") -> ConfigDict:
    """Return the config called `name`: one of the functions below."""
    if name not in SCALES:
        raise ValueError(f"there is no scale {name!r}; write scales:NAME with one of {', '.join(SCALES)}")
    return SCALES[name]()


def small() -> ConfigDict:
    """The paper's network with a sixth of its kernels, for 10,000 CIFAR-10 images: a minute or two a run.

    With crops of 23x23 from 32x32, pooling with z = 3 and with z = 2 gives maps of the same sizes, 11, 5 and 2, as in
    the paper. Both towers are on one device.
    """
    config = paper.get_config()
    digits.small_images(config.model, image_size=23, kernels=(16, 48, 64, 64, 48), units=256)
    config.model.num_classes = 10
    config.model.dropout_rate = 0.25  # the paper's 0.5 is too much for so few units and epochs
    config.optim.learning_rate = 0.005  # at 0.01 the network does not train without normalization
    config.optim.schedule.update(name="steps", boundaries_epochs=(8, 9))
    config.augment.colour_noise_scale = "sqrt_eigenvalue"
    config.data.update(size=32, eval_split="test", train_examples=10000)
    config.train.update(
        batch_size=64, epochs=10, eval_batch_size=500, eval_every_epochs=10, log_every_steps=100, plateau_steps=300
    )
    config.mesh.tower = 1
    return config


def photos() -> ConfigDict:
    """The paper's network with a quarter of its kernels, for some thousand photos in twelve epochs."""
    config = photo_sets.get_config("0.25")
    config.mesh.tower = 1
    return _trained_for(config, 12, (8, 11))


def photos_few() -> ConfigDict:
    """`photos:0.25` for a few hundred photos, each seen ten times as often: as many steps as for some thousands."""
    return _trained_for(photo_sets.get_config("0.25"), 600, (400, 520))


def cifar10_brief() -> ConfigDict:
    """The config cifar10 with fewer images and epochs: some minutes a run."""
    config = cifar10_half()
    config.data.train_examples = 16000
    return _trained_for(config, 6, (4, 5))


def cifar10_half() -> ConfigDict:
    """The config cifar10 with half the epochs, both towers on one device."""
    config = cifar10.get_config()
    config.mesh.tower = 1
    return _trained_for(config, 14, (10, 13))


def cifar10_few() -> ConfigDict:
    """`cifar10_half` for a few hundred images, each seen twenty times as often."""
    return _trained_for(cifar10_half(), 280, (210, 260))


def _trained_for(config: ConfigDict, epochs: int, drops: tuple[int, int]) -> ConfigDict:
    """The config with another number of epochs, and those after which the learning rate drops."""
    config.optim.schedule.boundaries_epochs = drops
    config.train.update(epochs=epochs, eval_every_epochs=epochs)
    return config


def small_start() -> ConfigDict:
    """For the map of when training starts: the paper's network with few kernels, and no noise that is not at the start.

    The initial values, learning rate, normalization and number of classes are those of the map's cell.
    """
    config = small()
    for name, features in zip(("conv1", "conv2", "conv3", "conv4", "conv5"), (8, 24, 32, 32, 24), strict=True):
        config.model[name].features = features
    config.model.fc6.features = config.model.fc7.features = 128
    config.model.dropout_rate = 0.5
    config.optim.schedule.name = "constant"
    config.train.update(batch_size=64, max_steps=1000, log_every_steps=50)
    return config


def full_start() -> ConfigDict:
    """`small_start` with the paper's network and batches, for a GPU."""
    config = paper.get_config()
    config.optim.schedule.name = "constant"
    config.data.train_examples = 10000
    config.train.update(max_steps=3000, log_every_steps=50)
    config.mesh.tower = 1
    return config


def small_cifar() -> ConfigDict:
    """The four-layer network of the paper's CIFAR-10 claim (3.3) with half its kernels: 6,000 images, 10 epochs."""
    config = cifar_four_layer.get_config()
    stds = {"conv1": (32, 0.002), "conv2": (32, 0.05), "conv3": (16, 0.08), "conv4": (16, 0.1)}  # for so few inputs
    for name, (features, std) in stds.items():
        config.model[name].update(features=features, init_std=std)
    config.optim.learning_rate = 0.001
    config.optim.schedule.boundaries_epochs = (8,)
    config.data.train_examples = 6000
    config.train.update(batch_size=64, epochs=10, eval_every_epochs=10, log_every_steps=47, plateau_steps=282)
    return config


def small_cifar_lrn() -> ConfigDict:
    """`small_cifar` with local response normalization."""
    config = small_cifar()
    cifar_four_layer.add_lrn(config)
    return config


def full_four_layer() -> ConfigDict:
    """Figure 1 (3.1): a four-layer network for CIFAR-10 without regularization of any kind.

    It is the network of 3.3 without weight decay, crops or flips, at a constant learning rate. Training ends when the
    training error, measured over half an epoch, is 25 %.
    """
    config = cifar_four_layer.get_config()
    optim = config.optim
    config.model.update(image_size=32, dropout_rate=0.0)  # the whole image: no crops
    optim.layers = {}
    optim.weights.weight_decay = optim.biases.weight_decay = 0.0
    optim.schedule.name = "constant"
    config.augment.flip = False
    config.train.update(epochs=60, log_every_steps=195, eval_every_epochs=60, stop_error=0.25, plateau_steps=2000)
    return config


def small_four_layer() -> ConfigDict:
    """Figure 1 for two CPU cores: half the kernels, 10,000 images, some minutes a run."""
    config = full_four_layer()
    model = config.model
    for layer, features in ((model.conv1, 32), (model.conv2, 32), (model.conv3, 16), (model.conv4, 16)):
        layer.features = features
    config.data.train_examples = 10000
    config.train.log_every_steps = 39
    return config


SCALES = {
    function.__name__: function
    for function in (
        *(small, photos, photos_few, cifar10_brief, cifar10_half, cifar10_few, small_start, full_start),
        *(small_cifar, small_cifar_lrn, small_four_layer, full_four_layer),
    )
}
