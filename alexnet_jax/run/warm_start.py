"""Starting from layers that another run has learned instead of from random numbers (`config.start`)."""

from pathlib import Path
from typing import Any

import jax

from alexnet_jax import model, steps
from alexnet_jax.errors import UserError
from alexnet_jax.run import checkpoint, workdir
from alexnet_jax.run_config import Config


def params(config: Config, mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """The layers `config.start.layers` of the run `config.start.workdir`. Raises UserError if their shapes differ."""
    directory = Path(config.start.workdir)
    source = workdir.open_finished(directory).config
    # Only shapes, which need no mesh: where the arrays go is for this run to say.
    theirs = jax.eval_shape(lambda: model.init(source.model, jax.random.key(0)))
    ours = steps.abstract_state(config, mesh).params
    for layer in config.start.layers:
        their_shapes, our_shapes = (jax.tree.map(lambda x: x.shape, tree.get(layer)) for tree in (theirs, ours))
        if their_shapes != our_shapes:
            raise UserError(
                f"{layer} of {directory} has the shapes {their_shapes} and that of this config {our_shapes}; leave it "
                "out of config.start.layers, or change the config"
            )
    wanted = {layer: ours[layer] for layer in config.start.layers}
    return checkpoint.restore_params(directory / workdir.CHECKPOINTS, wanted)[1]
