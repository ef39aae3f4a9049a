"""A four-layer network for CIFAR-10 without regularization of any kind, for Figure 1 (paper 3.1).

    python -m alexnet_jax.reproduce --scale small --claims relu --data CIFAR10

Three convolutional layers and a fully connected one, as the authors' cuda-convnet "18 %" file, at half its kernels. It
ends when the training error is 25 %, measured over half an epoch of 4,000 images.
"""

from ml_collections import ConfigDict

from configs import paper


def get_config() -> ConfigDict:
    config = paper.get_config()
    model, optim = config.model, config.optim
    model.update(image_size=32, num_classes=10, towers=1, dropout_rate=0.0)  # the whole image: no crops
    model.pool.ceil = True
    for name, features, std in (("conv1", 16, 1e-4), ("conv2", 16, 0.01), ("conv3", 32, 0.01)):
        model[name] = paper.conv(features, 5, (2, 2), 1, exchange=False, then=paper.POOL, init_bias=0.0, init_std=std)
    model.conv4 = model.conv5 = model.fc6 = model.fc7 = None
    model.fc8.init_std = 0.1
    optim.weights.weight_decay = optim.biases.weight_decay = 0.0
    optim.schedule.name = "constant"
    config.augment.update(flip=False, colour_noise_std=0.0)
    config.data.update(size=32, eval_split="test", train_examples=4000)
    config.train.update(batch_size=128, epochs=150, log_every_steps=16, eval_batch_size=500, eval_every_epochs=150)
    config.train.update(stop_error=0.25, plateau_steps=1000)
    return config
