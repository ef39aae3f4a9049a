"""The parts of a report. Pictures are data: URIs, so the HTML file is self-contained."""

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

matplotlib.rcParams["svg.hashsalt"] = "alexnet_jax"  # equal figures give equal files
matplotlib.rcParams["text.parse_math"] = False  # names of runs and classes may contain a $

DPI = 150
WIDTH = 6.5  # of a figure, inches: 8-point text stays readable at the width of a phone
MOSAIC_PIXELS = 900  # small pictures are enlarged, by a whole factor, to about this width


class Picture(NamedTuple):
    alt: str
    uri: str
    caption: str


class Table(NamedTuple):
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    caption: str


class Details(NamedTuple):
    """Long text that is folded until the reader opens it."""

    summary: str
    text: str


Block = str | Picture | Table | Details  # a string is a paragraph


class Section(NamedTuple):
    id: str
    title: str
    blocks: Sequence[Block]


def plot(figure: Figure, alt: str, caption: str) -> Picture:
    """Draw a Matplotlib figure as a picture."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=DPI)
    return _picture(alt, "png", out, caption)


def photo(pixels: np.ndarray, alt: str, caption: str) -> Picture:
    """Turn pixels [H, W, 3] uint8 into a picture: enlarged without smoothing if small, as a JPEG if not."""
    scale = max(1, MOSAIC_PIXELS // pixels.shape[1])
    kind, options = ("png", {}) if scale > 1 else ("jpeg", {"quality": 88})
    out = io.BytesIO()
    Image.fromarray(pixels.repeat(scale, 0).repeat(scale, 1)).save(out, kind, **options)
    return _picture(alt, kind, out, caption)


def _picture(alt: str, kind: str, content: io.BytesIO, caption: str) -> Picture:
    return Picture(alt, f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}", caption)
