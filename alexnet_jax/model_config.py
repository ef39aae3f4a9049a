"""The keys of a config that describe the network, `config.model` (paper 3.1 to 3.5); the values are in configs/."""

from typing import Annotated, Literal, Self

import pydantic
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

Fraction = Annotated[float, Field(ge=0, lt=1)]
Std = PositiveFloat | Literal["he"]  # standard deviation; "he": sqrt(2 / inputs of a unit), as in arXiv:1502.01852


class Section(pydantic.BaseModel):
    """A group of keys: immutable, strictly typed, and without unknown keys."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True)


class Conv(Section):
    """A convolutional layer: `model.conv1` to `model.conv6`."""

    features: PositiveInt  # kernels in the whole layer; each tower holds an equal share
    kernel: PositiveInt  # height and width of a kernel, pixels
    stride: PositiveInt  # pixels
    padding: tuple[NonNegativeInt, NonNegativeInt]  # zeros before and after, along both height and width
    exchange: bool  # True: the input is the maps of all towers; False: those of the layer's own tower
    shared: bool  # True: one set of kernels for the whole image; False: another set, and biases, at each output pixel
    batch_norm: bool  # normalize the convolution's output, before the bias and what is in `then`
    then: tuple[Literal["activation", "lrn", "map_norm", "pool"], ...]  # operations after the convolution, in order
    init_std: Std  # of the initial weights; their mean is zero
    init_bias: float  # initial value of the biases

    def output(self, size: int) -> int:
        """Height or width after the convolution, for an input of `size` pixels."""
        return (size + sum(self.padding) - self.kernel) // self.stride + 1


class Dense(Section):
    """A hidden fully connected layer: `model.fc6` and `model.fc7`."""

    features: PositiveInt  # units in the whole layer; each tower holds an equal share
    exchange: bool  # as for `Conv`
    batch_norm: bool  # as for `Conv`; before the activation
    dropout: bool  # whether dropout follows, at `model.dropout_rate`
    init_std: Std
    init_bias: float


class Head(Section):
    """The output layer, `model.fc8`: one unit per class, with the classes split over the towers."""

    exchange: bool  # as for `Conv`
    init_std: Std
    init_bias: float


def std(init_std: Std, inputs: int) -> float:
    """The deviation that `init_std` stands for in a layer whose units have so many inputs."""
    return (2 / inputs) ** 0.5 if init_std == "he" else init_std


class Lrn(Section):
    """Local response normalization, paper 3.3: x / (k + alpha * sum of x^2 over n channels)^beta."""

    k: PositiveFloat
    n: PositiveInt  # width of the centred window, channels; odd
    alpha: NonNegativeFloat
    beta: NonNegativeFloat
    across_towers: bool  # True: windows reach into the next tower, as in Caffe; False: they stay in their own


class MapNorm(Section):
    """Normalization within each map, in the authors' code only: x / (1 + alpha * sum of x^2 over n x n pixels)^beta."""

    n: PositiveInt  # side of the centred window, pixels; odd
    alpha: NonNegativeFloat
    beta: NonNegativeFloat


class BatchNorm(Section):
    """Batch normalization (arXiv:1502.03167): scale * (x - mean) / sqrt(variance + epsilon) + bias, for each map.

    Mean and variance are those of the batch over all devices; at test time, their running averages.
    """

    epsilon: PositiveFloat
    momentum: Fraction  # the share of the running averages that a step keeps


class Pool(Section):
    """Max-pooling, paper 3.4; the windows overlap where window > stride."""

    window: PositiveInt  # pixels (the paper's z)
    stride: PositiveInt  # pixels (the paper's s)
    ceil: bool  # True: the last window may extend past the edge; False: pixels that do not fill a window are dropped

    def output(self, size: int) -> int:
        """Height or width after pooling, for an input of `size` pixels."""
        return (size - self.window + (self.stride - 1 if self.ceil else 0)) // self.stride + 1


class Model(Section):
    """The network, `config.model`."""

    image_size: PositiveInt  # height and width of the network's input, a crop of the stored image, pixels
    num_classes: Annotated[int, Field(ge=2)]
    towers: PositiveInt  # columns the layers are split into; the paper has two, one per GPU
    activation: Literal["relu", "tanh"]
    dropout_rate: Fraction  # probability that a unit is dropped
    dropout_scaling: Literal["test", "training"]  # when units are rescaled; the paper does it at test time
    lrn: Lrn
    map_norm: MapNorm
    batch_norm: BatchNorm
    pool: Pool
    conv1: Conv
    conv2: Conv | None  # None, here and below: the network does not have this layer
    conv3: Conv | None
    conv4: Conv | None
    conv5: Conv | None
    conv6: Conv | None
    fc6: Dense | None
    fc7: Dense | None
    fc8: Head

    def convs(self) -> list[tuple[str, Conv]]:
        """The convolutional layers that exist, in order, as (name, layer)."""
        return [(name, layer) for name, layer in self.layers().items() if isinstance(layer, Conv)]

    def hidden(self) -> list[tuple[str, Dense]]:
        """The hidden fully connected layers that exist, in order, as (name, layer)."""
        return [(name, layer) for name, layer in self.layers().items() if isinstance(layer, Dense)]

    def normalized(self) -> list[str]:
        """The names of the layers with batch normalization."""
        return [name for name, layer in self.layers().items() if not isinstance(layer, Head) and layer.batch_norm]

    def layers(self) -> dict[str, Conv | Dense | Head]:
        """All layers that exist, in order, by name."""
        return {name: layer for name, layer in self if isinstance(layer, Conv | Dense | Head)}

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        for norm in ("lrn", "map_norm"):
            if getattr(self, norm).n % 2 == 0:
                raise ValueError(f"model.{norm}.n={getattr(self, norm).n} must be odd: the window is centred")
        for name, layer in self.layers().items():
            if not isinstance(layer, Head) and layer.features % self.towers:
                raise ValueError(
                    f"model.{name}.features={layer.features} does not divide by model.towers={self.towers}; "
                    "each tower holds an equal share of a layer"
                )
        size = self.image_size
        for name, conv in self.convs():
            size = conv.output(size)
            if "pool" in conv.then and size > 0:
                size = self.pool.output(size)
            if size < 1:
                raise ValueError(
                    f"model.image_size={self.image_size} is too small: nothing is left of the image after "
                    f"{name}; give a larger image, smaller strides, more padding or less pooling"
                )
        return self
