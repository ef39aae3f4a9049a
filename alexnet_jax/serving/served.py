"""What a server answers from: networks, compiled, and the files of the explorer's page."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from alexnet_jax.explorer import bundle, description, sprites, stages
from alexnet_jax.explorer.description import BUILT, NAME
from alexnet_jax.inference.network import Network, open_workdir
from alexnet_jax.serving.batching import SIZES, padded

BATCH = 8  # images of which all stages are in memory at a time


@dataclasses.dataclass(frozen=True)
class Served:
    net: Network  # the newest step
    steps: dict[int, Network]
    outputs: dict[str, tuple[int, ...]]  # name -> shape for one image, as of the explorer's programs
    files: dict[str, str]  # path -> content
    missing: str  # why the page shows no images of the data; "" if it does

    @property
    def links(self) -> tuple[str, ...]:
        return stages.links(self.net.config.model)

    def log_probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """[B, size, size, 3] uint8 -> [B, classes] float32, nats."""
        return self.net.ask(self.net.log_predict(1), pixels)[:, : len(self.net.classes)]

    def run(
        self, step: int, links: Sequence[float], pixels: np.ndarray, outputs: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Some of the outputs [B, ...] float32 at a training step, for pixels [B, size, size, 3] uint8."""
        network, states = self.steps[step], None if all(links) else np.array(links, np.float32)

        def chosen(*inputs: Any) -> dict[str, jax.Array]:
            found = self.all_outputs(*inputs, links=states)
            return {name: found[name] for name in outputs}

        blocks = (pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH))
        parts = [{name: x[: len(block)] for name, x in network.ask(chosen, padded(block)).items()} for block in blocks]
        return {name: np.concatenate([part[name] for part in parts]) for name in outputs}

    @functools.cached_property
    def all_outputs(self) -> jax.stages.Wrapped:
        return stages.make_step(self.net.config, self.net.mesh, len(self.net.classes))


def open_served(directory: Path, data: str | None, images: int) -> Served:
    """The steps of a workdir that the page shows, compiled; `data` and `images` are as for `bundle.of_network`."""
    newest = open_workdir(directory)
    shown, networks = bundle.of_network(newest, data, images), list(description.along_training(newest))
    described = description.describe(newest) | {
        "backend": "server",
        "precision": "float32",
        "runtime": {},
        "steps": [{"step": net.step, "program": None, "conv1": sprites.conv1_row(net)} for net in networks],
    }
    scripts = shown.files | {NAME: described | shown.described}
    files = {f"{name}.js": description.script(name, value) for name, value in scripts.items()}
    files |= {path.name: path.read_text() for path in BUILT.iterdir() if path.suffix in (".html", ".css", ".js")}
    layers = stages.shapes(newest.config.model).items()
    shapes = {f"{name}.{stage}": shape for name, each in layers for stage, shape in each.items()}
    shapes["probabilities"] = (len(newest.classes),)
    served = Served(newest, {net.step: net for net in networks}, shapes, files, shown.missing)
    black = np.zeros((max(SIZES), newest.config.data.size, newest.config.data.size, 3), np.uint8)
    for count in SIZES:
        served.log_probabilities(black[:count])
    for state in (1.0, 0.0):
        served.run(newest.step, [state for _ in served.links], black[:1], ["probabilities"])
    return served
