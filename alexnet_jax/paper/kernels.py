"""The paper's Figure 3: the kernels of conv1, and whether the towers divided colour and form between them."""

from typing import NamedTuple

import numpy as np

from alexnet_jax.paper import figures
from alexnet_jax.paper.figures import Block, Picture, Section, Table, Text
from alexnet_jax.paper.runs import Run

A_ROW = 16  # kernels, as in Figure 3
DRAWS = 1000


class Specialization(NamedTuple):
    towers: np.ndarray  # [tower] mean chroma share
    difference: float  # between the highest and the lowest tower
    chance: float  # the mean difference when kernels are dealt to towers at random
    p: float  # share of such deals, this one counted, whose difference is at least as large


def of_one_place(kernels: np.ndarray, size: int) -> np.ndarray:
    """Kernels of conv1 as images [tower, k, k, 3, F]: if every place has its own, those of the middle."""
    if kernels.shape[1:4] == (size, size, 3):
        return kernels
    towers, rows, columns, _, features = kernels.shape
    return kernels[:, rows // 2, columns // 2].reshape(towers, size, size, 3, features)


def chroma_share(kernels: np.ndarray) -> np.ndarray:
    """The share of each kernel's energy that is not grey: [..., k, k, 3, F] -> [..., F], 0 to 1.

    Grey is the mean over R, G and B at each pixel; energy is the sum of squares.
    """
    grey = kernels.mean(axis=-2, keepdims=True)
    energy = (kernels**2).sum(axis=(-4, -3, -2))
    return ((kernels - grey) ** 2).sum(axis=(-4, -3, -2)) / np.where(energy > 0, energy, 1)


def specialization(shares: np.ndarray, seed: int = 0) -> Specialization:
    """How far the towers' mean chroma shares lie apart, and by chance: a permutation test. Shares [tower, F]."""

    def difference(dealt: np.ndarray) -> float:
        return float(np.ptp(dealt.mean(axis=1)))

    rng = np.random.default_rng(seed)
    found = difference(shares)
    dealt = np.array([difference(rng.permutation(shares.ravel()).reshape(shares.shape)) for _ in range(DRAWS)])
    # 1e-9: the same deal in another order must not count as smaller for its rounding.
    p = (1 + int((dealt >= found - 1e-9).sum())) / (1 + DRAWS)
    return Specialization(shares.mean(axis=1), found, float(dealt.mean()), p)


def figure3(runs: list[Run]) -> Section:
    """The kernels of the first run, and the numbers of all."""
    first = runs[0]
    kernels = of_one_place(first.conv1, first.finished.config.model.conv1.kernel).astype(np.float64)
    lowest = kernels.min()
    scaled = (kernels - lowest) / ((kernels - lowest).max() or 1)
    own = "" if first.finished.config.model.conv1.shared else " Every place has its own; these are of the middle one."
    blocks: list[Block] = []
    for number, tower in enumerate(np.round(scaled * 255).astype(np.uint8)):
        canvas = figures.mosaic(tower.transpose(3, 0, 1, 2), A_ROW)
        caption = (
            f"Tower {number} of {first.name}: {tower.shape[-1]} kernels of {tower.shape[0]}x{tower.shape[1]}x3.{own}"
        )
        blocks.append(Picture(f"conv1 kernels of tower {number}", figures.pixels(canvas), caption))
    blocks.append(Text("All kernels are shifted by their common minimum and divided by their common maximum."))
    blocks += [
        Text(f"The training images of {run.name} have no colour: any in its kernels is left of their random start.")
        for run in runs
        if _grey(run)
    ]
    rows = [_row(run) for run in runs]
    head = ("run", "mean chroma share, tower by tower", "difference", "by chance", "p")
    caption = (
        "Chroma share: the part of a kernel's energy that is not grey (its squared distance from its mean over R, G "
        f"and B). By chance: the mean difference over {DRAWS} random deals of the kernels to the towers, and p the "
        "share of deals that differ as much. The paper found one tower colour-agnostic and the other colour-specific "
        "in every run."
    )
    return Section("figure3", "Figure 3: the kernels of conv1", [*blocks, Table(head, rows, caption)])


def _grey(run: Run) -> bool:
    """Whether the colours of the run's training images lie on one line, and that is grey."""
    eigenvalues, vectors = run.finished.statistics.eigenvalues, run.finished.statistics.eigenvectors
    return bool(eigenvalues[1] < 1e-4 * eigenvalues[0] and np.ptp(vectors[:, 0]) < 1e-3)


def _row(run: Run) -> tuple[str, ...]:
    shares = chroma_share(of_one_place(run.conv1, run.finished.config.model.conv1.kernel).astype(np.float64))
    means = ", ".join(f"{mean:.3f}" for mean in shares.mean(axis=1))
    if len(shares) == 1:
        return run.name, means, "one tower", "", ""
    found = specialization(shares)
    return run.name, means, f"{found.difference:.3f}", f"{found.chance:.3f}", f"{found.p:.3f}"
