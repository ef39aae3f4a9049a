"""What a page is made of, and pictures as data: URIs, so that the page needs no other file."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

matplotlib.rcParams["svg.hashsalt"] = "alexnet_jax"  # the same figure is the same file
matplotlib.rcParams["text.parse_math"] = False  # names of runs and classes may hold a $

DPI = 150
WIDTH = 6.5  # of a figure, inches: its 8 point letters can still be read where the page is as wide as a phone
MOSAIC_PIXELS = 900  # mosaics are enlarged to about this width, by whole factors


@dataclass(frozen=True)
class Text:
    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Picture:
    kind: ClassVar[str] = "picture"
    alt: str
    uri: str
    caption: str


@dataclass(frozen=True)
class Table:
    kind: ClassVar[str] = "table"
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    caption: str


@dataclass(frozen=True)
class Details:
    """Long text that the reader unfolds."""

    kind: ClassVar[str] = "details"
    summary: str
    text: str


Block = Text | Picture | Table | Details


@dataclass(frozen=True)
class Section:
    id: str
    title: str
    blocks: list[Block]


def plot(figure: Figure) -> str:
    """A figure of matplotlib as a data: URI."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=DPI)
    return _uri("png", out.getvalue())


def mosaic(images: np.ndarray, columns: int, gap: int = 1) -> np.ndarray:
    """Images [N, h, w, 3] uint8 in rows of `columns`, on white with `gap` pixels between: [H, W, 3] uint8."""
    count, height, width, _ = images.shape
    rows = -(-count // columns)
    canvas = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        canvas[top : top + height, left : left + width] = image
    return canvas


def pixels(canvas: np.ndarray) -> str:
    """Pixels [H, W, 3] uint8 as a data: URI; small ones enlarged without smoothing, photos at their size as JPEG."""
    scale = MOSAIC_PIXELS // canvas.shape[1]
    out = io.BytesIO()
    if scale > 1:
        Image.fromarray(canvas.repeat(scale, 0).repeat(scale, 1)).save(out, "png")
        return _uri("png", out.getvalue())
    Image.fromarray(canvas).save(out, "jpeg", quality=88)
    return _uri("jpeg", out.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
