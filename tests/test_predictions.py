"""Errors, their intervals, and averages of networks."""

import json

import numpy as np
import pytest
from scipy import stats

from alexnet_jax.errors import UserError
from alexnet_jax.inference import predictions
from alexnet_jax.inference.predictions import Predictions
from tests.test_commands import run


def made_up(seed: int, count: int = 300, classes: int = 10, skill: float = 2.0) -> Predictions:
    rng = np.random.default_rng(seed)
    label = np.arange(count, dtype=np.int32) % classes
    logits = rng.normal(size=(count, classes))
    logits[np.arange(count), label] += skill
    log_probabilities = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return Predictions(log_probabilities.astype(np.float32), label, np.arange(count, dtype=np.int32), 1, "data")


def test_scores_are_those_of_sorting():
    found = made_up(0)
    result = predictions.score(found)
    order = np.argsort(-found.log_probabilities, axis=1)
    for k in (1, 5):
        wrong = ~(order[:, :k] == found.label[:, None]).any(1)
        assert result[f"top{k}_error"] == wrong.mean()
    assert result["count"] == 300
    assert result["loss"] == pytest.approx(-found.log_probabilities[np.arange(300), found.label].mean(), rel=1e-6)


def test_a_tie_is_an_error():
    same = Predictions(np.full((4, 10), np.log(0.1), np.float32), np.arange(4), np.arange(4), 1, "")
    assert predictions.score(same)["top1_error"] == predictions.score(same)["top5_error"] == 1


def test_the_interval_is_that_of_a_bootstrap():
    wrong = np.arange(1000) < 180
    theirs = stats.bootstrap((wrong,), np.mean, method="percentile", rng=np.random.default_rng(1), n_resamples=5000)
    np.testing.assert_allclose(predictions.interval(180, 1000), theirs.confidence_interval, atol=0.002)
    assert predictions.interval(0, 50) == [0, 0]


def test_averages_are_of_probabilities():
    several = [made_up(seed) for seed in range(3)]
    plain = np.mean([np.exp(each.log_probabilities.astype(np.float64)) for each in several], axis=0)
    np.testing.assert_allclose(np.exp(predictions.average(several).log_probabilities), plain, rtol=1e-5)
    weighted = predictions.average(several, [0, 1, 3])
    expected = (np.exp(several[1].log_probabilities) + 3 * np.exp(several[2].log_probabilities)) / 4
    np.testing.assert_allclose(np.exp(weighted.log_probabilities), expected, rtol=1e-5)
    error = predictions.score(predictions.average(several))["top1_error"]
    assert error < min(predictions.score(each)["top1_error"] for each in several)


def test_other_images_are_not_averaged():
    with pytest.raises(UserError, match="not asked about the same images"):
        predictions.average([made_up(0), made_up(1)._replace(data="other")])
    fewer = Predictions(*(x[:-1] if isinstance(x, np.ndarray) else x for x in made_up(1)))
    with pytest.raises(UserError, match="not asked about the same images"):
        predictions.average([made_up(0), fewer])


def test_tuned_weights_drop_a_network_that_knows_nothing():
    several = [made_up(0), made_up(1), made_up(2, skill=-6.0)]
    weights = predictions.tuned(several)
    best = predictions.score(predictions.average(several, weights))["top5_error"]
    assert best <= predictions.score(predictions.average(several))["top5_error"]
    assert weights[2] < min(weights[:2])


def test_what_is_kept_comes_back_and_damage_is_nothing(tmp_path):
    path = tmp_path / "predictions.npz"
    assert predictions.load(path) is None
    predictions.save(path, made_up(0))
    back = predictions.load(path)
    assert back is not None
    np.testing.assert_array_equal(back.log_probabilities, made_up(0).log_probabilities)
    assert back[3:] == (1, "data")
    path.write_bytes(path.read_bytes()[:2000])
    assert predictions.load(path) is None


@pytest.mark.slow
def test_the_command_averages_runs(tmp_path):
    directories = []
    for seed in (0, 1):
        directories.append(tmp_path / f"seed{seed}")
        flags = ["--config=configs/digits.py", f"--workdir={directories[-1]}", f"--config.seed={seed}"]
        run("alexnet_jax.main", *flags, "--config.train.max_steps=20")
    for directory in directories:
        run("alexnet_jax", "evaluate", "--workdir", directory)
    kept = [predictions.load(directory / "predictions-test-1.npz") for directory in directories]
    mean = predictions.score(predictions.average([each for each in kept if each]))
    output = run("alexnet_jax", "evaluate", "--ensemble", *directories, "--tune_weights")
    assert "the mean of 2 networks: split test, 1 view(s)" in output
    assert f"top-1 error  {mean['top1_error']:.2%}  [" in output and "TUNED on the split test itself" in output
    alone = json.loads((directories[0] / "evaluation.json").read_text())
    assert alone["top1_interval"][0] <= alone["top1_error"] <= alone["top1_interval"][1]
