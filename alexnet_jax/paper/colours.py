"""Whether the towers specialize, one in colour and the other in form (paper 6.1), by their kernels of conv1."""

from typing import NamedTuple

import numpy as np
from scipy.stats import permutation_test

from alexnet_jax.inference.network import Network
from alexnet_jax.run import pictures

DRAWS = 1000  # random assignments of kernels to towers


class Specialization(NamedTuple):
    difference: float  # between the mean chroma shares of the highest and the lowest tower
    chance: float  # the mean difference when kernels are assigned to towers at random
    p: float  # the share of such assignments whose difference is at least as large


def of_network(network: Network) -> dict[str, float]:
    """`specialization` of a trained network of several towers."""
    kernels = np.asarray(network.params["conv1"]["kernel"], np.float64)
    shares = chroma_share(pictures.at_one_place(kernels, network.config.model.conv1.kernel))
    return specialization(shares)._asdict()


def chroma_share(kernels: np.ndarray) -> np.ndarray:
    """The share of each kernel's energy (sum of squares) that is not grey: [..., k, k, 3, F] -> [..., F], 0 to 1."""
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
