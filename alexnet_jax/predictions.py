"""What networks say of every image of a split, kept on disk; errors, their intervals, and averages of networks.

Kept are logarithms of probabilities: averaged over views by their probabilities (paper 4.1), and so over networks.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh
from scipy.special import logsumexp

from alexnet_jax import sharding, steps
from alexnet_jax.config import Config
from alexnet_jax.data import arrays
from alexnet_jax.data.loader import Batches, Order, Reading
from alexnet_jax.data.records import Images
from alexnet_jax.errors import UserError

RESAMPLED, LEVEL, SEED = 10_000, 0.95, 0  # draws of the bootstrap, its confidence, its random numbers
GRID = np.linspace(0, 1, 21)  # weights that `tuned` tries, as the authors' script did


class Predictions(NamedTuple):
    """Of the images of a split that could be read, N of them."""

    log_probabilities: np.ndarray  # [N, classes] float32, nats
    label: np.ndarray  # [N] int32
    example: np.ndarray  # [N] int32: place in the split
    step: int  # of training
    data: str  # fingerprint of the data


def collect(
    config: Config, mesh: Mesh, params: Any, statistics: Any, images: Images, views: int, step: int, data: str
) -> Predictions:
    """Asks the network about every image. Bad records are told of and left out."""
    predict = steps.make_log_predict_step(config, mesh, views)
    order = Order(len(images.labels), config.train.eval_batch_size, seed=None)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    reading = Reading(config.data.threads, config.data.prefetch_batches, config.data.max_bad)
    batches = Batches(images, order, 0, order.steps_per_epoch, reading)
    with contextlib.closing(batches):
        for batch in batches:
            for line in batches.news():
                print(f"{line}; it is left out")
            put = sharding.put(batch.image, mesh, sharding.EXAMPLES)
            found.append(
                (
                    np.asarray(predict(params, put, statistics))[batch.mask],
                    batch.label[batch.mask],
                    batch.example[batch.mask],
                )
            )
    log_probabilities, label, example = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Predictions(log_probabilities, label, example, step, data)


def save(path: Path, predictions: Predictions) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        np.savez(file, **predictions._asdict())
    temporary.replace(path)


def load(path: Path) -> Predictions | None:
    """What `save` wrote; None if there is nothing that can be read."""
    try:
        saved = arrays.zipped(path, Predictions._fields)
        said, label, example = (saved[name] for name in Predictions._fields[:3])
        found = Predictions(said, label, example, int(saved["step"]), str(saved["data"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    kinds = [(of.dtype, of.shape) for of in found[:3]]
    count = found.label.size
    expected = [(np.float32, (count, said.size // max(1, count))), (np.int32, (count,)), (np.int32, (count,))]
    return found if kinds == expected else None


def average(several: Sequence[Predictions], weights: Sequence[float] | None = None) -> Predictions:
    """The mean of the networks' probabilities, by default the plain one. Raises UserError if their images differ."""
    first = several[0]
    for other in several[1:]:
        same = np.array_equal(other.example, first.example) and np.array_equal(other.label, first.label)
        if other.data != first.data or not same:
            raise UserError(
                "the networks were not asked about the same images: they have other data, another split or other "
                "damaged records; evaluate each on the same --data and --split first"
            )
    weight = np.ones(len(several)) if weights is None else np.asarray(weights, float)
    weight = (weight / weight.sum()).reshape(-1, 1, 1)
    stacked = np.stack([each.log_probabilities for each in several])
    return first._replace(log_probabilities=logsumexp(stacked, axis=0, b=weight).astype(np.float32))


def tuned(several: Sequence[Predictions]) -> list[float]:
    """Weights that minimise the top-5 error on these very images, one network at a time, as the authors' script did.

    An error with them is no estimate for other images: the weights have seen the labels.
    """
    weights, best = [1.0] * len(several), score(average(several))["top5_error"]
    improved = True
    while improved:
        improved = False
        for i in range(len(several)):
            for weight in GRID:
                trial = [*weights[:i], float(weight), *weights[i + 1 :]]
                error = score(average(several, trial))["top5_error"] if any(trial) else 1.0
                if error < best:
                    weights, best, improved = trial, error, True
    return weights


def score(predictions: Predictions) -> dict[str, Any]:
    """Mean loss (nats), top-1 and top-5 error (fractions), each error's bootstrap interval of 95 %, and the count.

    An image is an error of top-k if k classes or more are as probable as its own.
    """
    rows = np.arange(len(predictions.label))
    of_label = predictions.log_probabilities[rows, predictions.label]
    better = (predictions.log_probabilities >= of_label[:, None]).sum(1) - 1
    result: dict[str, Any] = {"loss": float(-of_label.mean(dtype=np.float64))}
    for k in (1, 5):
        wrong = int((better >= k).sum())
        result[f"top{k}_error"] = wrong / len(rows)
        result[f"top{k}_interval"] = interval(wrong, len(rows))
    return result | {"count": len(rows)}


def interval(wrong: int, count: int) -> list[float]:
    """Percentile bootstrap of an error over images: resampling ones and zeros is drawing from a binomial."""
    draws = np.random.default_rng(SEED).binomial(count, wrong / count, RESAMPLED) / count
    return np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
