"""How much of the classes a linear classifier reads from a trained network's features, and from HOG:

    alexnet probe --workdir DIR --train_split train --eval_split test [--json FILE]

The same images for all: of each split at most --images, drawn at random. On the features of the last hidden layer
logistic regression and a linear SVM, and a linear SVM on histograms of oriented gradients of the same centre crop (9
orientations, cells of an eighth of its side in whole pixels, blocks of 2 x 2 cells). All are centred and scaled to a
mean square length of 1. C is the one of 0.1, 1, 10, 100 and 1000 with the fewest errors on a fifth of the training
images; then all of them are learned from. The interval holds 95 % of the errors of 10,000 samples of the evaluated
images, drawn with replacement.
Needs scikit-image: pip install "alexnet_jax[features]".
"""

import argparse
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.data.datasets import Dataset, split_of
from alexnet_jax.data.records import Images
from alexnet_jax.errors import UserError
from alexnet_jax.inference import features
from alexnet_jax.run import workdir

GRID = (0.1, 1.0, 10.0, 100.0, 1000.0)
HELD_OUT = 5  # one of so many training images is kept to choose C
SAMPLES = 10_000  # of the bootstrap
CELLS = 8  # of HOG, along each side; one more where an eighth of it is no whole number


class Examples(NamedTuple):
    features: np.ndarray  # [N, units] float32
    hog: np.ndarray  # [N, numbers] float32
    labels: np.ndarray  # [N] int32


class Subset(NamedTuple):
    """Some images of a split, as records.Images."""

    images: Images
    chosen: np.ndarray  # [n]

    @property
    def labels(self) -> np.ndarray:
        return self.images.labels[self.chosen]

    @property
    def size(self) -> int:
        return self.images.size

    def read(self, index: np.ndarray, out: np.ndarray) -> dict[int, str]:
        return self.images.read(self.chosen[index], out)

    def name(self, i: int) -> str:
        return self.images.name(int(self.chosen[i]))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=Path, required=True, help="folder of a run of alexnet_jax.main")
    parser.add_argument("--train_split", help="to learn from (default: the config's)")
    parser.add_argument("--eval_split", help="to count errors on (default: the config's)")
    parser.add_argument("--images", type=int, default=10_000, metavar="N", help="of each split at most (10000)")
    parser.add_argument("--data", help="folder of the prepared data, if it has moved since training")
    parser.add_argument("--layer", help="such as fc6 (default: the last before fc8)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there, too")


def run(arguments: argparse.Namespace) -> None:
    try:
        import skimage.feature  # noqa: F401
    except ImportError:
        raise UserError('the probe needs scikit-image for HOG: pip install "alexnet_jax[features]"') from None
    network = features.open_network(arguments.workdir, arguments.layer)
    data = network.finished.config.data
    names = {"train": arguments.train_split or data.train_split, "eval": arguments.eval_split or data.eval_split}
    if names["train"] == names["eval"]:
        raise UserError(f"--train_split and --eval_split are both {names['train']}; give two splits")
    if arguments.images < 2 * HELD_OUT:
        raise UserError(f"--images {arguments.images} are too few to learn from; give {2 * HELD_OUT} or more")
    dataset = workdir.open_data(network.finished, arguments.data)
    train = _examples(network, dataset, names["train"], "--train_split", arguments.images)
    test = _examples(network, dataset, names["eval"], "--eval_split", arguments.images)
    methods: list[tuple[str, str, Callable[[float], Any]]] = [
        (f"{network.layer}, logistic regression", "features", _logistic_regression),
        (f"{network.layer}, linear SVM", "features", _linear_svm),
        ("HOG, linear SVM", "hog", _linear_svm),
    ]
    rows = [
        {"method": name} | _probe(make, getattr(train, kind), train.labels, getattr(test, kind), test.labels)
        for name, kind, make in methods
    ]
    counts = {"train_images": len(train.labels), "eval_images": len(test.labels)}
    print(f"{counts['train_images']} images of {names['train']} to learn from, ", end="")
    print(f"{counts['eval_images']} of {names['eval']} to count errors on; step {network.step}\n{_table(rows)}")
    if arguments.json:
        described = {"train_split": names["train"], "eval_split": names["eval"], **counts, "step": network.step}
        arguments.json.write_text(json.dumps(described | {"layer": network.layer, "methods": rows}, indent=2) + "\n")


