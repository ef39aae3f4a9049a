"""Loss and errors of training and validation, on the devices: from the logits of split classes to one number.

The classes of fc8 are split over the towers, so the softmax needs two scalars per example from every tower (its maximum
and its sum), and the errors one more (how many of its classes score higher than the label). The scores of whole splits
are measured on the host instead, in inference/predictions.py.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from clu.metrics import Average
from jax import Array, lax

from alexnet_jax.sharding import TOWER

Metrics = dict[str, Average]  # sums and counts over examples for each name of `outcomes`; `summary` takes the means


def log_softmax(logits: Array) -> Array:
    """Logits [..., C] of each tower -> log-probabilities [..., C] over the classes of all towers."""
    top = lax.pmax(lax.stop_gradient(logits.max(-1, keepdims=True)), TOWER)
    return logits - top - jnp.log(lax.psum(jnp.exp(logits - top).sum(-1, keepdims=True), TOWER))


def outcomes(log_probabilities: Array, label: Array, smoothing: float = 0.0) -> dict[str, Array]:
    """The loss (cross-entropy, nats) and the errors (0 or 1) of each example [B], the same in all towers.

    `log_probabilities` [B, C] are each tower's own; `label` [B] counts over the classes of all towers. Ties are errors,
    as `not_below` says, so that chance never counts as a success. With `smoothing`, that share of the label's
    probability is spread over all classes (arXiv:1512.00567, section 7): guessing still costs ln(classes).
    """
    classes = log_probabilities.shape[-1]
    own = label[:, None] - lax.axis_index(TOWER) * classes == jnp.arange(classes)[None, :]
    label_score = lax.psum(jnp.where(own, log_probabilities, 0.0).sum(-1), TOWER)
    better = lax.psum((not_below(log_probabilities, label_score[:, None]) & ~own).sum(-1, dtype=jnp.int32), TOWER)
    loss = -label_score
    if smoothing:
        exists = log_probabilities > jnp.finfo(jnp.float32).min / 2  # unlike columns past the last class
        total, count = jnp.where(exists, log_probabilities, 0.0).sum(-1), exists.sum(-1, dtype=jnp.float32)
        loss = (1 - smoothing) * loss - smoothing * lax.psum(total, TOWER) / lax.psum(count, TOWER)
    return {
        "loss": loss,
        "top1_error": (better >= 1).astype(jnp.float32),
        "top5_error": (better >= 5).astype(jnp.float32),
    }


def not_below(scores: Any, label_score: Any) -> Any:
    """Which scores count as better than the label's: higher ones, ties, and any that are NaN or compared with NaN."""
    return ~(scores < label_score)


def nothing() -> Metrics:
    """Metrics of no example."""
    return {name: Average.empty() for name in ("loss", "top1_error", "top5_error")}


def of_batch(outcomes: dict[str, Array], mask: Array) -> Metrics:
    """Metrics of the examples of a batch where `mask` [B] is True."""
    return {name: Average.from_model_output(values, mask) for name, values in outcomes.items()}


def merge(a: Metrics, b: Metrics) -> Metrics:
    """Metrics of the examples of both."""
    return {name: a[name].merge(b[name]) for name in a}


def mean_loss(metrics: Metrics) -> Array:
    """The mean loss, a scalar on the device, nats."""
    return metrics["loss"].total / metrics["loss"].count.astype(jnp.float32)


def summary(metrics: Metrics) -> dict[str, float]:
    """The means, NaN of no example, and `count`, the number of examples in them. Waits for the device."""
    host = jax.device_get(metrics)
    means = {name: float(sums.total) / int(sums.count) if sums.count else math.nan for name, sums in host.items()}
    return means | {"count": int(host["loss"].count)}
