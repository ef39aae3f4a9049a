"""The reference of all config keys: their types, their meanings and the rules between them.

The values live in configs/. A config file returns an `ml_collections.ConfigDict`, which `run.config_files.parse` turns
into the immutable `Config` that the programs take. A key that is unknown, missing or of the wrong type is an error that
names it.
"""

from typing import Annotated, Literal, Self

import pydantic
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from alexnet_jax.model_config import Fraction, Model, Section


class Kind(Section):
    """The update of one kind of parameter: `optim.weights` and `optim.biases`."""

    lr_multiplier: NonNegativeFloat  # multiplies the learning rate
    weight_decay: NonNegativeFloat
    max_drops: NonNegativeInt  # the kind follows this many drops of the schedule and ignores the rest


class LayerOptim(Section):
    """Overrides for one layer: `optim.layers[name]`."""

    weight_decay: NonNegativeFloat | None  # of the layer's weights; None: `optim.weights.weight_decay`
    # each (epoch, multiplier of the weights' learning rate from then on, that of the biases'); 0 freezes them
    lr_multipliers: tuple[tuple[NonNegativeInt, NonNegativeFloat, NonNegativeFloat], ...]


class Schedule(Section):
    """When the learning rate drops: never, at given epochs, when the validation error stops improving, or steadily.

    `cosine` takes it from `learning_rate` after the warm-up to 0 at the end of `train.epochs`, as half a cosine.
    """

    name: Literal["constant", "steps", "plateau", "cosine"]
    warmup_epochs: NonNegativeFloat  # over which the rate rises from 0, linearly; under any of these schedules
    factor: Annotated[float, Field(gt=0, le=1)]  # a drop multiplies the learning rate by this
    boundaries_epochs: tuple[PositiveInt, ...]  # steps: the epochs, counted from 0, at whose start the rate drops
    max_drops: NonNegativeInt  # plateau: the rate drops at most this often
    patience_epochs: PositiveInt  # plateau: epochs without a lower top-1 validation error before a drop


class Optim(Section):
    """The update rule and its learning rates (paper section 5)."""

    name: Literal["momentum", "nesterov", "adamw"]
    learning_rate: PositiveFloat  # at the start, or after the warm-up
    momentum: Fraction  # adamw: beta1
    adam_beta2: Fraction  # adamw only
    weights: Kind
    biases: Kind
    layers: dict[str, LayerOptim]  # by layer name (conv1, ...)
    ema_decay: Fraction  # of an average of the parameters, which the trained network has instead of the last; 0: none
    schedule: Schedule


class Augment(Section):
    """Random changes to training images (paper 4.1)."""

    # random: a crop of model.image_size pixels; resized: a box of any size, resized to that, as torchvision's
    # RandomResizedCrop does (arXiv:1409.4842)
    crop: Literal["random", "resized"]
    crop_area: tuple[PositiveFloat, PositiveFloat]  # resized: the least and the largest share of the image
    crop_aspect: tuple[PositiveFloat, PositiveFloat]  # resized: the least and the largest width / height
    flip: bool  # mirror each image with probability 1/2
    shared_by: PositiveInt  # consecutive images of a batch that share one crop and one flip
    mean_crop: Literal["same", "centre"]  # the crop of the mean image to subtract: the image's own, or the central one
    colour_noise_std: NonNegativeFloat  # standard deviation of the paper's alpha; 0: no colour noise
    colour_noise_scale: Literal["eigenvalue", "sqrt_eigenvalue"]  # what alpha multiplies: the paper's, the code's
    colour_noise_shrinks: bool  # True: divide images with colour noise by 1 + colour_noise_std
    colour_noise_epochs: NonNegativeInt  # colour noise ends at this epoch; 0: it never ends

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if not self.crop_area[0] <= self.crop_area[1] <= 1:
            raise ValueError(f"augment.crop_area={self.crop_area} is no range of shares; give two in order, up to 1")
        if not self.crop_aspect[0] <= 1 <= self.crop_aspect[1]:
            raise ValueError(f"augment.crop_aspect={self.crop_aspect} leaves out squares; give a range around 1")
        return self


