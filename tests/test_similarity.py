"""The similarity of representations: its values against definitions and known cases, and its section of the report."""

import sys

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr

from alexnet_jax import optim, sharding, steps
from alexnet_jax.data.datasets import open_dataset
from alexnet_jax.errors import UserError
from alexnet_jax.inference.network import Network
from alexnet_jax.paper import report, similarity
from alexnet_jax.run import checkpoint, config_files, workdir
from tests import test_report
from tests.tiny import tiny_config

pytestmark = pytest.mark.slow


def distances(x: np.ndarray) -> np.ndarray:
    """Of features [images, units], by SciPy: [methods, pairs]."""
    return np.stack([pdist(x, "sqeuclidean"), pdist(x, "correlation")])


def test_similarities_of_known_representations():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 150))
    rotated = 3 * x @ np.linalg.qr(rng.normal(size=(150, 150)))[0]
    related = np.maximum(x @ rng.normal(size=(150, 40)), 0)
    several = [x, rotated, x[:, ::-1], related, rng.normal(size=(200, 50))]
    cka, rsa = similarity.similarities(np.stack([distances(each) for each in several]))
    np.testing.assert_allclose(cka[0, :3], 1, atol=1e-6)
    np.testing.assert_allclose([rsa[0, 0], rsa[0, 2]], 1, atol=1e-6)
    assert rsa[0, 1] < 0.999  # correlations change with the axes
    np.testing.assert_allclose(cka[0, 4], np.sqrt(150 * 50 / ((199 + 150) * (199 + 50))), atol=0.01)  # independent
    assert abs(rsa[0, 4]) < 0.03
    # By definition: HSIC of linear kernels (Kornblith et al., 2019), and Spearman's coefficient.
    a, b = (each @ each.T for each in (x - x.mean(axis=0), related - related.mean(axis=0)))
    np.testing.assert_allclose(cka[0, 3], (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()), rtol=1e-6)
    expected = spearmanr(pdist(x, "correlation"), pdist(related, "correlation")).statistic
    np.testing.assert_allclose(rsa[0, 3], expected, rtol=1e-4)
    order = np.random.default_rng(report.SEED).permutation(200)
    np.testing.assert_allclose(similarity.shuffled(distances(x)), distances(x[order]), rtol=1e-9)


def a_run(
    directory, seed: int, keep_every_steps: int = 0, size: int = 32, one_tower: bool = False
) -> report.ReportedRun:
    """A workdir with networks for images of noise: at step 5 that which seed 7 starts from, at 10 that of its own."""
    values = tiny_config()
    values.seed = seed
    values.data.update(source="synthetic", directory="", size=size, eval_split="val")
    values.train.update(save_every_steps=5, keep_every_steps=keep_every_steps)
    if one_tower:
        values.model.towers, values.model.conv4 = 1, None
    config = config_files.parse(values)
    with workdir.lock(directory):
        workdir.prepare(directory, config, open_dataset("synthetic", "", size, 10))
    with checkpoint.open_directory(directory / workdir.CHECKPOINTS, keep=2) as checkpoints:
        for step, of_step in ((5, 7), (10, seed)):
            of_seed = config.model_copy(update={"seed": of_step})
            state = steps.init_state(of_seed, sharding.make_mesh(1, 0, config.model.towers))
            checkpoint.save(checkpoints, step, state, checkpoint.Position(0, optim.Validation(), 0), {})
    (run,) = report.open_runs([directory])
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[report.ReportedRun]:
    home = tmp_path_factory.mktemp("similarity")
    return [a_run(home / "first", seed=0, keep_every_steps=5), a_run(home / "second", seed=1)]


def test_distances_are_those_of_the_features(runs, monkeypatch):
    """Also where not all layers are computed together; of both towers together and of each."""
    network: Network = runs[0].network
    images, index = report.open_splits(network, None).evaluation, np.arange(3, 23)
    found = similarity.distances(network, images, index)
    monkeypatch.setattr(similarity, "FEATURES", 20 * 2000)  # two groups
    pixels = np.empty((20, 32, 32, 3), np.uint8)
    assert not images.read(index, pixels)
    for name, parts in similarity.distances(network, images, index).items():
        np.testing.assert_allclose(found[name], parts, rtol=1e-3, atol=1e-4)
        features = network.features(list(pixels), layer=name)
        for part, columns in zip(parts, (features, *np.split(features, 2, axis=1)), strict=True):
            np.testing.assert_allclose(part, distances(columns.astype(np.float64)), rtol=1e-3, atol=1e-4)
    damaged = similarity.distances(network, test_report.Damaged(images, 3), index)
    intact = similarity.distances(network, images, index[index % 3 > 0])
    np.testing.assert_allclose(damaged["fc6"], intact["fc6"], rtol=1e-3, atol=1e-4)
    assert list(found) == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]


def test_what_is_compared(runs):
    """The networks at step 10 are those at step 0, and the first run's at step 5 is another."""
    images = report.open_splits(runs[0].network, None).evaluation
    found = similarity.compared(runs, images, 40)
    assert [values.shape for values in found.runs.values()] == 3 * [(2, 8, 1)]
    assert [values.shape for values in found.towers.values()] == 3 * [(2, 8, 2)]
    for values in (found.runs, found.towers):
        np.testing.assert_allclose(values["trained"], values["untrained"], atol=1e-6)
        assert (np.abs(values["chance"][1]) < 0.3).all()
    np.testing.assert_allclose(found.within["trained"][:, range(8), range(8)], 1, atol=1e-6)
    assert list(found.training) == [0, 5, 10]
    np.testing.assert_allclose(found.training[0], 1, atol=1e-6)
    assert (found.training[5][:, 3:] < 0.99).all()
    other = [distances(runs[i].network.features(list(pixels(images, 40)), "fc6").astype(float)) for i in (0, 1)]
    np.testing.assert_allclose(
        found.runs["trained"][:, 5, 0], similarity.similarities(np.stack(other))[:, 0, 1], atol=1e-4
    )


def pixels(images, count: int) -> np.ndarray:
    index = report.sample(len(images.labels), count)
    out = np.empty((count, images.size, images.size, 3), np.uint8)
    assert not images.read(index, out)
    return out


@pytest.mark.long
def test_what_cannot_be_compared_is_left_out(runs, tmp_path, monkeypatch):
    images = report.open_splits(runs[0].network, None).evaluation
    one_tower = a_run(tmp_path / "one", seed=0, one_tower=True)
    mixed = similarity.section([one_tower, runs[1]], images, 20)
    assert len(mixed["layers"]) == 7 and mixed["runs"]["count"] == mixed["towers"]["count"] == 1
    assert similarity.section([one_tower], images, 20)["towers"] is None
    with pytest.raises(UserError, match="look at images of different sizes"):
        similarity.compared([runs[0], a_run(tmp_path / "larger", seed=0, size=40)], images, 20)
    monkeypatch.setitem(sys.modules, "rsatoolbox", None)
    with pytest.raises(UserError, match=r'needs rsatoolbox: pip install "alexnet_jax\[features\]"'):
        similarity.compared(runs, images, 20)
