"""Where a loss or gradient that is not finite began, found by repeating steps, and what is kept to study it.

The host sees that a loss is not finite some steps too late, when the state is already spoilt. But steps can be repeated
with the same numbers, so the search costs nothing until it is needed.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from alexnet_jax import compiling, metrics, model, sharding, steps
from alexnet_jax.data.files import write_text
from alexnet_jax.data.loader import Order
from alexnet_jax.errors import NonFinite
from alexnet_jax.optim import Validation
from alexnet_jax.run import checkpoint, processes
from alexnet_jax.run.workdir import CHECKPOINTS, NONFINITE
from alexnet_jax.run_config import Config


class Replay(NamedTuple):
    """What the steps of a run are computed with, apart from state and batches. All processes make the same calls."""

    config: Config
    mesh: Mesh
    order: Order
    statistics: Any  # on the devices

    def first_bad_step(
        self, state: steps.TrainState, batches: Iterable[Any], rates: Iterable[Any], doing: Callable[[str], None]
    ) -> tuple[steps.TrainState, Any] | None:
        """Repeat steps from `state`. Returns the state before the first that is not finite, and its batch; or None."""
        train_step = steps.make_train_step(self.config, self.mesh, self.order.steps_per_epoch, donate=False)
        votes = sharding.votes(False, self.mesh)
        for batch, step_rates in zip(batches, rates, strict=True):
            doing("repeating steps")
            placed = sharding.put(batch, self.mesh, sharding.EXAMPLES)
            after, report = train_step(state, placed, step_rates, self.statistics, votes)
            if not (report.is_sound() and steps.is_finite(after)):
                return state, placed
            state = after
        return None

    def keep(self, directory: Path, state: steps.TrainState, batch: Any) -> NonFinite:
        """Write the state before a bad step and the examples of its `batch` to the workdir; the error to raise."""
        step = int(state.step)
        origin = self.origin(state, batch)
        with checkpoint.open_directory(directory / NONFINITE / CHECKPOINTS, keep=1) as checkpoints:
            if step not in checkpoints.all_steps():
                position = checkpoint.Position(step, Validation(), 0)
                checkpoint.save(checkpoints, step, state, position, {"config": self.config.model_dump(mode="json")})
        if processes.is_first():
            examples, mask = self.order.batch(step)
            content = {"step": step + 1, "examples": examples[mask].tolist(), "not_finite": origin}
            write_text(directory / NONFINITE / "batch.json", json.dumps(content, indent=2) + "\n")
        first = next((f"{name} ({count} numbers)" for name, count in origin.items()), "the update")
        cure = "Give a smaller --config.optim.learning_rate"
        if self.config.train.compute_dtype == "float16":
            cure += ", or --config.train.compute_dtype=float32, as float16 ends at 65,504,"
        return NonFinite(
            f"the loss, a gradient or a parameter is not finite at step {step + 1}; first {first}. The state before "
            f"that step and its examples are in {directory / NONFINITE}; checkpoints, if any, are older and intact. "
            f"{cure} and another --workdir; to keep layers see --config.start"
        )

    def origin(self, state: steps.TrainState, batch: Any) -> dict[str, int]:
        """What is not finite when a step is computed again, and in how many numbers, in the order of computation.

        Parameters, activations layer by layer, then the loss; if all are finite, the gradients, last layer first.
        """
        params = jax.device_get(jax.jit(_counts)(state.params))
        activations, loss, grads = jax.device_get(self._count(state, batch))
        counts = {
            f"{kind} of {layer} before the step": n for layer, kinds in params.items() for kind, n in kinds.items()
        }
        counts["image"] = activations["image"]
        places = [f"{layer}_{place}" for layer in params for place in ("response", "output")]
        counts |= {f"{place} of the batch": activations[place] for place in places if place in activations}
        counts["loss"] = not np.isfinite(loss)
        if not any(counts.values()):
            last_first = reversed(grads.items())
            counts = {f"gradient of {layer}'s {kind}": n for layer, kinds in last_first for kind, n in kinds.items()}
        return {name: int(count) for name, count in counts.items() if count}

    def _count(self, state: steps.TrainState, batch: Any) -> tuple[Any, Array, Any]:
        """How many numbers are not finite in activations and gradients; and the loss."""
        config, steps_per_epoch, fc_sharding = self.config, self.order.steps_per_epoch, self.config.mesh.fc_sharding
        splits_inputs = sharding.splits_inputs(self.mesh, fc_sharding)

        def count_of_all_towers(x):  # [B, ...] of each tower -> [B]
            return jax.lax.psum((~jnp.isfinite(x)).reshape(len(x), -1).sum(-1, dtype=jnp.int32), sharding.TOWER)

        def tower_program(params, batch, constants):
            inputs = steps.training_input(config, self.mesh, batch, *constants)
            activations = {"image": inputs[0]} | model.activations(config.model, params, *inputs, splits_inputs)
            return jax.tree.map(count_of_all_towers, activations)

        forward = sharding.over_towers(tower_program, self.mesh, sharding.EXAMPLES, fc_sharding)
        gradient = steps.make_gradient(config, self.mesh, steps_per_epoch)

        def count(state, batch, statistics):
            counts = forward(state.params, batch, (statistics, state.step // steps_per_epoch))
            return jax.tree.map(lambda count: count.sum(dtype=jnp.int32), counts)

        if not config.train.virtual_shards:  # else it is several programs already
            gradient = jax.jit(compiling.with_precision(gradient, config))
        grads, (batch_metrics, _) = gradient(state, batch, self.statistics)
        counts = jax.jit(compiling.with_precision(count, config))(state, batch, self.statistics)
        return counts, metrics.mean_loss(batch_metrics), jax.jit(_counts)(grads)


def _counts(tree: Any) -> Any:
    return jax.tree.map(lambda x: (~jnp.isfinite(x)).sum(dtype=jnp.int32), tree)