class Data(Section):
    """Where images come from and how they are read."""

    source: str  # "prepared", or one of those that `alexnet prepare` reads, then decoded whenever an image is read
    directory: str  # prepared: the output folder of `alexnet prepare`; otherwise what the source reads, its --input
    val_fraction: Fraction | None  # not prepared: as --val_fraction of `alexnet prepare`; None: the source's own
    statistics_examples: NonNegativeInt  # not prepared: training images for mean and colours, chosen by seed; 0: all
    statistics_file: str  # the mean image and colour statistics, as in statistics.npz of a run; "": those of the data
    size: PositiveInt  # height and width of the stored images, pixels
    train_split: str
    eval_split: str
    train_examples: NonNegativeInt  # training images to use, spread evenly over the split; 0: all
    reshuffle: bool  # True: a new order in every epoch; False: the first epoch's order in all
    threads: NonNegativeInt  # threads that read and decode; 0: the training thread does it
    prefetch_batches: PositiveInt  # batches read ahead
    max_bad: Fraction  # a run stops once a larger share of a split's records has turned out to be damaged


class Start(Section):
    """Parameters to start from, taken from another run."""

    workdir: str  # of the other run; "": start at random
    layers: tuple[str, ...]  # names of the layers to take; the others start at random


class LossScale(Section):
    """What the loss is multiplied by in float16, lest small gradients be rounded to 0: `train.loss_scale`.

    The scale halves when a gradient overflows, which skips the step (see docs/devices.md).
    """

    initial: Annotated[float, Field(ge=1)]
    largest: PositiveFloat  # it grows no further
    growth_interval_steps: PositiveInt  # it doubles after so many steps without an overflow


class Train(Section):
    """The length of a run, its arithmetic, and when it reports and saves."""

    batch_size: PositiveInt  # examples per step, over all devices
    epochs: PositiveInt
    max_steps: NonNegativeInt  # stop after this many steps, or after `epochs` if that is sooner; 0: no limit
    label_smoothing: Fraction  # share of each label spread over all classes, in training alone; 0: none
    compute_dtype: Literal["float32", "bfloat16", "float16"]  # of activations; parameters are always float32
    loss_scale: LossScale  # float16 only
    matmul_precision: Literal["default", "high", "highest"]  # of float32 products on GPUs and TPUs: see docs/devices.md
    fused_kernels: bool  # on GPUs and TPUs, True: one kernel for bias, ReLU, normalization and pooling; False: XLA's
    log_every_steps: PositiveInt
    eval_every_epochs: PositiveInt
    eval_batch_size: PositiveInt
    save_every_steps: PositiveInt
    keep_checkpoints: PositiveInt  # the newest ones; older checkpoints are deleted
    keep_every_steps: NonNegativeInt  # but those of multiples of this step are kept, for `alexnet verify-run`; 0: none
    stop_error: Fraction  # stop when the top-1 training error between two log lines is at most this; 0: never
    plateau_steps: PositiveInt  # warn when the loss has stayed at ln(num_classes) for this many steps
    stall_seconds: NonNegativeInt  # end a run that makes no progress for this long, with exit code 124; 0: never
    wandb_project: str  # log scalars to this Weights & Biases project too; "": do not
    deterministic: bool  # True: the same bits in every run on GPUs too, at some cost in speed
    virtual_shards: NonNegativeInt  # compute in this many parts of a batch, for the same bits on any mesh.data; 0: no


class Mesh(Section):
    """The layout of the devices, data x tower."""

    data: PositiveInt  # devices that the batch is split over
    tower: NonNegativeInt  # devices that the towers are split over; 0: one per tower if there are enough, otherwise 1
    fc_sharding: Literal["tower", "data_tower"]  # fc6, fc7 and fc8 are split over the tower axis, or over both axes


