"""Which classes are taken for which, and the worst mistakes, as files beside the evaluation:

classes.csv      class, images, top-1 and top-5 error (fractions), what it is most often taken for, how often
confusion.csv    images of the class of the row that were taken for the class of the column
mistakes.png     the images that were the most surely taken for another class
"""

import csv
import warnings
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from alexnet_jax.data.records import Images
from alexnet_jax.data.sources.source import printable
from alexnet_jax.inference.predictions import Predictions

CHINESE = ("Noto Sans CJK SC", "WenQuanYi Zen Hei", "Microsoft YaHei", "PingFang SC", "Arial Unicode MS")
COLUMNS, LETTERS = 6, 20  # of the sheet; of a class name below a picture


def matrix(found: Predictions, classes: int) -> np.ndarray:
    """[classes, classes] int64: images of the class of the row that were taken for the class of the column."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (found.label, found.log_probabilities[:, :classes].argmax(axis=1)), 1)
    return counts


def worst(found: Predictions, count: int) -> np.ndarray:
    """Rows of `found` that are mistakes, by how improbable their own class was: at most `count`, the worst first."""
    own = found.log_probabilities[np.arange(len(found.label)), found.label]
    wrong = np.flatnonzero(found.log_probabilities.argmax(axis=1) != found.label)
    return wrong[np.argsort(own[wrong], kind="stable")][:count]


def write(directory: Path, found: Predictions, classes: list[str], images: Images, mistakes: int) -> list[str]:
    """Writes the three files, and returns what to tell: the worst classes and the most frequent confusions."""
    counts = matrix(found, len(classes))
    totals, right = counts.sum(axis=1), counts.diagonal()
    missed = _missed(found, len(classes))
    others = counts - np.diag(right)
    with (directory / "classes.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "images", "top1_error", "top5_error", "taken_for", "times"])
        for label in np.flatnonzero(totals).tolist():
            taken, times = int(others[label].argmax()), int(others[label].max())
            errors = (1 - right[label] / totals[label], missed[label] / totals[label])
            writer.writerow([classes[label], totals[label], *errors, classes[taken] if times else "", times])
    with (directory / "confusion.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["class", *classes])
        writer.writerows([name, *row] for name, row in zip(classes, counts.tolist(), strict=True))
    rows = worst(found, mistakes)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # no font has all letters; a box stands for one
        _sheet(found, rows, classes, images).savefig(directory / "mistakes.png")
    return _told(counts, totals, others, classes)


def _missed(found: Predictions, classes: int) -> np.ndarray:
    """[classes]: images of each whose class is not among the five best."""
    own = found.log_probabilities[np.arange(len(found.label)), found.label]
    missed = (found.log_probabilities >= own[:, None]).sum(axis=1) > 5
    return np.bincount(found.label[missed], minlength=classes)


def _told(counts: np.ndarray, totals: np.ndarray, others: np.ndarray, classes: list[str]) -> list[str]:
    errors = np.divide(others.sum(axis=1), totals, out=np.zeros(len(totals)), where=totals > 0)
    lines = ["the classes with the most errors:"]
    for label in np.argsort(-errors, kind="stable")[:5].tolist():
        if totals[label]:
            lines.append(f"  {errors[label]:7.2%} of {totals[label]}  {printable(classes[label])}")
    lines.append("the most frequent confusions:")
    for place in np.argsort(-others, axis=None, kind="stable")[:5].tolist():
        label, taken = divmod(place, len(classes))
        if others[label, taken]:
            name, other = printable(classes[label]), printable(classes[taken])
            lines.append(f"  {others[label, taken]:4} x  {name} taken for {other}")
    return lines if others.any() else ["no mistakes"]


def _sheet(found: Predictions, rows: np.ndarray, classes: list[str], images: Images) -> Figure:
    height = max(1, -(-len(rows) // COLUMNS))
    # Names may hold signs that mean mathematics to Matplotlib, or letters that its own font has not.
    fonts = ["DejaVu Sans", *(name for name in CHINESE if name in font_manager.fontManager.get_font_names())]
    with matplotlib.rc_context({"text.parse_math": False, "font.family": fonts}):
        figure = Figure(figsize=(2 * COLUMNS, 2.6 * height), dpi=100, layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.subplots(height, COLUMNS, squeeze=False)
        pixels = np.empty((1, images.size, images.size, 3), np.uint8)
        for place, axes in enumerate(grid.flat):
            axes.set_axis_off()
            if place >= len(rows):
                continue
            row = rows[place]
            images.read(found.example[row : row + 1], pixels)
            taken = int(found.log_probabilities[row].argmax())
            axes.imshow(pixels[0])
            share = float(np.exp(found.log_probabilities[row, taken]))
            axes.set_title(
                f"{_short(classes[found.label[row]])}\ntaken for {_short(classes[taken])}, {share:.0%}", fontsize=8
            )
        if not len(rows):
            figure.suptitle("no mistakes")
    return figure


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= LETTERS else name[: LETTERS - 1] + "…"
