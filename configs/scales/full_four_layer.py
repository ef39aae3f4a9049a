"""Figure 1 (paper 3.1) at full scale: a four-layer network for CIFAR-10 without regularization of any kind.

    alexnet reproduce --scale full --claims relu --data CIFAR10

The network is that of paper 3.3, configs/variants/cifar_four_layer.py, without weight decay, crops or flips, at one
learning rate. It ends when the training error is 25 %, measured over half an epoch.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs.variants import cifar_four_layer


def get_config() -> ConfigDict:
    config = cifar_four_layer.get_config()
    optim = config.optim
    config.model.update(image_size=32, dropout_rate=0.0)  # the whole image: no crops
    optim.layers = {}
    optim.weights.weight_decay = optim.biases.weight_decay = 0.0
    optim.schedule.name = "constant"
    config.augment.flip = False
    config.train.update(epochs=60, log_every_steps=195, eval_every_epochs=60, stop_error=0.25, plateau_steps=2000)
    return config
