"""The report as one self-contained HTML page, whose text is in report.html.j2. A section says why it is left out."""

import base64
import datetime
import functools
import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from alexnet_jax.errors import UserError
from alexnet_jax.paper import examples, figures, report, similarity
from alexnet_jax.paper.report import ReportedRun
from alexnet_jax.run import config_files

DPI = 150
IMAGES = 300  # on which representations are compared
MOSAIC_PIXELS = 900  # small pictures are enlarged, by a whole factor, to about this width


def render(runs: list[ReportedRun], data: str | None, images: int = IMAGES, explorer: str | None = None) -> str:
    """The page as HTML. Sections on one network show the first run's, with the data in folder `data`, or UserError.

    Representations are compared on at most `images` images. `explorer`: where the page links to, for the first network.
    """
    network = runs[0].network
    splits = functools.cache(lambda: report.open_splits(network, data))
    if data is not None:
        splits()
    sections: list[tuple[str, str, Callable[[], dict[str, Any]]]] = [
        ("results", "Results", dict),
        ("learning", "Learning curves", lambda: figures.learning(runs)),
        ("figure1", "Figure 1: training error rate", lambda: figures.figure1(runs)),
        ("figure2", "Figure 2: the architecture", lambda: figures.figure2(network.config.model)),
        ("figure3", "Figure 3: the kernels of conv1", lambda: figures.figure3(runs)),
        ("figure4-left", "Figure 4, left: predictions", lambda: examples.figure4_left(network, splits())),
        ("figure4-right", "Figure 4, right: nearest images", lambda: examples.figure4_right(network, splits())),
        ("units", "What units of conv3 and conv5 respond to", lambda: examples.units(network, splits())),
        ("tables", "Tables 1 and 2", dict),
        ("trust", "Verification and time", dict),
        ("config", "Config", dict),
    ]
    if len(runs) > 1 or network.config.train.keep_every_steps:
        title = "Similarity of representations"
        sections.insert(-3, ("similarity", title, lambda: similarity.section(runs, splits().evaluation, images)))
    contents = []
    for id_, title, make in sections:
        try:
            contents.append((id_, title, make()))
        except UserError as error:
            contents.append((id_, title, {"left_out": error}))
    return report.template("report.html.j2").render(
        runs=runs,
        sections=contents,
        explorer=explorer,
        uri=data_uri,
        is_imagenet=is_imagenet,
        to_json=config_files.to_json,
        duration=duration,
    )


def data_uri(picture: Figure | np.ndarray) -> str:
    """Encode a picture. Pixels [H, W, 3] uint8 are enlarged without smoothing if small, and become a JPEG if not."""
    out, kind = io.BytesIO(), "png"
    if isinstance(picture, Figure):
        picture.savefig(out, format=kind, dpi=DPI)
    else:
        scale = max(1, MOSAIC_PIXELS // picture.shape[1])
        kind = "png" if scale > 1 else "jpeg"
        Image.fromarray(picture.repeat(scale, 0).repeat(scale, 1)).save(out, kind, quality=88)
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"


def duration(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))


def is_imagenet(classes: list[str]) -> bool:
    """Whether the classes are a thousand WordNet ids, as in the challenges."""
    return len(classes) == 1000 and all(re.fullmatch(r"n\d{8}", name) for name in classes)