def _examples(network: features.Network, dataset: Dataset, split: str, key: str, most: int) -> Examples:
    from skimage.feature import hog

    images = split_of(dataset, split, key)
    chosen = np.sort(np.random.default_rng(0).permutation(len(images.labels))[:most])
    subset, bad = Subset(images, chosen), dict[int, str]()
    size = network.finished.config.model.image_size
    if size < CELLS:
        raise UserError(f"HOG needs images of {CELLS}x{CELLS} pixels or more, and this network sees {size}x{size}")
    found = []
    for part in features.of_images(network, subset, network.finished.config.data.max_bad, bad):
        start = (part.image.shape[1] - size) // 2
        crops = part.image[:, start : start + size, start : start + size]
        gradients = [
            hog(crop, pixels_per_cell=(size // CELLS,) * 2, cells_per_block=(2, 2), channel_axis=-1) for crop in crops
        ]
        found.append(Examples(part.features, np.array(gradients, np.float32), subset.labels[part.places]))
    for i, what in sorted(bad.items()):
        print(f"bad record: {subset.name(i)} of {split}, {what}; it is left out", file=sys.stderr)
    examples = Examples(*(np.concatenate(column) for column in zip(*found, strict=True)))
    if key == "--train_split" and len(np.unique(examples.labels)) < 2:
        raise UserError(f"the images of {split} are all of one class; give more --images, or another {key}")
    return examples


def _logistic_regression(c: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=c, max_iter=1000)


def _linear_svm(c: float) -> Any:
    from sklearn.svm import LinearSVC

    return LinearSVC(C=c, max_iter=10_000, dual="auto", random_state=0)


def _probe(
    make: Callable[[float], Any], train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    """Chooses C, learns, and counts: dimensions, C, whether it converged, top1_error (a fraction) and interval."""
    mean = train.mean(axis=0)
    scale = np.sqrt(((train - mean) ** 2).sum(axis=1).mean()) or 1.0
    train, test = (train - mean) / scale, (test - mean) / scale
    held = np.random.default_rng(0).permutation(len(train)) < len(train) // HELD_OUT
    if len(np.unique(train_labels[~held])) < 2:
        raise UserError("the images to choose C with are all of one class; give more --images")
    misses = [
        int((_fit(make(c), train[~held], train_labels[~held]).predict(train[held]) != train_labels[held]).sum())
        for c in GRID
    ]
    best = GRID[int(np.argmin(misses))]  # of equals the smallest
    classifier = _fit(make(best), train, train_labels)
    error = float((classifier.predict(test) != labels).mean())
    return {
        "dimensions": train.shape[1],
        "C": best,
        "converged": bool(np.max(classifier.n_iter_) < classifier.max_iter),
        "top1_error": error,
        "interval": _interval(error, len(labels)),
    }


def _fit(classifier: Any, examples: np.ndarray, labels: np.ndarray) -> Any:
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the table says it
        return classifier.fit(examples, labels)


def _interval(error: float, count: int) -> list[float]:
    """The 2.5th and 97.5th percentile of the error among `count` images drawn with replacement."""
    drawn = np.random.default_rng(0).binomial(count, error, SAMPLES) / count
    return np.percentile(drawn, (2.5, 97.5)).tolist()


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'method':<28}  dimensions  top-1 error     95 % interval        C"]
    for row in rows:
        low, high = row["interval"]
        line = f"{row['method']:<28}  {row['dimensions']:>10}  {row['top1_error']:>11.2%}  {low:>6.2%} .. {high:>6.2%}"
        lines.append(f"{line}  {row['C']:>7g}{'' if row['converged'] else '  (not converged)'}")
    return "\n".join(lines)
