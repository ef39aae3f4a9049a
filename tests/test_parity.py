"""One program, any layout: every mesh agrees with one device, and with an independent forward pass in NumPy.

Compared are the loss, every gradient, and the state after training.
"""

import jax
import numpy as np
import optax
import pytest

from alexnet_jax import augment, compiling, metrics, model, model_config, ops, pooling, sharding, steps
from alexnet_jax.configs import paper
from alexnet_jax.errors import UserError
from alexnet_jax.run import config_files
from tests.conftest import made_up_statistics, random_batch
from tests.meshes import MESHES, on_mesh, train, uniform_rates, worst_difference
from tests.tiny import tiny_config

BATCHES = [random_batch(seed=i) for i in range(5)]


@pytest.fixture(scope="module")
def serial():
    """Five steps on one device."""
    return train(tiny_config(), "1x1", made_up_statistics(), BATCHES)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["1x2", "2x1", "2x2", "2x2 split"])
def test_meshes_agree(mesh, statistics, serial):
    """The same batches give the same loss, gradients and five steps, with dropout, crops, flips and noise."""
    losses, first, state = train(tiny_config(), mesh, statistics, BATCHES)
    serial_losses, serial_first, serial_state = serial
    np.testing.assert_allclose(losses, serial_losses, rtol=1e-5)
    assert worst_difference(first, serial_first) < 1e-5
    assert worst_difference(state.params, serial_state.params) < 1e-5
    assert worst_difference(state.opt_state, serial_state.opt_state) < 1e-5
    assert worst_difference(state.metrics, serial_state.metrics) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["2x2", *(pytest.param(each, marks=pytest.mark.long) for each in ("1x2", "2x1"))])
def test_later_means_agree(mesh, statistics):
    """Nesterov's momentum, averaged parameters and smoothed labels, of classes that do not divide by the towers."""
    values = tiny_config()
    values.model.num_classes, values.optim.name, values.train.label_smoothing = 7, "nesterov", 0.3
    values.model.fc8.init_std, values.optim.ema_decay = 0.3, 0.5
    batches = [random_batch(seed=i, classes=7) for i in range(2)]
    losses, first, state = train(values, mesh, statistics, batches)
    serial_losses, serial_first, serial_state = train(values, "1x1", statistics, batches)
    np.testing.assert_allclose(losses, serial_losses, rtol=1e-5)
    assert worst_difference(first, serial_first) < 1e-5
    for ours, theirs in ((state.params, serial_state.params), (state.average, serial_state.average)):
        assert worst_difference(ours, theirs) < 1e-5


@pytest.mark.long
@pytest.mark.slow
def test_normalization_across_towers_agrees(statistics):
    """Caffe's windows cross the border of the towers: the result differs from the paper's, but not between meshes."""
    values = tiny_config()
    values.model.lrn.update(alpha=0.1, across_towers=True)
    batch = random_batch()
    losses, first, _ = train(values, "1x2", statistics, [batch, batch])
    serial_losses, serial_first, _ = train(values, "1x1", statistics, [batch, batch])
    np.testing.assert_allclose(losses, serial_losses, rtol=1e-5)
    assert worst_difference(first, serial_first) < 1e-5
    values.model.lrn.across_towers = False
    assert worst_difference(train(values, "1x1", statistics, [batch])[1], first) > 1e-3


def test_a_bfloat16_step_is_near_the_float32_step(statistics, serial):
    values = tiny_config()
    values.train.compute_dtype = "bfloat16"
    losses, first, state = train(values, "1x2", statistics, BATCHES)
    np.testing.assert_allclose(losses, serial[0], rtol=0.05)
    assert losses != serial[0]
    assert worst_difference(first, serial[1]) < 0.3
    assert {leaf.dtype.name for leaf in jax.tree.leaves((state.params, state.opt_state))} == {"float32"}


def plain_conv(image, kernel, bias, stride, padding):
    dimensions = ("NHWC", "HWIO", "NHWC")
    maps = jax.lax.conv_general_dilated(image, kernel, (stride,) * 2, (padding,) * 2, dimension_numbers=dimensions)
    return maps + bias[None, None, None]


