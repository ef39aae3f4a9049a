"""The keys of a config that describe the network: `config.model`."""

from typing import Annotated, Literal, Self

import pydantic
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

Fraction = Annotated[float, Field(ge=0, lt=1)]


class Section(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, strict=True)


class Conv(Section):
    features: PositiveInt  # kernels of the whole layer; each tower holds an equal share
    kernel: PositiveInt  # height and width, pixels
    stride: PositiveInt  # pixels
    padding: tuple[NonNegativeInt, NonNegativeInt]  # zeros before and after, along height and width
    exchange: bool  # True: sees the maps of all towers; False: only its own tower's
    shared: bool  # False: kernels of their own at every place (locally connected)
    then: tuple[Literal["activation", "lrn", "map_norm", "pool"], ...]  # what follows the convolution, in order
    init_std: PositiveFloat  # of the kernel's zero-mean Gaussian
    init_bias: float


class Dense(Section):
    """One hidden fully connected layer."""

    features: PositiveInt  # units of the whole layer; each tower holds an equal share
    exchange: bool
    dropout: bool  # at the rate of `model.dropout_rate`
    init_std: PositiveFloat
    init_bias: float


class Head(Section):
    """fc8: `model.num_classes` units, the classes split over the towers."""

    exchange: bool
    init_std: PositiveFloat
    init_bias: float


class Lrn(Section):
    """Local response normalization, paper 3.3: x / (k + alpha * sum of x^2 over n channels)^beta."""

    k: PositiveFloat
    n: PositiveInt  # odd: channels in the window, centred
    alpha: NonNegativeFloat
    beta: NonNegativeFloat
    across_towers: bool  # True: the window sees the next tower's channels too, as in Caffe; False: its own tower's


class MapNorm(Section):
    """Normalization within each map, in the authors' code only: x / (1 + alpha * sum of x^2 over n x n pixels)^beta."""

    n: PositiveInt  # odd: pixels
    alpha: NonNegativeFloat
    beta: NonNegativeFloat


class Pool(Section):
    """Max-pooling, paper 3.4: overlapping where window > stride."""

    window: PositiveInt  # pixels (the paper's z)
    stride: PositiveInt  # pixels (the paper's s)
    ceil: bool  # True: a last window may hang over the edge; False: what does not fill one is dropped

    def output(self, size: int) -> int:
        """Height or width after pooling."""
        return (size - self.window + (self.stride - 1 if self.ceil else 0)) // self.stride + 1


class Model(Section):
    image_size: PositiveInt  # height and width of the crop the network sees, pixels
    num_classes: Annotated[int, Field(ge=2)]
    towers: PositiveInt  # the paper has two, one a GPU
    activation: Literal["relu", "tanh"]
    dropout_rate: Fraction
    dropout_scaling: Literal["test", "training"]  # when units are scaled by what is kept, or its inverse
    lrn: Lrn
    map_norm: MapNorm
    pool: Pool
    conv1: Conv
    conv2: Conv | None  # None leaves the layer out
    conv3: Conv | None
    conv4: Conv | None
    conv5: Conv | None
    conv6: Conv | None
    fc6: Dense | None
    fc7: Dense | None
    fc8: Head

    def convs(self) -> list[tuple[str, Conv]]:
        """The convolutional layers that exist, in order, with their names."""
        layers = [(f"conv{i}", getattr(self, f"conv{i}")) for i in range(1, 7)]
        return [(name, layer) for name, layer in layers if layer is not None]

    def hidden(self) -> list[tuple[str, Dense]]:
        """The hidden fully connected layers that exist, in order, with their names."""
        return [(name, layer) for name, layer in (("fc6", self.fc6), ("fc7", self.fc7)) if layer is not None]

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        for norm in ("lrn", "map_norm"):
            if getattr(self, norm).n % 2 == 0:
                raise ValueError(f"model.{norm}.n={getattr(self, norm).n} must be odd: the window is centred")
        layers: list[tuple[str, Conv | Dense]] = [*self.convs(), *self.hidden()]
        for name, layer in layers:
            if layer.features % self.towers:
                raise ValueError(
                    f"model.{name}.features={layer.features} does not divide by model.towers={self.towers}; "
                    "each tower holds an equal share of a layer"
                )
        size = self.image_size
        for name, conv in self.convs():
            size = (size + sum(conv.padding) - conv.kernel) // conv.stride + 1
            if "pool" in conv.then and size > 0:
                size = self.pool.output(size)
            if size < 1:
                raise ValueError(
                    f"model.image_size={self.image_size} is too small: nothing is left of the image after "
                    f"{name}; give a larger image, smaller strides, more padding or less pooling"
                )
        return self
