"""The keys of a config, their types and the rules between them. The values live in configs/.

A config file returns an `ml_collections.ConfigDict`; `config_files.parse` turns it into the frozen `Config` that the
programs take. A key that is unknown, missing or of the wrong type is an error that names it.
"""

from typing import Annotated, Literal, Self

import pydantic
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from alexnet_jax.model_config import Fraction, Model, Section


class Kind(Section):
    """How one kind of parameter is updated."""

    lr_multiplier: NonNegativeFloat  # of the learning rate
    weight_decay: NonNegativeFloat
    max_drops: NonNegativeInt  # of the schedule; it takes no part in further ones


class LayerOptim(Section):
    weight_decay: NonNegativeFloat | None  # of its weights; None: as of all
    lr_multipliers: tuple[tuple[NonNegativeInt, NonNegativeFloat], ...]  # (epoch, of its weights' rate from then on)


class Schedule(Section):
    name: Literal["constant", "steps", "plateau"]
    factor: Annotated[float, Field(gt=0, le=1)]  # a drop multiplies the learning rate by it
    boundaries_epochs: tuple[PositiveInt, ...]  # steps: a drop at the start of each, counted from epoch 0
    max_drops: NonNegativeInt  # plateau: no more drops than these
    patience_epochs: PositiveInt  # plateau: epochs without a better validation error before a drop


class Optim(Section):
    name: Literal["momentum", "adamw"]
    learning_rate: PositiveFloat
    momentum: Fraction  # of AdamW, its beta1
    adam_beta2: Fraction
    weights: Kind
    biases: Kind
    layers: dict[str, LayerOptim]  # conv1, ...; a rate of 0 freezes a layer, biases and all
    schedule: Schedule


class Augment(Section):
    flip: bool  # mirror half of the training images
    shared_by: PositiveInt  # images in a row of a batch that share one crop and one flip
    mean_crop: Literal["same", "centre"]  # which crop of the mean image is subtracted: the image's own, or the centre
    colour_noise_std: NonNegativeFloat  # of the Gaussian alpha of paper 4.1; 0 switches the noise off
    colour_noise_scale: Literal["eigenvalue", "sqrt_eigenvalue"]  # what alpha multiplies
    colour_noise_shrinks: bool  # True: an image with noise is divided by 1 + colour_noise_std
    colour_noise_epochs: NonNegativeInt  # no noise from this epoch on; 0: always


class Data(Section):
    source: str  # "prepared", or one of data/sources/embedded.py
    directory: str  # of source "prepared": what `alexnet prepare` wrote
    size: PositiveInt  # height and width of the stored images, pixels
    train_split: str
    eval_split: str
    train_examples: NonNegativeInt  # of the split, spread evenly over it; 0: all
    reshuffle: bool  # True: every epoch in an order of its own; False: all in the first one's
    threads: NonNegativeInt  # reading and decoding; 0: in the thread that trains
    prefetch_batches: PositiveInt
    max_bad: Fraction  # share of a split's records that may turn out damaged, since it was started, before a run stops


class Start(Section):
    """Parameters from another run, instead of random ones."""

    workdir: str  # "": none
    layers: tuple[str, ...]  # that are taken from there; the others start at random
    statistics: bool  # True: its mean image and colours too; False: those of the data


class Train(Section):
    batch_size: PositiveInt  # examples a step, over all devices
    epochs: PositiveInt
    max_steps: NonNegativeInt  # stop after so many steps; 0: after `epochs`
    compute_dtype: Literal["float32", "bfloat16"]  # of activations; parameters are float32 always
    log_every_steps: PositiveInt
    eval_every_epochs: PositiveInt
    eval_batch_size: PositiveInt
    save_every_steps: PositiveInt
    keep_checkpoints: PositiveInt
    stop_error: Fraction  # stop once the training error (top-1, between two log lines) is no larger; 0: never
    plateau_steps: PositiveInt  # a loss that stays at ln(classes) for so long is told of
    stall_seconds: NonNegativeInt  # a run that nothing moves in for so long is ended, with exit code 124; 0: never
    wandb_project: str  # at Weights & Biases, where scalars are logged too; "": none
    deterministic: bool  # the same bits in every run on GPUs too, at a cost in speed


class Mesh(Section):
    data: PositiveInt  # devices the batch is split over
    tower: NonNegativeInt  # devices the towers are split over; 0: one each if there are enough, else 1
    fc_sharding: Literal["tower", "data_tower"]  # what fc6, fc7, fc8 are split over: the towers, or all devices


class Config(Section):
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    model: Model
    optim: Optim
    augment: Augment
    data: Data
    start: Start
    train: Train
    mesh: Mesh

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if self.mesh.tower not in (0, 1, self.model.towers):
            raise ValueError(
                f"mesh.tower={self.mesh.tower} is no layout of model.towers={self.model.towers}: give "
                f"{self.model.towers} (a device a tower), 1 (all towers on one device) or 0 (as the devices allow)"
            )
        if self.mesh.fc_sharding == "data_tower" and self.mesh.tower != self.model.towers:
            raise ValueError(f"mesh.fc_sharding=data_tower needs mesh.tower={self.model.towers}, a device a tower")
        for key in ("batch_size", "eval_batch_size"):
            if (size := getattr(self.train, key)) % self.mesh.data:
                raise ValueError(f"train.{key}={size} does not divide by mesh.data={self.mesh.data}; give a multiple")
        images, shared_by = self.train.batch_size // self.mesh.data, self.augment.shared_by
        if images % shared_by:
            raise ValueError(f"augment.shared_by={shared_by} does not divide {images} images a device; give 1")
        known = [name for name, _ in (*self.model.convs(), *self.model.hidden())] + ["fc8"]
        for name in (*self.optim.layers, *self.start.layers):
            if name not in known:
                raise ValueError(f"the config has settings for a layer {name}, and the network has {', '.join(known)}")
        if self.model.image_size > self.data.size:
            raise ValueError(
                f"model.image_size={self.model.image_size} is larger than the stored images, data.size="
                f"{self.data.size}: crops are cut out of them. Prepare larger ones or take configs/cifar10.py"
            )
        return self
