"""The same network in PyTorch, with groups for towers: forward pass, loss and every gradient.

PyTorch is large and not a dependency: `bash tests/run.sh --all` installs it and runs these tests.
"""

import jax
import numpy as np
import optax
import pytest

from alexnet_jax import sharding, steps
from tests.conftest import random_batch
from tests.meshes import on_mesh, train
from tests.tiny import tiny_config

torch = pytest.importorskip("torch", reason="PyTorch is not installed; `bash tests/run.sh --all` installs it")
from alexnet_jax.bench import torch_net  # noqa: E402


def side_by_side(leaf, layer: str):
    """Our [tower, ...] in PyTorch's layout: outputs of all towers first; its fc6 flattens channels before pixels."""
    leaf = np.asarray(leaf)
    if leaf.ndim == 2:
        return torch.tensor(leaf.reshape(-1))
    if leaf.ndim == 5:  # [tower, k, k, in, out] -> [tower * out, in, k, k]
        return torch.tensor(leaf.transpose(0, 4, 3, 1, 2).reshape(-1, leaf.shape[3], *leaf.shape[1:3]))
    whole = leaf.transpose(0, 2, 1).reshape(-1, leaf.shape[1])  # [tower, in, out] -> [tower * out, in]
    if layer == "fc6":
        whole = whole.reshape(len(whole), 2, 2, -1).transpose(0, 3, 1, 2).reshape(len(whole), -1)
    return torch.tensor(np.ascontiguousarray(whole))


@pytest.mark.slow
def test_pytorch_agrees_on_loss_and_every_gradient(statistics):
    values = tiny_config()
    values.model.dropout_rate = 0.0
    values.model.lrn.alpha = 0.01
    values.model.fc8.init_std = 0.3
    values.augment.update(flip=False, colour_noise_std=0.0)
    values.data.size = 28  # no random crop
    values.optim.weights.weight_decay = values.optim.biases.weight_decay = 0.0
    statistics = statistics._replace(mean_image=statistics.mean_image[2:30, 2:30])
    batch = random_batch(image=28)
    cfg, mesh, state, _, _ = on_mesh(values, "1x2", batch, statistics)
    start = jax.device_get(state.params)
    net = torch_net.net(cfg.model)
    names = {"kernel": "weight", "bias": "bias"}
    params = {
        f"{layer}.{names[kind]}": side_by_side(leaf, layer)
        for layer, leaves in start.items()
        for kind, leaf in leaves.items()
    }
    net.load_state_dict(params)  # fails unless these are all parameters
    image = torch.tensor((batch.image - statistics.mean_image).transpose(0, 3, 1, 2))
    kept = torch.tensor(batch.mask)
    logits = net(image)[kept]
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(batch.label).long()[kept])
    loss.backward()

    losses, first, _ = train(values, "1x2", statistics, [batch])
    assert losses[0] == pytest.approx(float(loss.detach()), rel=1e-5)
    for layer, leaves in optax.tree.get(first, "trace").items():  # v = -lr g
        for name, leaf in leaves.items():
            ours = side_by_side(leaf / -0.01, layer).numpy()
            theirs = net.get_parameter(f"{layer}.{names[name]}").grad.numpy()
            assert np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(theirs), (layer, name)

    constants = sharding.put(statistics, mesh, sharding.REPLICATED)
    probabilities = np.exp(steps.make_log_predict_step(cfg, mesh, views=1)(state.params, batch.image, constants))
    np.testing.assert_allclose(probabilities[:-1], logits.softmax(1).detach(), rtol=1e-4, atol=1e-6)
