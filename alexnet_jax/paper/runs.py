"""The runs that a report is about."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from alexnet_jax.inference import network
from alexnet_jax.inference.network import Network
from alexnet_jax.run import kernel_images, workdir


class ReportedRun(NamedTuple):
    name: str
    network: Network
    log: list[dict]  # the lines of metrics.jsonl
    evaluation: dict | None  # the contents of evaluation.json

    @property
    def conv1_kernels(self) -> np.ndarray:
        """[tower, k, k, 3, F] float64; those of the middle place if every place has its own."""
        kernels = np.asarray(self.network.params["conv1"]["kernel"], np.float64)
        return kernel_images.at_one_place(kernels, self.network.config.model.conv1.kernel)


def open_runs(directories: list[Path]) -> list[ReportedRun]:
    """Open runs, each named after its folder, or by its whole path where two folders have the same name.

    Raises UserError if a folder is not a workdir with a checkpoint.
    """
    networks = [network.open_workdir(directory) for directory in directories]
    names = [opened.name for opened in networks]
    if len(set(names)) < len(names):
        names = [str(directory) for directory in directories]
    return [
        ReportedRun(name, opened, workdir.read_metrics(directory), workdir.read_evaluation(directory))
        for name, opened, directory in zip(names, networks, directories, strict=True)
    ]