class Config(Section):
    """All settings of a run."""

    seed: Annotated[int, Field(ge=0, lt=2**31)]  # of initial parameters, data order, augmentation and dropout
    model: Model
    optim: Optim
    augment: Augment
    data: Data
    start: Start
    train: Train
    mesh: Mesh

    def __hash__(self) -> int:  # without optim, which holds a dict
        return hash((self.model, self.train, self.mesh))

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        towers = self.model.towers
        if self.mesh.tower not in (0, 1, towers):
            raise ValueError(
                f"mesh.tower={self.mesh.tower} does not fit model.towers={towers}: give {towers} (one device per "
                "tower), 1 (all towers on one device) or 0 (whichever the devices allow)"
            )
        if self.mesh.fc_sharding == "data_tower" and self.mesh.tower != towers:
            raise ValueError(f"mesh.fc_sharding=data_tower needs mesh.tower={towers}, one device per tower")
        for key in ("batch_size", "eval_batch_size"):
            if (size := getattr(self.train, key)) % self.mesh.data:
                raise ValueError(f"train.{key}={size} does not divide by mesh.data={self.mesh.data}; give a multiple")
        images, shared_by = self.train.batch_size // self.mesh.data, self.augment.shared_by
        if images % shared_by:
            raise ValueError(f"augment.shared_by={shared_by} does not divide the {images} images per device; give 1")
        if self.optim.schedule.warmup_epochs >= self.train.epochs:
            raise ValueError(
                f"optim.schedule.warmup_epochs={self.optim.schedule.warmup_epochs} leaves none of train.epochs="
                f"{self.train.epochs} for the full learning rate; give fewer"
            )
        if self.train.keep_every_steps % self.train.save_every_steps:
            raise ValueError(
                f"train.keep_every_steps={self.train.keep_every_steps} is no multiple of train.save_every_steps="
                f"{self.train.save_every_steps}, at which checkpoints are written; give one"
            )
        if shards := self.train.virtual_shards:
            self._check_shards(shards)
        for name in (*self.optim.layers, *self.start.layers):
            if name not in self.model.layers():
                known = ", ".join(self.model.layers())
                raise ValueError(f"the config has settings for layer {name}, but the network has only {known}")
        if self.start.workdir and not self.start.layers:
            raise ValueError(
                f"start.workdir={self.start.workdir}, but start.layers names none to take from it; name some, as in "
                "configs/finetune.py"
            )
        if self.model.image_size > self.data.size:
            raise ValueError(
                f"model.image_size={self.model.image_size} is larger than the stored images, data.size="
                f"{self.data.size}, which crops are cut from. Prepare larger images or take configs/cifar10.py"
            )
        return self

    def _check_shards(self, shards: int) -> None:
        key, train = f"train.virtual_shards={shards}", self.train
        if shards & (shards - 1):
            raise ValueError(f"{key} is no power of two; give 1, 2, 4, 8, ... or 0 for none")
        if names := self.model.normalized():
            raise ValueError(
                f"{key} computes the parts of a batch apart, and {names[0]} is normalized over the whole batch; give "
                "0, or a network without batch_norm"
            )
        if shards % self.mesh.data:
            raise ValueError(f"{key} does not divide by mesh.data={self.mesh.data}; give a divisor as mesh.data")
        if self.mesh.fc_sharding != "tower":
            raise ValueError(f"{key} needs mesh.fc_sharding=tower: splitting kernels over the data axis changes sums")
        for size in (train.batch_size, train.eval_batch_size):
            if size % shards:
                raise ValueError(f"batches of {size} images do not divide into {key}; give a multiple")
        if train.batch_size // shards % self.augment.shared_by:
            raise ValueError(f"augment.shared_by={self.augment.shared_by} does not divide the parts of {key}; give 1")
