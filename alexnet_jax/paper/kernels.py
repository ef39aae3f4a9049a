"""The paper's Figure 3: the kernels of conv1, and whether the towers specialize in colour and form."""

from typing import NamedTuple

import numpy as np
from scipy.stats import permutation_test

from alexnet_jax.paper import figures
from alexnet_jax.paper.figures import Block, Table
from alexnet_jax.paper.runs import ReportedRun
from alexnet_jax.run import kernel_images

COLUMNS = 16  # of kernels, as in Figure 3
DRAWS = 1000


class Specialization(NamedTuple):
    difference: float  # between the mean chroma shares of the highest and the lowest tower
    chance: float  # the mean difference when kernels are assigned to towers at random
    p: float  # the share of such assignments whose difference is at least as large


def chroma_share(kernels: np.ndarray) -> np.ndarray:
    """The share of each kernel's energy that is not grey: [..., k, k, 3, F] -> [..., F], 0 to 1.

    Grey is the mean over R, G and B at each pixel; energy is the sum of squares.
    """
    grey = kernels.mean(axis=-2, keepdims=True)
    energy = (kernels**2).sum(axis=(-4, -3, -2))
    return ((kernels - grey) ** 2).sum(axis=(-4, -3, -2)) / np.where(energy > 0, energy, 1)


def specialization(shares: np.ndarray, seed: int = 0) -> Specialization:
    """Test whether the towers' mean chroma shares differ by more than chance. Shares [tower, F], two or more towers."""

    def difference(*towers: np.ndarray, axis: int) -> np.ndarray:
        return np.ptp([tower.mean(axis=axis) for tower in towers], axis=0)

    test = permutation_test(
        tuple(shares), difference, alternative="greater", n_resamples=DRAWS, vectorized=True, axis=0, rng=seed
    )
    return Specialization(float(test.statistic), float(test.null_distribution.mean()), float(test.pvalue))


def figure3(runs: list[ReportedRun]) -> list[Block]:
    """The kernels of the first run, and the numbers of all."""
    first = runs[0]
    shared = first.network.config.model.conv1.shared
    unshared = "" if shared else " Every place has its own; these are the middle one's."
    blocks: list[Block] = []
    for number, images in enumerate(kernel_images.as_images(first.conv1_kernels)):
        count, height, width, _ = images.shape
        caption = f"Tower {number} of {first.name}: {count} kernels of {height}x{width}x3.{unshared}"
        mosaic = kernel_images.mosaic(images, COLUMNS)
        blocks.append(figures.photo(mosaic, f"conv1 kernels of tower {number}", caption))
    blocks.append("All kernels share one scale: the lowest weight is drawn as 0 and the highest as 255.")
    rows: list[tuple[str, ...]] = []
    for run in runs:
        _, eigenvalues, vectors = run.network.statistics
        if eigenvalues[1] < 1e-4 * eigenvalues[0] and np.ptp(vectors[:, 0]) < 1e-3:  # all on the line of greys
            blocks.append(
                f"The training images of {run.name} have no colour: any in its kernels is left over from "
                "initialization."
            )
        shares = chroma_share(run.conv1_kernels)
        numbers = [f"{number:.3f}" for number in specialization(shares)] if len(shares) > 1 else ["one tower", "", ""]
        rows.append((run.name, ", ".join(f"{mean:.3f}" for mean in shares.mean(axis=1)), *numbers))
    head = ("run", "mean chroma share, tower by tower", "difference", "by chance", "p")
    caption = (
        "Chroma share: the part of a kernel's energy that is not grey (its squared distance from its mean over R, G "
        f"and B). By chance: the mean difference over {DRAWS} random assignments of the kernels to the towers; p: the "
        "share of assignments that differ at least as much. The paper found one tower colour-agnostic and the other "
        "colour-specific in every run."
    )
    return [*blocks, Table(head, rows, caption)]
