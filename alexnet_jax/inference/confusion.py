"""Which classes are taken for which, and the worst mistakes, as files:

classes.csv      class, images, top-1 and top-5 error (fractions), the class it is most often taken for, how often
confusion.csv    the number of images of the row's class that were taken for the column's class
mistakes.png     the images whose own class was given the lowest probability

As in every score, a class that ties with an image's own, or whose probability is not a number, counts as better.
"""

import csv
import warnings
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure

from alexnet_jax.data.records import Images
from alexnet_jax.data.sources.source import printable
from alexnet_jax.inference import predictions
from alexnet_jax.inference.predictions import Predictions

CHINESE = ("Noto Sans CJK SC", "WenQuanYi Zen Hei", "Microsoft YaHei", "PingFang SC", "Arial Unicode MS")
COLUMNS, LETTERS = 6, 20  # of the pictures in mistakes.png; of a class name above a picture, at most


def taken_for(predicted: Predictions, classes: int) -> np.ndarray:
    """[N]: the label of each image if it is the best of all, else the best of the other `classes`."""
    lowest = float(np.finfo(np.float32).min)
    others = np.nan_to_num(predicted.log_probabilities[:, :classes], nan=lowest, neginf=lowest)
    others[np.arange(len(others)), predicted.label] = -np.inf
    return np.where(predictions.rivals(predicted) == 0, predicted.label, others.argmax(axis=1))


def matrix(predicted: Predictions, classes: int) -> np.ndarray:
    """[classes, classes] int64: the number of images of the row's class that were taken for the column's class."""
    cells = predicted.label * classes + taken_for(predicted, classes)
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def worst(predicted: Predictions, count: int) -> np.ndarray:
    """The rows of at most `count` misclassified images, the one whose own class is the least probable first."""
    own = predicted.log_probabilities[np.arange(len(predicted.label)), predicted.label]
    wrong = np.flatnonzero(predictions.rivals(predicted))
    return wrong[np.argsort(np.nan_to_num(own[wrong], nan=-np.inf), kind="stable")][:count]


def write(directory: Path, predicted: Predictions, classes: list[str], images: Images, mistakes: int) -> list[str]:
    """Write the three files to the folder `directory`, for predictions for the split `images`.

    At most `mistakes` images are shown in mistakes.png. Returns lines for people to read: the classes with the most
    errors, and the most frequent confusions.
    """
    counts = matrix(predicted, len(classes))
    totals, right = counts.sum(axis=1), counts.diagonal()
    others = counts - np.diag(right)
    not_in_top5 = np.bincount(predicted.label[predictions.rivals(predicted) >= 5], minlength=len(classes))
    rows: list[list] = [["class", "images", "top1_error", "top5_error", "taken_for", "times"]]
    for label in np.flatnonzero(totals).tolist():
        other, times = int(others[label].argmax()), int(others[label].max())
        errors = (1 - right[label] / totals[label], not_in_top5[label] / totals[label])
        rows.append([classes[label], totals[label], *errors, classes[other] if times else "", times])
    confusions = [["class", *classes], *([name, *row] for name, row in zip(classes, counts.tolist(), strict=True))]
    for name, table in (("classes.csv", rows), ("confusion.csv", confusions)):
        with (directory / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(table)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # no font has all letters; a box replaces the others
        _figure(predicted, worst(predicted, mistakes), classes, images).savefig(directory / "mistakes.png")
    return _summary(totals, others, classes)


def _summary(totals: np.ndarray, others: np.ndarray, classes: list[str]) -> list[str]:
    if not others.any():
        return ["no mistakes"]
    errors = np.divide(others.sum(axis=1), totals, out=np.zeros(len(totals)), where=totals > 0)
    names = [printable(name) for name in classes]
    worst = [f"  {errors[i]:7.2%} of {totals[i]}  {names[i]}" for i in predictions.best(errors, 5) if totals[i]]
    pairs = [divmod(cell, len(names)) for cell in predictions.best(others.ravel(), 5)]
    taken = [f"  {others[i, j]:4} x  {names[i]} taken for {names[j]}" for i, j in pairs if others[i, j]]
    return ["the classes with the most errors:", *worst, "the most frequent confusions:", *taken]


def _figure(predicted: Predictions, rows: np.ndarray, classes: list[str], images: Images) -> Figure:
    """The images of `rows` with their class, the one they were taken for, and its probability."""
    height = max(1, -(-len(rows) // COLUMNS))
    # Class names may contain what Matplotlib would read as mathematics, or letters that its own font lacks.
    fonts = ["DejaVu Sans", *(name for name in CHINESE if name in font_manager.fontManager.get_font_names())]
    with matplotlib.rc_context({"text.parse_math": False, "font.family": fonts}):
        figure = Figure(figsize=(2 * COLUMNS, 2.6 * height), dpi=100, layout="constrained")
        grid = figure.subplots(height, COLUMNS, squeeze=False).ravel()
        for axes in grid:
            axes.set_axis_off()
        pixels = np.empty((len(rows), images.size, images.size, 3), np.uint8)
        images.read(predicted.example[rows], pixels)
        others = taken_for(predicted, len(classes))
        for row, image, axes in zip(rows, pixels, grid, strict=False):
            axes.imshow(image)
            probability = np.exp(predicted.log_probabilities[row, others[row]])
            name, taken = short(classes[predicted.label[row]]), short(classes[others[row]])
            axes.set_title(f"{name}\ntaken for {taken}, {probability:.0%}", fontsize=8)
        if not len(rows):
            figure.suptitle("no mistakes")
    return figure


def short(name: str) -> str:
    """A class name that fits above a picture."""
    name = printable(name)
    return name if len(name) <= LETTERS else name[: LETTERS - 1] + "…"
