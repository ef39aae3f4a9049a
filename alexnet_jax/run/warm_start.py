"""Starting from what another run has learned, instead of from random numbers."""

from pathlib import Path
from typing import Any

import jax

from alexnet_jax import sharding, steps
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.errors import UserError
from alexnet_jax.run import checkpoint, workdir
from alexnet_jax.run_config import Config


def params(config: Config, mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """The parameters of the layers `config.start.layers` in the newest checkpoint of `config.start.workdir`.

    Raises UserError if there is no such layer there, or it is of another shape.
    """
    directory = Path(config.start.workdir)
    there = workdir.open_finished(directory).config
    # Shapes do not depend on the mesh; where the arrays go is for this run to say.
    theirs = steps.abstract_state(there, sharding.make_mesh(1, 1, there.model.towers)).params
    ours = steps.abstract_state(config, mesh).params
    for layer in config.start.layers:
        shapes = [jax.tree.map(lambda x: x.shape, of.get(layer)) for of in (theirs, ours)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"{layer} of {directory} has the shapes {shapes[0]} and that of this config {shapes[1]}; leave it out "
                "of config.start.layers, or change the config"
            )
    wanted = {layer: ours[layer] for layer in config.start.layers}
    return checkpoint.restore_params(directory / workdir.CHECKPOINTS, wanted)[1]


def statistics(config: Config) -> Statistics:
    """The mean image and colours of the run `config.start.workdir`, which its kernels are used to.

    Raises UserError if its images are of another size.
    """
    found, size = workdir.open_finished(Path(config.start.workdir)).statistics, config.data.size
    if found.mean_image.shape[0] != size:
        raise UserError(
            f"{config.start.workdir} was trained on images of {found.mean_image.shape[0]} pixels and config.data.size "
            f"is {size}; prepare the images at its size, or give --config.start.statistics=False"
        )
    return found
