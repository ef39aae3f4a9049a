"""Loss and errors over every image of a split, each counted once."""

import contextlib
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from alexnet_jax import metrics, sharding
from alexnet_jax.data.loader import Batches, Order, Reading
from alexnet_jax.data.records import Images


def evaluate(
    compute: Callable[[Any], metrics.Metrics],
    images: Images,
    batch_size: int,
    reading: Reading,
    mesh: Mesh,
    tell: Callable[[str], None] = print,
    stopping: Callable[[], bool] = lambda: False,
    moved: Callable[[str], None] = lambda doing: None,
) -> dict[str, float] | None:
    """`metrics.summary` over a split, by `compute` of each batch on the devices; None if asked to stop on the way.

    A bad record is told of and left out: `count` is without it, and `bad_records` counts them if there are any.
    """
    order = Order(len(images.labels), batch_size, seed=None)
    batches = Batches(images, order, 0, order.steps_per_epoch, reading)
    total = jax.device_get(metrics.nothing())
    with contextlib.closing(batches):
        for batch in batches:
            moved("evaluating")
            if stopping():
                return None
            for line in batches.news():
                tell(f"{line}; it is left out")
            seen = jax.device_get(compute(sharding.put(batch, mesh, sharding.EXAMPLES)))
            total = metrics.merge(total, seen)
    bad = {"bad_records": len(batches.bad)} if batches.bad else {}
    return metrics.summary(total) | bad
