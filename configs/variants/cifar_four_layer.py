"""A four-layer network for CIFAR-10, as paper 3.1 and 3.3 speak of: two convolutional layers and two locally connected.

    python -m alexnet_jax.main --config configs/variants/cifar_four_layer.py --config.data.directory=DATA ...

The geometry, rates and decays of the authors' cuda-convnet files: without normalization, that of "13 %";
configs/variants/cifar_lrn.py is that of "11 %". One tower; crops of 24x24 out of 32x32; DATA is CIFAR-10 prepared at
size 32.
"""

from ml_collections import ConfigDict

from alexnet_jax.configs import paper


def get_config() -> ConfigDict:
    config = paper.get_config()
    model, optim = config.model, config.optim
    model.update(image_size=24, num_classes=10, towers=1)
    model.lrn.update(k=1.0, n=9, alpha=0.001 / 9)
    model.pool.ceil = True
    model.conv1 = paper.conv(64, 5, (2, 2), 1, exchange=False, then=paper.POOL, init_bias=0.0, init_std=1e-4)
    model.conv2 = paper.conv(64, 5, (2, 2), 1, exchange=False, then=paper.POOL, init_bias=0.0, init_std=0.01)
    for name in ("conv3", "conv4"):
        model[name] = paper.conv(32, 3, (1, 1), 1, exchange=False, then=paper.PLAIN, init_bias=0.0, init_std=0.04)
        model[name].shared = False
    model.conv5 = model.fc6 = model.fc7 = None
    optim.learning_rate = 0.001
    optim.weights.weight_decay = 0.0
    optim.biases.update(lr_multiplier=2.0, weight_decay=0.0)
    for name, decay in (("conv3", 0.004), ("conv4", 0.004), ("fc8", 0.004)):
        optim.layers[name] = paper.layer(weight_decay=decay)
    optim.schedule.update(name="steps", boundaries_epochs=(500, 510))
    config.augment.colour_noise_std = 0.0
    config.data.update(size=32, eval_split="test")
    config.train.update(epochs=520, eval_batch_size=500, eval_every_epochs=10)
    return config
