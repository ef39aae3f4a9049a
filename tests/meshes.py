"""Training on meshes of simulated devices, for the tests that compare them."""

import jax
import numpy as np

from alexnet_jax import optim, run_config, sharding, steps
from alexnet_jax.run import config_files

# data, tower, fc_sharding
MESHES = {"1x2": (1, 2, "tower"), "1x1": (1, 1, "tower"), "2x1": (2, 1, "tower"), "2x2": (2, 2, "tower")}
MESHES["2x2 split"] = (2, 2, "data_tower")  # 2x2, with fully connected layers split over all four devices


def uniform_rates(layers, rate: float = 0.01) -> optim.Rates:
    """One learning rate for all parameters."""
    return {name: {"kernel": np.float32(rate), "bias": np.float32(rate)} for name in layers}


def parse_for_mesh(values, mesh: str) -> run_config.Config:
    values.mesh.data, values.mesh.tower, values.mesh.fc_sharding = MESHES[mesh]
    return config_files.parse(values)


def on_mesh(values, mesh_name, batch, statistics):
    """The config, the mesh, and the initial state, the batch and the statistics on it."""
    cfg = parse_for_mesh(values, mesh_name)
    mesh = sharding.make_mesh(cfg.mesh.data, cfg.mesh.tower, cfg.model.towers)
    return (
        cfg,
        mesh,
        steps.init_state(cfg, mesh),
        sharding.put(batch, mesh, sharding.EXAMPLES),
        sharding.put(statistics, mesh, sharding.REPLICATED),
    )


def train(values, mesh_name, statistics, batches):
    """Train one step on each batch: all losses, the momentum after the first step, -0.01 (g + decay), the last state.

    Both the momentum and the state are on the host.
    """
    cfg, mesh, state, _, constants = on_mesh(values, mesh_name, batches[0], statistics)
    step = steps.make_train_step(cfg, mesh, steps_per_epoch=2)
    rates = uniform_rates(state.params)
    losses, first = [], None
    for batch in batches:
        batch = sharding.put(batch, mesh, sharding.EXAMPLES)
        state, report = step(state, batch, rates, constants, sharding.votes(False, mesh))
        first = first or jax.device_get(state.opt_state)
        losses.append(float(report.loss))
    return losses, first, jax.device_get(state)


def worst_difference(tree, reference) -> float:
    """The largest relative difference of a leaf, in the norm."""

    def difference(a, b):
        return np.linalg.norm(np.asarray(a, np.float64) - b) / (np.linalg.norm(np.asarray(b, np.float64)) or 1)

    return max(jax.tree.leaves(jax.tree.map(difference, jax.device_get(tree), jax.device_get(reference))))