def plain_norm(x, k, n, alpha, beta):
    window = (1,) * (x.ndim - 1) + (n,)
    total = jax.lax.reduce_window(x * x, 0.0, jax.lax.add, window, (1,) * x.ndim, "SAME")
    return x / (k + alpha * total) ** beta


def plain_pool(x, window, stride):
    ones = (1,) * (x.ndim - 3)
    sizes, strides = (*ones, window, window, 1), (*ones, stride, stride, 1)
    return jax.lax.reduce_window(x, -np.inf, jax.lax.max, sizes, strides, "VALID")


@pytest.mark.long
def test_200_steps_agree_with_the_plain_operations(statistics, monkeypatch):
    """Operations with JAX's own gradients and no tricks for speed give the same losses, to within a thousandth."""
    batches = [random_batch(seed=i % 10) for i in range(200)]
    fast, _, _ = train(tiny_config(), "1x2", statistics, batches)
    monkeypatch.setattr(ops, "conv", plain_conv)
    monkeypatch.setattr(ops, "dense", lambda x, kernel: x @ kernel)
    monkeypatch.setattr(ops, "local_response_norm", plain_norm)
    monkeypatch.setattr(pooling, "max_pool", plain_pool)
    monkeypatch.setattr(compiling, "CPU_OPTIONS", {})
    plain, _, _ = train(tiny_config(), "1x2", statistics, batches)
    assert fast != plain and min(fast[100:]) < 0.9 * fast[0]
    np.testing.assert_allclose(fast, plain, rtol=1e-3)


@pytest.mark.parametrize("wrong", [{"tower": 1}, {"data": 3}])
def test_layouts_that_cannot_split_fully_connected_layers(wrong):
    values = tiny_config()
    values.train.batch_size = values.train.eval_batch_size = 6
    values.mesh.update(data=2, tower=2, fc_sharding="data_tower")
    values.mesh.update(wrong)
    with pytest.raises(UserError, match=r"mesh.fc_sharding=data_tower needs mesh.tower=2|give another mesh.data"):
        cfg = config_files.parse(values)
        mesh = jax.make_mesh((3, 1), ("data", "tower"))  # of four devices
        sharding.of_state(steps.abstract_state(cfg, mesh), mesh, cfg.mesh.fc_sharding)


@pytest.mark.slow
def test_one_tower_with_split_layers(statistics, monkeypatch):
    """The scheme of arXiv:1404.5997: convolutions split by images, fully connected layers by weights."""
    values = tiny_config()
    values.model.towers, values.train.batch_size = 1, 8
    losses, first, state = train(values, "2x1", statistics, BATCHES)
    monkeypatch.setitem(MESHES, "2x1 split", (2, 1, "data_tower"))
    split_losses, split_first, split_state = train(values, "2x1 split", statistics, BATCHES)
    np.testing.assert_allclose(losses, split_losses, rtol=1e-5)
    assert worst_difference(first, split_first) < 1e-5
    assert worst_difference(state.params, split_state.params) < 1e-5


@pytest.mark.slow
def test_the_full_network_agrees_on_one_and_two_devices():
    values = paper.get_config()
    values.train.batch_size = values.train.eval_batch_size = 4
    statistics = augment.Statistics(
        np.full((256, 256, 3), 120, np.float32), np.array([9e3, 9e2, 90], np.float32), np.eye(3, dtype=np.float32)
    )
    batch = random_batch(4, 256, 1000)
    losses, first, state = train(values, "1x2", statistics, [batch])
    serial_losses, serial_first, serial_state = train(values, "1x1", statistics, [batch])
    np.testing.assert_allclose(losses, serial_losses, rtol=1e-5)
    assert worst_difference(first, serial_first) < 1e-5
    assert worst_difference(state.params, serial_state.params) < 1e-5


