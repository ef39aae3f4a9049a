"""What is kept and told of a step whose loss or gradient is not finite: where it began, and all it takes to see it.

The host sees that a loss is not finite some steps too late, and the state is then spoilt. But steps can be taken again,
with the same numbers: so the search costs nothing until it is needed.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from alexnet_jax import model, sharding, steps
from alexnet_jax.data.loader import Order
from alexnet_jax.data.manifest import write_text
from alexnet_jax.errors import NonFinite
from alexnet_jax.optim import Validation
from alexnet_jax.run import checkpoint, processes
from alexnet_jax.run.workdir import CHECKPOINTS, NONFINITE
from alexnet_jax.run_config import Config


def search(
    config: Config,
    mesh: Mesh,
    steps_per_epoch: int,
    state: steps.TrainState,
    batches: Iterable[Any],
    rates: Iterable[np.ndarray],
    statistics: Any,
    moved: Callable[[str], None],
) -> tuple[steps.TrainState, Any] | None:
    """Takes the steps from `state` on again, until the first whose loss is not finite or that leaves what is not.

    Returns the state before that step and its batch, on the devices; None if there is no such step.
    """
    step = steps.make_train_step(config, mesh, steps_per_epoch, donate=False)
    votes = sharding.votes(False, mesh)
    for batch, of_step in zip(batches, rates, strict=True):
        moved("a training step again")
        placed = sharding.put(batch, mesh, sharding.EXAMPLES)
        after, seen = step(state, placed, of_step, statistics, votes)
        if not (np.isfinite(float(seen.loss)) and steps.is_finite(after)):
            return state, placed
        state = after
    return None


def keep(
    config: Config, mesh: Mesh, directory: Path, state: steps.TrainState, order: Order, batch: Any, statistics: Any
) -> NonFinite:
    """Keeps the state before a step and the examples of its `batch` in the workdir; returns the error to raise.

    All processes call it, with what `search` found.
    """
    step = int(state.step)
    trail = first(config, mesh, order.steps_per_epoch, state, batch, statistics)
    position = checkpoint.Position(step, Validation(), 0)
    with checkpoint.open_directory(directory / NONFINITE / CHECKPOINTS, keep=1) as checkpoints:
        if step not in checkpoints.all_steps():
            checkpoint.save(checkpoints, step, state, position, config.model_dump(mode="json"))
    if processes.is_first():
        examples, mask = order.batch(step)
        found = {"step": step + 1, "examples": examples[mask].tolist(), "not_finite": trail}
        write_text(directory / NONFINITE / "batch.json", json.dumps(found, indent=2) + "\n")
    where = next((f"{name} ({count} numbers)" for name, count in trail.items()), "the update")
    return NonFinite(
        f"the loss, a gradient or a parameter is no finite number at step {step + 1}; first {where}. The state before "
        f"that step and its examples are in {directory / NONFINITE}; the checkpoints are older and sound. Give a "
        "smaller --config.optim.learning_rate and another --workdir; --config.start goes on from learned layers"
    )


def first(
    config: Config, mesh: Mesh, steps_per_epoch: int, state: steps.TrainState, batch: Any, statistics: Any
) -> dict[str, int]:
    """What is not finite when the step is computed again, in the order in which a step computes it.

    Parameters, then what the layers compute, then the loss; if all these are finite, the gradients, last layer first.
    """
    before = jax.device_get(jax.jit(_counts)(state.params))
    seen, loss, grads = jax.device_get(_make_check(config, mesh, steps_per_epoch)(state, batch, statistics))
    found: list[tuple[str, int]] = [
        (f"{kind} of {layer} before the step", n) for layer, kinds in before.items() for kind, n in kinds.items()
    ]
    found += [("image", seen["image"])]
    places = [f"{layer}_{place}" for layer in before for place in ("response", "output")]  # in this order
    found += [(f"{place} of the batch", seen[place]) for place in places if place in seen]
    found += [("loss", int(not np.isfinite(loss)))]
    if not any(count for _, count in found):
        last_first = reversed(grads.items())
        found = [(f"gradient of {layer}'s {kind}", n) for layer, kinds in last_first for kind, n in kinds.items()]
    return {name: int(count) for name, count in found if count}


def _counts(tree: Any) -> Any:
    return jax.tree.map(lambda x: (~jnp.isfinite(x)).sum(dtype=jnp.int32), tree)


def _make_check(config: Config, mesh: Mesh, steps_per_epoch: int) -> jax.stages.Wrapped:
    """`(state, batch, statistics) -> (activations, loss, gradients)`: of each how many numbers are not finite."""
    fc_sharding = config.mesh.fc_sharding
    splits_inputs = sharding.splits_inputs(mesh, fc_sharding)

    def tower_program(params, batch, constants):
        image, keys = steps.training_input(config, batch, *constants)
        seen = {"image": image} | model.activations(config.model, params, image, keys, splits_inputs)
        return {name: _of_towers(x) for name, x in seen.items()}

    flags = sharding.over_towers(tower_program, mesh, sharding.EXAMPLES, fc_sharding)
    gradient = jax.value_and_grad(steps.make_loss(config, mesh, steps_per_epoch), has_aux=True)

    def check(state, batch, statistics):
        seen = flags(state.params, batch, (statistics, state.step // steps_per_epoch))
        (loss, _), grads = gradient(state.params, batch, statistics, state.step)
        return jax.tree.map(lambda count: count.sum(dtype=jnp.int32), seen), loss, _counts(grads)

    return jax.jit(check)


def _of_towers(x: Array) -> Array:
    """How many numbers of each example are not finite: [B, ...] of each tower -> [B] of all."""
    return jax.lax.psum((~jnp.isfinite(x)).reshape(len(x), -1).sum(-1, dtype=jnp.int32), sharding.TOWER)
