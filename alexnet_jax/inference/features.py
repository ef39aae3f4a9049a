"""Feature vectors of many images, and their nearest neighbours among the vectors in a file (paper 6.1)."""

import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from alexnet_jax.data.records import Images
from alexnet_jax.inference import feature_store
from alexnet_jax.inference.feature_store import Named, Saved
from alexnet_jax.inference.network import Network

QUERIES = 1024  # images whose neighbours are searched for in one pass over the file


def extract(
    net: Network, images: Images, layer: str | None, max_bad: float | None = None, bad: dict[int, str] | None = None
) -> Iterator[Named]:
    """The output of `layer` for all images of a split in its order, batch by batch.

    `layer` is that of `Network.features`; `max_bad`, `bad` and what is raised are those of `Network.over`.
    """
    for part in net.over(images, net.features_step(layer), max_bad, bad):
        yield Named([images.name(i) for i in part.example.tolist()], part.label, part.result)


def neighbours(queries: Iterable[Named], saved: Saved, count: int) -> Iterator[tuple[str, list[tuple[int, float]]]]:
    """The name of each query, with the index in `saved` and the Euclidean distance of its `count` nearest vectors."""
    vectors = ((name, vector) for part in queries for name, vector in zip(part.names, part.vectors, strict=True))
    while some := list(itertools.islice(vectors, QUERIES)):
        indices, distances = feature_store.nearest(np.stack([vector for _, vector in some]), saved.blocks(), count)
        for (name, _), row in zip(some, zip(indices.tolist(), distances.tolist(), strict=True), strict=True):
            yield name, list(zip(*row, strict=True))