def numpy_forward(spec: model_config.Model, params: dict, image: np.ndarray) -> np.ndarray:
    """Log-probabilities [B, classes] in NumPy float64: whole layers, with zero blocks where the towers have no link."""
    towers = spec.towers

    def whole_kernel(name, inputs, exchange):
        """The kernel of all towers over all inputs: [..., inputs, outputs]."""
        kernels = np.asarray(params[name]["kernel"], np.float64)
        if exchange or kernels.shape[-2] == inputs:  # in conv1 every tower has the whole image as input
            return np.concatenate(list(kernels), axis=-1)
        share_in, share_out = kernels.shape[-2:]
        whole = np.zeros((*kernels.shape[1:-2], inputs, towers * share_out))
        for t in range(towers):
            whole[..., t * share_in : (t + 1) * share_in, t * share_out : (t + 1) * share_out] = kernels[t]
        return whole

    x = image.astype(np.float64)
    for name, conv in spec.convs():
        kernel = whole_kernel(name, x.shape[-1], conv.exchange)
        x = np.pad(x, [(0, 0), conv.padding, conv.padding, (0, 0)])
        windows = np.lib.stride_tricks.sliding_window_view(x, (conv.kernel, conv.kernel), axis=(1, 2))
        x = np.einsum("bhwcij,ijcf->bhwf", windows[:, :: conv.stride, :: conv.stride], kernel, optimize=True)
        x = np.maximum(x + np.concatenate(list(params[name]["bias"])), 0)
        if "lrn" in conv.then:
            share, parts = x.shape[-1] // towers, []
            for t in range(towers):  # a tower normalizes over its own channels
                own = x[..., t * share : (t + 1) * share]
                around = np.pad(own**2, [(0, 0)] * 3 + [(spec.lrn.n // 2,) * 2])
                total = sum(around[..., i : i + share] for i in range(spec.lrn.n))
                parts.append(own / (spec.lrn.k + spec.lrn.alpha * total) ** spec.lrn.beta)
            x = np.concatenate(parts, axis=-1)
        if "pool" in conv.then:
            windows = np.lib.stride_tricks.sliding_window_view(x, (spec.pool.window,) * 2, axis=(1, 2))
            x = windows[:, :: spec.pool.stride, :: spec.pool.stride].max(axis=(-2, -1))
    if not spec.hidden()[0][1].exchange:  # each tower flattens its own maps
        x = np.stack(np.split(x, towers, axis=-1), axis=1)
    x = x.reshape(len(x), -1)
    for name, dense in spec.hidden():
        x = np.maximum(
            x @ whole_kernel(name, x.shape[-1], dense.exchange) + np.concatenate(list(params[name]["bias"])), 0
        )
        x = x * (1 - spec.dropout_rate) if dense.dropout else x
    x = x @ whole_kernel("fc8", x.shape[-1], spec.fc8.exchange) + np.concatenate(list(params["fc8"]["bias"]))
    x = x[:, : spec.num_classes]
    return x - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)) - x.max(-1, keepdims=True)


@pytest.mark.slow
@pytest.mark.parametrize(("mesh", "classes"), [("1x2", 10), *((mesh, 7) for mesh in MESHES)])
def test_numpy_agrees(mesh, classes, statistics):
    """Probabilities, loss and errors against an independent forward pass; the masked example does not count."""
    values = tiny_config()
    values.model.num_classes = classes
    values.model.fc8.init_std = 0.3
    batch = random_batch(classes=classes)
    cfg, mesh_, state, on_device, constants = on_mesh(values, mesh, batch, statistics)
    host = jax.device_get(state.params)
    centre = batch.image[:, 2:30, 2:30].astype(np.float64) - statistics.mean_image[2:30, 2:30]
    expected = numpy_forward(cfg.model, host, centre)

    log_probabilities = steps.make_log_predict_step(cfg, mesh_, views=1)(state.params, on_device.image, constants)
    np.testing.assert_allclose(np.exp(log_probabilities), np.exp(expected), rtol=1e-4, atol=1e-6)

    result = metrics.summary(steps.make_eval_step(cfg, mesh_, views=1)(state.params, on_device, constants))
    kept = expected[:-1]
    rank = (kept > kept[np.arange(7), batch.label[:-1]][:, None]).sum(-1)
    assert result["count"] == 7
    assert result["loss"] == pytest.approx(-kept[np.arange(7), batch.label[:-1]].mean(), rel=1e-5)
    assert result["top1_error"] == pytest.approx((rank >= 1).mean())
    assert result["top5_error"] == pytest.approx((rank >= 5).mean())


def test_ten_views_are_the_mean_of_ten_predictions(statistics):
    values = tiny_config()
    values.model.fc8.init_std = 0.3
    cfg, mesh, state, batch, constants = on_mesh(values, "1x2", random_batch(), statistics)
    host = jax.device_get(state.params)
    minus_mean = np.asarray(batch.image, np.float64) - statistics.mean_image
    crops = [minus_mean[:, i : i + 28, j : j + 28] for i, j in ((0, 0), (0, 4), (4, 0), (4, 4), (2, 2))]
    mean = np.mean([np.exp(numpy_forward(cfg.model, host, v)) for c in crops for v in (c, c[:, :, ::-1])], axis=0)
    ours = steps.make_log_predict_step(cfg, mesh, views=10)(state.params, batch.image, constants)
    np.testing.assert_allclose(np.exp(ours), mean, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_no_links_and_one_tower_are_only_configs(statistics):
    """Without exchanges the towers meet only in the softmax; a single tower has nothing to exchange."""
    values = tiny_config()
    for name in ("conv3", "fc6", "fc7", "fc8"):
        values.model[name].exchange = False
    cfg, mesh, state, batch, constants = on_mesh(values, "1x2", random_batch(), statistics)
    centre = np.asarray(batch.image, np.float64)[:, 2:30, 2:30] - statistics.mean_image[2:30, 2:30]
    expected = np.exp(numpy_forward(cfg.model, jax.device_get(state.params), centre))
    ours = steps.make_log_predict_step(cfg, mesh, views=1)(state.params, batch.image, constants)
    np.testing.assert_allclose(np.exp(ours), expected, rtol=1e-4, atol=1e-6)

    values = tiny_config()
    values.model.towers = 1
    cfg, mesh, state, batch, constants = on_mesh(values, "1x1", random_batch(), statistics)
    expected = np.exp(numpy_forward(cfg.model, jax.device_get(state.params), centre))
    ours = steps.make_log_predict_step(cfg, mesh, views=1)(state.params, batch.image, constants)
    np.testing.assert_allclose(np.exp(ours), expected, rtol=1e-4, atol=1e-6)


def test_the_gradient_is_right(statistics):
    """A small step along the gradient changes the loss as the gradient predicts."""
    values = tiny_config()
    values.model.dropout_rate = 0.0
    values.model.conv1.init_std = 0.01
    values.model.fc8.init_std = 0.3
    values.optim.weights.weight_decay = values.optim.biases.weight_decay = 0.0
    cfg, mesh, state, batch, constants = on_mesh(values, "1x2", random_batch(), statistics)
    step = steps.make_train_step(cfg, mesh, steps_per_epoch=100)
    params = jax.tree.map(np.array, state.params)
    votes = sharding.votes(False, mesh)
    rates = uniform_rates(params, 1.0)
    state, _ = step(state, batch, rates, constants, votes)
    grads = jax.tree.map(lambda v: -np.array(v), optax.tree.get(state.opt_state, "trace"))  # v <- 0.9 * 0 - 1 * g
    squared = sum(float((g.astype(np.float64) ** 2).sum()) for g in jax.tree.leaves(grads))
    epsilon = 1e-3 / squared
    losses = []
    for sign in (1, -1):
        fresh = steps.init_state(cfg, mesh)
        shifted = jax.tree.map(lambda p, g, s=sign: (p + s * epsilon * g).astype(np.float32), params, grads)
        placed = jax.tree.map(lambda p, like: jax.device_put(p, like.sharding), shifted, fresh.params)
        losses.append(float(step(fresh.replace(params=placed), batch, rates, constants, votes)[1].loss))
    assert (losses[0] - losses[1]) / (2 * epsilon * squared) == pytest.approx(1, abs=0.02)


def test_logits_match_what_the_towers_compute(statistics):
    """Prediction puts the towers' classes side by side, in order."""
    cfg, mesh, state, batch, constants = on_mesh(tiny_config(), "1x2", random_batch(), statistics)
    view = augment.evaluation_views(np.asarray(batch.image), statistics, 28, 1, "same")[:, 0]
    run = jax.vmap(lambda p: model.logits(cfg.model, p, view, None), axis_name=sharding.TOWER)
    apart = np.asarray(run(jax.device_get(state.params)))
    together = np.concatenate(list(apart), axis=-1)
    ours = steps.make_log_predict_step(cfg, mesh, views=1)(state.params, batch.image, constants)
    np.testing.assert_allclose(np.exp(ours), jax.nn.softmax(together), rtol=1e-4)
