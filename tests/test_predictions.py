"""Errors with their intervals, and averages of networks."""

import json

import jax
import numpy as np
import pytest
from scipy import stats

from alexnet_jax import metrics, sharding
from alexnet_jax.errors import UserError
from alexnet_jax.inference import confusion, predictions
from alexnet_jax.inference.predictions import Predictions
from tests.test_commands import run


def made_up(seed: int, count: int = 300, classes: int = 10, skill: float = 2.0) -> Predictions:
    rng = np.random.default_rng(seed)
    label = np.arange(count, dtype=np.int32) % classes
    logits = rng.normal(size=(count, classes))
    logits[np.arange(count), label] += skill
    log_probabilities = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return Predictions(log_probabilities.astype(np.float32), label, np.arange(count, dtype=np.int32), 1, "data")


def test_scores_agree_with_sorting():
    predicted = made_up(0)
    result = predictions.score(predicted)
    order = np.argsort(-predicted.log_probabilities, axis=1)
    for k in (1, 5):
        wrong = ~(order[:, :k] == predicted.label[:, None]).any(1)
        assert result[f"top{k}_error"] == wrong.mean()
    assert result["count"] == 300
    assert result["loss"] == pytest.approx(
        -predicted.log_probabilities[np.arange(300), predicted.label].mean(), rel=1e-6
    )


def test_a_tie_is_an_error():
    same = Predictions(np.full((4, 10), np.log(0.1), np.float32), np.arange(4), np.arange(4), 1, "")
    assert predictions.score(same)["top1_error"] == predictions.score(same)["top5_error"] == 1


def test_outputs_that_are_not_numbers_are_errors():
    """100 % wrong in score, confusion and metrics alike, whatever the label."""
    label = np.arange(10, dtype=np.int32)
    predicted = Predictions(np.full((10, 10), np.nan, np.float32), label, label, 1, "")
    score = predictions.score(predicted)
    assert score["top1_error"] == score["top5_error"] == 1 and score["top1_interval"][1] == 1
    assert confusion.matrix(predicted, 10).diagonal().sum() == 0
    halves = np.full((2, 10, 5), np.nan, np.float32)
    outcomes = jax.vmap(lambda x: metrics.outcomes(x, label), axis_name=sharding.TOWER, out_axes=None)(halves)
    assert np.asarray(outcomes["top1_error"]).mean() == np.asarray(outcomes["top5_error"]).mean() == 1


def test_the_interval_is_wilsons():
    """Close to a bootstrap's in the middle; and not empty at the ends, where a bootstrap's is."""
    wrong = np.arange(1000) < 180
    bootstrap = stats.bootstrap((wrong,), np.mean, method="percentile", rng=np.random.default_rng(1), n_resamples=5000)
    np.testing.assert_allclose(predictions.interval(180, 1000), bootstrap.confidence_interval, atol=0.002)
    low, high = predictions.interval(0, 50)
    z = stats.norm.ppf(0.975)
    assert low == pytest.approx(0, abs=1e-12) and high == pytest.approx(z**2 / (50 + z**2)) and high > 0.07
    assert predictions.interval(50, 50) == pytest.approx([1 - high, 1])


def test_probabilities_are_averaged():
    members = [made_up(seed) for seed in range(3)]
    plain = np.mean([np.exp(each.log_probabilities.astype(np.float64)) for each in members], axis=0)
    np.testing.assert_allclose(np.exp(predictions.average(members).log_probabilities), plain, rtol=1e-5)
    weighted = predictions.average(members, [0, 1, 3])
    expected = (np.exp(members[1].log_probabilities) + 3 * np.exp(members[2].log_probabilities)) / 4
    np.testing.assert_allclose(np.exp(weighted.log_probabilities), expected, rtol=1e-5)
    error = predictions.score(predictions.average(members))["top1_error"]
    assert error < min(predictions.score(each)["top1_error"] for each in members)


def test_predictions_for_different_images_are_not_averaged():
    with pytest.raises(UserError, match="not asked about the same images"):
        predictions.average([made_up(0), made_up(1)._replace(data="other")])
    fewer = Predictions(*(x[:-1] if isinstance(x, np.ndarray) else x for x in made_up(1)))
    with pytest.raises(UserError, match="not asked about the same images"):
        predictions.average([made_up(0), fewer])


def test_tuned_weights_drop_a_network_that_knows_nothing():
    members = [made_up(0), made_up(1), made_up(2, skill=-6.0)]
    weights = predictions.tuned(members)
    best = predictions.score(predictions.average(members, weights))["top5_error"]
    assert best <= predictions.score(predictions.average(members))["top5_error"]
    assert weights[2] < min(weights[:2])


def test_saving_and_loading(tmp_path):
    path = tmp_path / "predictions.npz"
    assert predictions.load(path) is None
    predictions.save(path, made_up(0))
    loaded = predictions.load(path)
    assert loaded is not None
    np.testing.assert_array_equal(loaded.log_probabilities, made_up(0).log_probabilities)
    assert loaded[3:] == (1, "data")
    path.write_bytes(path.read_bytes()[:2000])
    assert predictions.load(path) is None


@pytest.mark.long
@pytest.mark.slow
def test_the_command_averages_runs(tmp_path):
    directories = []
    for seed in (0, 1):
        directories.append(tmp_path / f"seed{seed}")
        flags = ["--config=configs/digits.py", f"--workdir={directories[-1]}", f"--config.seed={seed}"]
        run("alexnet_jax.main", *flags, "--config.train.max_steps=20")
    for directory in directories:
        run("alexnet_jax", "evaluate", "--workdir", directory)
    saved = [predictions.load(directory / "predictions-test-1.npz") for directory in directories]
    mean = predictions.score(predictions.average([each for each in saved if each]))
    output = run("alexnet_jax", "evaluate", "--ensemble", *directories, "--tune_weights")
    assert "the mean of 2 networks: split test, 1 view(s)" in output
    assert f"top-1 error  {mean['top1_error']:.2%}  [" in output and "TUNED on the split test itself" in output
    alone = json.loads((directories[0] / "evaluation.json").read_text())
    assert alone["top1_interval"][0] <= alone["top1_error"] <= alone["top1_interval"][1]
