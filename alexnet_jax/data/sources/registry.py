"""The sources by name. A source is one function and one line here."""

from collections.abc import Callable

from alexnet_jax.data.sources.cifar10 import cifar10
from alexnet_jax.data.sources.embedded import digits, synthetic
from alexnet_jax.data.sources.folder import folder
from alexnet_jax.data.sources.imagenet import challenge, full
from alexnet_jax.data.sources.source import Request, Source
from alexnet_jax.data.sources.tfds import tfds
from alexnet_jax.errors import UserError

SOURCES: dict[str, Callable[[Request], Source]] = {
    "imagenet2010": lambda request: challenge("imagenet2010", request.input),
    "imagenet2012": lambda request: challenge("imagenet2012", request.input),
    "imagenet_full": lambda request: full(request.input, request.seed),
    "folder": lambda request: folder(request.input, request.val_fraction),
    "tfds": lambda request: tfds(request.name, request.input),
    "cifar10": lambda request: cifar10(request.input),
    "digits": lambda request: digits(),
    "synthetic": lambda request: synthetic(request.size, request.num_classes),
}
EMBEDDED = ("digits", "synthetic")  # need no files, and are small enough to train on without `prepare`


def known(name: str) -> tuple[str, str]:
    """Splits `kind` or `kind:what`. Raises UserError if there is no such source."""
    kind, _, of = name.partition(":")
    if kind not in SOURCES or bool(of) != (kind == "tfds"):
        listed = ", ".join(f"{each}:NAME" if each == "tfds" else each for each in sorted(SOURCES))
        raise UserError(f"there is no source {name!r}; give one of {listed}")
    return kind, of


def open_source(name: str, request: Request) -> Source:
    """The source called `name`, or `name:what` where it takes a name of its own."""
    kind, of = known(name)
    return SOURCES[kind](request._replace(name=of))
