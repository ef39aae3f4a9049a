"""The paper: Krizhevsky, Sutskever and Hinton, ImageNet Classification with Deep Convolutional Neural Networks, 2012.

    alexnet train --config paper --config.data.directory=DATA --workdir runs/paper

Lists every key with the section of the paper that its value comes from, or says that the paper does not give it;
run_config.py and model_config.py explain the keys. The paper's numbers: 40.7 % top-1 and 18.2 % top-5 error on the
ILSVRC-2012 validation set, ten views (Table 2).
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference, placeholder

# What follows a convolution: 3.3 normalizes "after applying the ReLU nonlinearity", 3.5 pools the normalized maps.
PLAIN, POOL, NORM_POOL = ("activation",), ("activation", "pool"), ("activation", "lrn", "pool")


BIASED = ("conv2", "conv4", "conv5", "fc6", "fc7")  # 5: their biases start at 1


def get_config() -> ConfigDict:
    return ConfigDict(
        dict(
            seed=0,
            model=model(),
            optim=optim(),
            augment=augment(),
            data=data(),
            start=start(),
            train=train(),
            mesh=mesh(),
        )
    )


def model() -> dict:
    return dict(
        image_size=224,  # 4.1: random 224x224 patches
        num_classes=1000,  # 3.5
        towers=2,  # 3.2: one on each GPU
        activation="relu",  # 3.1
        dropout_rate=0.5,  # 4.2
        dropout_scaling="test",  # 4.2: "at test time, we use all the neurons but multiply their outputs by 0.5"
        lrn=dict(k=2.0, n=5, alpha=1e-4, beta=0.75, across_towers=False),  # 3.3; on each GPU as in the authors' code
        map_norm=dict(n=5, alpha=0.001 / 25, beta=0.75),  # not in the paper and used by no layer here; see code2012.py
        batch_norm=dict(epsilon=1e-5, momentum=0.9),  # of 2015 and used by no layer here; see `variants:batch_norm`
        pool=dict(window=3, stride=2, ceil=False),  # 3.4: overlapping
        # 3.5: kernels, strides, normalization, pooling, and which layers are connected to both GPUs. The paper does
        # not give the padding: only this one yields its map sizes, conv1 with 3 zeros at the right and bottom as in
        # the authors' code. 5: weights from a Gaussian of standard deviation 0.01; biases are 1 in conv2, conv4,
        # conv5, fc6 and fc7, and 0 elsewhere.
        conv1=conv(96, 11, (0, 3), stride=4, exchange=False, then=NORM_POOL, init_bias=0.0),
        conv2=conv(256, 5, (2, 2), stride=1, exchange=False, then=NORM_POOL, init_bias=1.0),
        conv3=conv(384, 3, (1, 1), stride=1, exchange=True, then=PLAIN, init_bias=0.0),
        conv4=conv(384, 3, (1, 1), stride=1, exchange=False, then=PLAIN, init_bias=1.0),
        conv5=conv(256, 3, (1, 1), stride=1, exchange=False, then=POOL, init_bias=1.0),
        conv6=None,  # 6: only in the networks that were trained on all of ImageNet
        fc6=dict(features=4096, exchange=True, batch_norm=False, dropout=True, init_std=std(0.01), init_bias=1.0),
        fc7=dict(features=4096, exchange=True, batch_norm=False, dropout=True, init_std=std(0.01), init_bias=1.0),
        fc8=dict(exchange=True, init_std=std(0.01), init_bias=0.0),
    )


def conv(features, kernel, padding, stride, exchange, then, init_bias, init_std=0.01) -> dict:
    return dict(
        features=features,
        kernel=kernel,
        stride=stride,
        padding=padding,
        exchange=exchange,
        shared=True,
        batch_norm=False,
        then=then,
        init_std=std(init_std),
        init_bias=init_bias,
    )


def std(value: float | str) -> FieldReference:
    """An `init_std`, a number or "he", that can be set to either: ConfigDict fixes the type of all other keys."""
    return FieldReference(value, field_type=object)


def optim() -> dict:
    return dict(
        name="momentum",  # 5
        learning_rate=0.01,  # 5
        momentum=0.9,  # 5
        adam_beta2=0.999,  # only for `adamw`
        weights=dict(lr_multiplier=1.0, weight_decay=0.0005, max_drops=3),  # 5
        biases=dict(lr_multiplier=1.0, weight_decay=0.0005, max_drops=3),  # 5: "an equal learning rate for all layers"
        layers=dict(),  # layer -> `layer(...)`: settings that differ from those above
        ema_decay=0.0,  # not in the paper
        schedule=dict(
            name="plateau",  # 5: divided by 10 when the validation error stops improving
            warmup_epochs=0.0,  # not in the paper
            factor=0.1,  # 5
            boundaries_epochs=(),  # only for `steps`; in the authors' log the rate drops at 23, 51 and 78
            max_drops=3,  # 5: "reduced three times"
            patience_epochs=5,  # not in the paper
        ),
    )


def layer(weight_decay=None, lr_multipliers=()) -> dict:
    """Settings of a single layer: see run_config.LayerOptim."""
    return dict(weight_decay=weight_decay, lr_multipliers=lr_multipliers)


def augment() -> dict:
    return dict(
        crop="random",  # 4.1
        crop_area=(0.08, 1.0),  # only for `resized`, of 2014
        crop_aspect=(3 / 4, 4 / 3),
        flip=True,  # 4.1
        shared_by=1,  # 4.1: each image has a patch of its own
        mean_crop="same",  # 2: "the mean activity over the training set from each pixel"
        colour_noise_std=0.1,  # 4.1
        colour_noise_scale="eigenvalue",  # 4.1; for colours in 0..1 (on 0..255 the noise would drown the image)
        colour_noise_shrinks=False,
        colour_noise_epochs=0,
    )


def data() -> dict:
    return dict(
        source="prepared",
        directory="",  # written by `alexnet prepare`
        val_fraction=placeholder(float),
        statistics_examples=10_000,  # 2: all, as in what `alexnet prepare` wrote
        statistics_file="",
        size=256,  # 2: short side 256, then the central 256x256
        train_split="train",
        eval_split="val",
        train_examples=0,  # all
        reshuffle=True,  # not in the paper
        threads=2,
        prefetch_batches=4,
        max_bad=0.001,
    )


def start() -> dict:
    return dict(workdir="", layers=())


def train() -> dict:
    return dict(
        batch_size=128,  # 5
        epochs=90,  # 5: "roughly 90 cycles"
        max_steps=0,
        label_smoothing=0.0,  # not in the paper
        compute_dtype="float32",  # the GTX 580 had no other
        loss_scale=dict(initial=2.0**16, largest=2.0**24, growth_interval_steps=2000),  # only for float16
        # "highest" multiplies in float32 throughout, as the GTX 580 did. "default" rounds the factors to TF32 on GPUs
        # and to bfloat16 on TPUs, which is several times faster, and how networks are commonly trained today.
        matmul_precision="default",
        fused_kernels=True,
        log_every_steps=100,
        eval_every_epochs=1,
        eval_batch_size=128,
        save_every_steps=2000,
        keep_checkpoints=2,
        keep_every_steps=0,
        stop_error=0.0,
        plateau_steps=2000,
        stall_seconds=900,
        wandb_project="",
        deterministic=False,
        virtual_shards=0,
    )


def mesh() -> dict:
    return dict(
        data=1,  # the paper splits the towers only
        tower=0,  # 3.2: one tower on each device if there are two, otherwise both on one
        fc_sharding="tower",  # 3.2; "data_tower" is the scheme of arXiv:1404.5997, for many devices
    )
