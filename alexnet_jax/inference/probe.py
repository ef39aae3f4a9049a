"""Linear classifiers on a network's features, and on histograms of oriented gradients (HOG) for comparison."""

import warnings
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.data.records import Images, Subset
from alexnet_jax.errors import UserError
from alexnet_jax.inference import predictions
from alexnet_jax.inference.network import Network

GRID = [0.1, 1.0, 10.0, 100.0, 1000.0]  # values of C
HELD_OUT = 5  # one in so many training images is held out to choose C
CELLS = 8  # of HOG along each side; one more where the side does not divide by it


class Examples(NamedTuple):
    """What the classifiers read of N images."""

    features: np.ndarray  # [N, units] float32
    hog: np.ndarray  # [N, dimensions] float32
    labels: np.ndarray  # [N] int32


def examples(net: Network, images: Images, layers: str, most: int) -> Examples:
    """Features and HOG of at most `most` intact images, drawn at random. UserError if crops are too small for HOG."""
    from skimage.feature import hog

    size = net.config.model.image_size
    if size < CELLS:
        raise UserError(f"HOG needs images of at least {CELLS}x{CELLS} pixels; this network's are {size}x{size}")
    chosen = np.sort(np.random.default_rng(0).permutation(len(images.labels))[:most])
    parts = []
    for part in net.over(Subset(images, chosen), net.features_step(layers)):
        gradients = [
            hog(crop, pixels_per_cell=(size // CELLS,) * 2, cells_per_block=(2, 2), channel_axis=-1)
            for crop in net.centre_crop(part.image)
        ]
        parts.append(Examples(part.result, np.array(gradients, np.float32), part.label))
    return Examples(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def compare(layers: str, train: Examples, test: Examples) -> list[dict[str, Any]]:
    """Train the linear classifiers on `train` and count their errors on `test`.

    Returns for each of them method (its name), dimensions, C, converged, top1_error (a fraction), and interval (Wilson,
    95 %). Raises UserError if the images to choose C with are all of one class.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, PredefinedSplit
    from sklearn.svm import LinearSVC

    count = len(train.labels)
    held_out = np.random.default_rng(0).permutation(count) < count // HELD_OUT
    if len(np.unique(train.labels[~held_out])) < 2:
        raise UserError(
            "the images to choose C with are all of one class; give more --images, or another --train_split"
        )
    svm = LinearSVC(max_iter=10_000, dual="auto", random_state=0)
    methods = [
        (f"{layers}, logistic regression", train.features, test.features, LogisticRegression(max_iter=1000)),
        (f"{layers}, linear SVM", train.features, test.features, svm),
        ("HOG, linear SVM", train.hog, test.hog, svm),
    ]
    results = []
    for method, known, asked, classifier in methods:
        mean = known.mean(axis=0)
        scale = np.sqrt(((known - mean) ** 2).sum(axis=1).mean()) or 1.0
        search = GridSearchCV(classifier, {"C": GRID}, cv=PredefinedSplit(np.where(held_out, 0, -1)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the result has it
            search.fit((known - mean) / scale, train.labels)
        best = search.best_estimator_
        wrong = int((best.predict((asked - mean) / scale) != test.labels).sum())
        converged = bool(np.max(best.n_iter_) < best.max_iter)
        error, interval = wrong / len(test.labels), predictions.interval(wrong, len(test.labels))
        chosen = {"method": method, "dimensions": known.shape[1], "C": best.C, "converged": converged}
        results.append(chosen | {"top1_error": error, "interval": interval})
    return results
