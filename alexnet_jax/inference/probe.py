"""Linear classifiers on a network's features, and on histograms of oriented gradients (HOG) for comparison."""

import importlib.util
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


def check_installed() -> None:
    """Raise UserError if scikit-image is missing."""
    if importlib.util.find_spec("skimage") is None:
        raise UserError('the probe needs scikit-image for HOG: pip install "alexnet_jax[features]"')


def examples(net: Network, images: Images, layer: str, most: int) -> Examples:
    """The features and HOG of the centre crops of a split's images, at most `most` of them, drawn at random.

    Images that cannot be read are left out and reported. Raises UserError if the crops are too small for HOG.
    """
    from skimage.feature import hog

    size = net.config.model.image_size
    if size < CELLS:
        raise UserError(f"HOG needs images of at least {CELLS}x{CELLS} pixels; this network's are {size}x{size}")
    chosen = np.sort(np.random.default_rng(0).permutation(len(images.labels))[:most])
    parts = []
    for part in net.over(Subset(images, chosen), net.features_step(layer)):
        gradients = [
            hog(crop, pixels_per_cell=(size // CELLS,) * 2, cells_per_block=(2, 2), channel_axis=-1)
            for crop in net.centre_crop(part.image)
        ]
        parts.append(Examples(part.result, np.array(gradients, np.float32), part.label))
    return Examples(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def compare(layer: str, train: Examples, test: Examples) -> list[dict[str, Any]]:
    """Train the linear classifiers on `train` and count their errors on `test`.

    Returns:
        For each of them method (its name), dimensions, C, converged, top1_error (a fraction), and interval (Wilson,
        95 %).

    Raises:
        UserError: if the images to choose C with are all of one class.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    svm = LinearSVC(max_iter=10_000, dual="auto", random_state=0)
    methods = [
        (f"{layer}, logistic regression", "features", LogisticRegression(max_iter=1000)),
        (f"{layer}, linear SVM", "features", svm),
        ("HOG, linear SVM", "hog", svm),
    ]
    return [
        {"method": name} | _result(classifier, getattr(train, kind), train.labels, getattr(test, kind), test.labels)
        for name, kind, classifier in methods
    ]


def _result(
    classifier: Any, train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray
) -> dict[str, Any]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import GridSearchCV, PredefinedSplit

    mean = train.mean(axis=0)
    scale = np.sqrt(((train - mean) ** 2).sum(axis=1).mean()) or 1.0
    held_out = np.random.default_rng(0).permutation(len(train)) < len(train) // HELD_OUT
    if len(np.unique(train_labels[~held_out])) < 2:
        raise UserError(
            "the images to choose C with are all of one class; give more --images, or another --train_split"
        )
    search = GridSearchCV(classifier, {"C": GRID}, cv=PredefinedSplit(np.where(held_out, 0, -1)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the result has it
        search.fit((train - mean) / scale, train_labels)
    best = search.best_estimator_
    wrong = int((best.predict((test - mean) / scale) != test_labels).sum())
    return {
        "dimensions": train.shape[1],
        "C": best.C,
        "converged": bool(np.max(best.n_iter_) < best.max_iter),
        "top1_error": wrong / len(test_labels),
        "interval": predictions.interval(wrong, len(test_labels)),
    }
