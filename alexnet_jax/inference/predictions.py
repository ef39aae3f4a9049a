"""Predictions of networks: probabilities and their best classes, errors with intervals, averages over networks.

The predictions for a split are log-probabilities; as over views (paper 4.1), networks are averaged by probabilities.
"""

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import logsumexp
from scipy.stats import binomtest

from alexnet_jax import metrics
from alexnet_jax.augment import VIEWS
from alexnet_jax.data import arrays
from alexnet_jax.data.files import replacing
from alexnet_jax.data.records import Images
from alexnet_jax.errors import UserError
from alexnet_jax.run_config import Augment

GRID = np.linspace(0, 1, 21)  # weights that `tuned` tries, as the authors' script did


class Prediction(NamedTuple):
    """The class probabilities of N images."""

    probabilities: np.ndarray  # [N, classes] float32
    classes: list[str]  # column -> name

    def top(self, k: int = 5) -> list[list[tuple[str, float]]]:
        """For each image the `k` most probable classes and their probabilities, the best first."""
        return [[(self.classes[label], float(row[label])) for label in best(row, k)] for row in self.probabilities]

    @property
    def names(self) -> list[str]:
        """The name of each image's most probable class."""
        return [name for ((name, _),) in self.top(1)]


class Predictions(NamedTuple):
    """A network's predictions for the N images of a split that could be read."""

    log_probabilities: np.ndarray  # [N, classes] float32, nats
    label: np.ndarray  # [N] int32
    example: np.ndarray  # [N] int32: index in the split
    step: int  # of training
    data: str  # fingerprint of the data


class Part(NamedTuple):
    """What a network computed for some images of a split."""

    example: np.ndarray  # [n] int32: their indices in the split
    image: np.ndarray  # [n, size, size, 3] uint8
    label: np.ndarray  # [n] int32
    result: Any  # leaves [n, ...]


class Answers(NamedTuple):
    """A network's predictions for a split."""

    predictions: Predictions
    images: Images  # all of the split, the damaged too
    split: str
    views: int

    def score(self) -> dict[str, Any]:
        """As `Network.evaluate` returns."""
        left_out = len(self.images.labels) - len(self.predictions.label)
        about = {"views": self.views, "split": self.split, "step": self.predictions.step}
        return score(self.predictions) | about | ({"bad_records": left_out} if left_out else {})


def check_views(views: int, training: Augment) -> None:
    """Raise UserError for a number of views that there is not; warn of mirror images where `training` had none."""
    if views not in VIEWS:
        raise UserError(f"there are no {views} views of an image; give one of {', '.join(map(str, VIEWS))}")
    if views == 10 and not training.flip:
        words = (
            "half of the ten views are mirror images, which this network was trained without; --views 5 leaves them out"
        )
        print(f"warning: {words}", file=sys.stderr)


def best(scores: np.ndarray, k: int) -> list[int]:
    """The indices of the `k` highest of `scores` [classes], the highest first; of equals the first."""
    return np.argsort(-scores, kind="stable")[:k].tolist()


def save(path: Path, predictions: Predictions) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **predictions._asdict())


def load(path: Path) -> Predictions | None:
    """What `save` wrote; None if there is nothing that can be read."""
    try:
        saved = arrays.zipped(path, Predictions._fields)
        scores, label, example, step, data = (saved[name] for name in Predictions._fields)
        found = Predictions(scores, label, example, int(step), str(data))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    count = label.size
    expected = [(np.float32, (count, scores.size // max(1, count))), (np.int32, (count,)), (np.int32, (count,))]
    return found if [(array.dtype, array.shape) for array in found[:3]] == expected else None


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
    stacked = np.stack([each.log_probabilities for each in several])
    mean = logsumexp(stacked, axis=0, b=(weight / weight.sum()).reshape(-1, 1, 1))
    return first._replace(log_probabilities=mean.astype(np.float32))


def tuned(several: Sequence[Predictions]) -> list[float]:
    """Weights that minimise the top-5 error, by the authors' search; as they have seen the labels, it is too low."""
    weights, lowest = [1.0] * len(several), score(average(several))["top5_error"]
    improved = True
    while improved:
        improved = False
        for i, weight in itertools.product(range(len(several)), GRID.tolist()):
            trial = [*weights[:i], weight, *weights[i + 1 :]]
            error = score(average(several, trial))["top5_error"] if any(trial) else 1.0
            if error < lowest:
                weights, lowest, improved = trial, error, True
    return weights


def rivals(found: Predictions) -> np.ndarray:
    """[N]: the other classes as probable as an image's own, or more. With k of them it is an error of top-k."""
    own = np.take_along_axis(found.log_probabilities, found.label[:, None], axis=1)
    return metrics.not_below(found.log_probabilities, own).sum(axis=1) - 1


def score(found: Predictions) -> dict[str, Any]:
    """Mean loss (nats), top-1 and top-5 error (fractions), each error's Wilson interval, and the count of images."""
    own = found.log_probabilities[np.arange(len(found.label)), found.label]
    result: dict[str, Any] = {"loss": float(-own.mean(dtype=np.float64))}
    better = rivals(found)
    for k in (1, 5):
        wrong = int((better >= k).sum())
        result[f"top{k}_error"] = wrong / len(own)
        result[f"top{k}_interval"] = interval(wrong, len(own))
    return result | {"count": len(own)}


def interval(wrong: int, count: int) -> list[float]:
    """The 95 % confidence interval (Wilson's score) of an error: `wrong` of `count` independent images."""
    return [float(bound) for bound in binomtest(wrong, count).proportion_ci(method="wilson")]
