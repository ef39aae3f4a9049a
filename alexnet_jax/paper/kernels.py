"""The paper's Figure 3: the kernels of conv1, and whether the towers specialize in colour and form."""

from typing import Any, NamedTuple

import numpy as np
from scipy.stats import permutation_test

from alexnet_jax.paper.report import ReportedRun
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


def figure3(runs: list[ReportedRun]) -> dict[str, Any]:
    """Mosaics of the first run's kernels, each tower's chroma share in every run, and the runs on grey images."""
    images = kernel_images.as_images(runs[0].conv1_kernels)
    rows, grey = [], []
    for run in runs:
        _, eigenvalues, vectors = run.network.statistics
        if eigenvalues[1] < 1e-4 * eigenvalues[0] and np.ptp(vectors[:, 0]) < 1e-3:  # all on the line of greys
            grey.append(run.name)
        shares = chroma_share(run.conv1_kernels)
        rows.append((run.name, shares.mean(axis=1), specialization(shares) if len(shares) > 1 else None))
    mosaics = [kernel_images.mosaic(tower, COLUMNS) for tower in images]
    return {"mosaics": mosaics, "shape": images.shape, "rows": rows, "grey": grey, "draws": DRAWS}
