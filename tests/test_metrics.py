"""Loss and errors from split classes, and their sums over masked batches."""

import jax
import numpy as np
import optax
import pytest

from alexnet_jax import metrics, sharding


def outcomes(log_probabilities, label, smoothing=0.0):
    """Outcomes of rows [B, C], split over two towers."""
    halves = np.stack(np.split(np.asarray(log_probabilities, np.float32), 2, axis=-1))
    run = jax.vmap(lambda x: metrics.outcomes(x, np.asarray(label), smoothing), axis_name=sharding.TOWER, out_axes=None)
    return jax.tree.map(np.asarray, run(halves))


def test_softmax_over_split_classes_with_large_logits():
    logits = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32) * 200
    halves = np.stack(np.split(logits, 2, axis=-1))
    ours = np.concatenate(list(jax.vmap(metrics.log_softmax, axis_name=sharding.TOWER)(halves)), axis=-1)
    np.testing.assert_allclose(ours, jax.nn.log_softmax(logits), rtol=1e-5)


def test_ranks():
    row = np.log(np.array([0.3, 0.25, 0.2, 0.1, 0.08, 0.07]))
    result = outcomes([row] * 6, range(6))
    np.testing.assert_allclose(result["loss"], -row, rtol=1e-5)
    assert result["top1_error"].tolist() == [0, 1, 1, 1, 1, 1]
    assert result["top5_error"].tolist() == [0, 0, 0, 0, 0, 1]


def test_smoothed_labels_of_seven_classes_in_eight_columns():
    logits = np.random.default_rng(0).normal(size=(3, 7)).astype(np.float32)
    logits[2], label = 0, [0, 6, 3]  # the last example: guessing
    columns = np.pad(jax.nn.log_softmax(logits), [(0, 0), (0, 1)], constant_values=np.finfo(np.float32).min)
    expected = optax.softmax_cross_entropy(logits, optax.smooth_labels(jax.nn.one_hot(label, 7), 0.3))
    np.testing.assert_allclose(outcomes(columns, label, 0.3)["loss"], expected, rtol=1e-5)
    assert expected[2] == pytest.approx(np.log(7))


def test_ties_and_nan_count_as_errors():
    assert outcomes(np.zeros((1, 6)), [2])["top5_error"] == 1
    assert outcomes(np.full((1, 6), np.nan), [2])["top1_error"] == 1
    assert outcomes([[-1, np.nan, -2, -2, -2, -2]], [0])["top1_error"] == 1


def test_sums_skip_masked_examples_and_count_the_others_once():
    values = {name: np.arange(4, dtype=np.float32) for name in ("loss", "top1_error", "top5_error")}
    total = metrics.nothing()
    for mask in ([True, True, True, True], [True, False, False, True]):
        total = metrics.merge(total, metrics.of_batch(values, np.array(mask)))
    assert metrics.summary(total) == {"loss": 1.5, "top1_error": 1.5, "top5_error": 1.5, "count": 6}
    masked = metrics.of_batch(values, np.array([False, True, True, False]))
    assert float(metrics.mean_loss(masked)) == pytest.approx(1.5)
