"""The images of the two recipes against NumPy in float64: colour noise, crops, mirror images, and the ten views."""

import numpy as np
import pytest

from alexnet_jax import augment, run_config, sharding, steps
from alexnet_jax.configs import code2012, paper
from alexnet_jax.data.statistics import Statistics
from tests import recipes
from tests.recipes import CODE, COMPONENTS, DEVIATIONS, TEXT, published_statistics, training_views

NO_NOISE = {"colour_noise_std": 0.0}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (CODE.augment, (11.07, 3.37, 1.79)),
        (CODE.augment.model_copy(update={"colour_noise_shrinks": False}), (12.18, 3.71, 1.97)),
        (TEXT.augment, tuple(0.1 * DEVIATIONS**2 / 255)),  # 5.8, 0.54 and 0.15
    ],
    ids=["code", "code before / 1.1", "paper"],
)
def test_colour_noise_along_the_principal_components(settings, expected):
    noise = training_views(np.zeros((32_000, 4, 4, 3), np.uint8), settings, published_statistics(4), 2)
    assert (noise == noise[:, :1, :1]).all()  # one colour for all pixels of an image
    along = noise[:, 0, 0] @ np.linalg.inv(COMPONENTS)
    np.testing.assert_allclose(along.std(axis=0), expected, rtol=0.015)
    scaled = along / along.std(axis=0)
    assert np.abs(scaled.mean(axis=0)).max() < 0.025
    np.testing.assert_allclose(scaled.T @ scaled / len(scaled), np.eye(3), atol=0.025)  # independent
    np.testing.assert_allclose((scaled**4).mean(axis=0), 3, atol=0.15)  # Gaussian
    assert len(np.unique(noise[:, 0, 0, 0])) > 31_000  # each image has its own, though 32 share a crop


@pytest.mark.slow
def test_the_code_divides_the_whole_image_and_stops_the_noise_at_epoch_68():
    image, statistics = np.full((3200, 4, 4, 3), 200, np.uint8), published_statistics(4, mean=90)
    without_noise, with_noise = (training_views(image, CODE.augment, statistics, 2, epoch) for epoch in (68, 67))
    assert (without_noise == 110).all()
    assert with_noise.mean() == pytest.approx(110 / 1.1, abs=0.5) and with_noise.std() > 5
    assert (training_views(image, CODE.augment, statistics, 2, 92) == 110).all()
    assert training_views(image, TEXT.augment, statistics, 2, 89).std() > 1  # the paper never stops it
    for settings in (CODE.augment, TEXT.augment):
        tested = augment.evaluation_views(image[:2], statistics, 2, 10, settings.mean_crop)
        assert (np.asarray(tested) == 110).all()  # neither noise nor division at test time


@pytest.mark.parametrize("mean_crop", ["same", "centre"])
def test_ten_views(mean_crop):
    """Offsets 0, 16 and 32; with "centre" every view subtracts the mean image's centre, not mirrored."""
    rng = np.random.default_rng(0)
    image, mean = rng.integers(0, 256, (1, 256, 256, 3), dtype=np.uint8), rng.uniform(90, 150, (256, 256, 3))
    statistics = Statistics(mean.astype(np.float32), np.ones(3, np.float32), np.eye(3, dtype=np.float32))
    ours = np.asarray(augment.evaluation_views(image, statistics, 224, 10, mean_crop))[0]
    centre = mean[16:240, 16:240]
    equal = []  # [expected view, our view]
    for i, j in ((16, 16), (0, 0), (0, 32), (32, 0), (32, 32)):
        crop, own_mean = image[0, i : i + 224, j : j + 224].astype(np.float64), mean[i : i + 224, j : j + 224]
        if mean_crop == "same":
            expected = [crop - own_mean, (crop - own_mean)[:, ::-1]]
        else:
            expected = [crop - centre, crop[:, ::-1] - centre]
        equal += [[np.abs(view - our_view).max() < 1e-3 for our_view in ours] for view in expected]
    np.testing.assert_array_equal(np.sum(equal, axis=0), 1)
    np.testing.assert_array_equal(np.sum(equal, axis=1), 1)
    single = np.asarray(augment.evaluation_views(image, statistics, 224, 1, mean_crop))[0]
    np.testing.assert_allclose(single, image[:, 16:240, 16:240] - centre, atol=1e-3)


def softmax(x: np.ndarray) -> np.ndarray:
    exponential = np.exp(x - x.max(axis=-1, keepdims=True))
    return exponential / exponential.sum(axis=-1, keepdims=True)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [paper, code2012], ids=["paper", "code2012"])
def test_ten_views_average_probabilities_not_logits(recipe):
    config = recipes.small(recipe)
    params = recipes.large_parameters(config.model)
    rng = np.random.default_rng(0)
    image, mean = rng.integers(0, 256, (2, 100, 100, 3), dtype=np.uint8), rng.uniform(90, 150, (100, 100, 3))
    statistics = Statistics(mean.astype(np.float32), np.ones(3, np.float32), np.eye(3, dtype=np.float32))
    logits = []
    for i, j in ((0, 0), (0, 8), (4, 4), (8, 0), (8, 8)):
        for mirror in (1, -1):
            crop, own_mean = image[:, i : i + 92, j : j + 92], mean[i : i + 92, j : j + 92]
            view = (crop - own_mean)[:, :, ::mirror] if recipe is paper else crop[:, :, ::mirror] - mean[4:96, 4:96]
            logits.append(recipes.logits(recipe, params, view))
    scale = 0.5 / np.std(logits, axis=0).mean()  # with random weights the views hardly differ
    logits = [scale * each for each in logits]
    params["fc8"] = {name: np.float32(scale) * leaf for name, leaf in params["fc8"].items()}
    predict = steps.make_log_predict_step(config, sharding.make_mesh(1, 1, 2), views=10)
    probabilities = np.exp(predict(params, image, statistics))
    np.testing.assert_allclose(probabilities, softmax(np.array(logits)).mean(axis=0), rtol=1e-4, atol=1e-6)
    assert np.abs(probabilities - softmax(np.mean(logits, axis=0))).max() > 1e-3


def crops_of(views: np.ndarray, coordinates: np.ndarray, mean: np.ndarray, mean_crop: str) -> list[tuple]:
    """The crop of each view of an image of coordinates [256, 256, 3]: (top, left, mirrored)."""
    crops = []
    for view in views:
        candidates = []
        if mean_crop == "centre":
            candidates.append(view + mean[16:240, 16:240])
        else:  # the mean image was cropped along with the image: find the crop that leaves coordinates
            for mirror in (1, -1):
                rows = view[:, ::mirror][:, :, 2]  # the third colour is the mean alone
                windows = np.lib.stride_tricks.sliding_window_view(-mean[..., 2], (8, 8))[:33, :33]
                for i, j in np.argwhere((windows == rows[:8, :8]).all(axis=(2, 3))):
                    candidates.append(view + mean[i : i + 224, j : j + 224][:, ::mirror])
        (pixels,) = candidates
        (first, last), top = pixels[0, :, 1][[0, -1]].astype(int), int(pixels[0, 0, 0])
        left, mirrored = min(first, last), bool(first > last)
        crop = coordinates[top : top + 224, left : left + 224]
        np.testing.assert_array_equal(pixels, crop[:, ::-1] if mirrored else crop)
        crops.append((top, left, mirrored))
    return crops


@pytest.mark.slow
def test_crops_and_mirror_images_are_shared_by_32():
    """Pixels that hold their own row and column reveal the crop; the centre of the mean image stays in place."""
    coordinates = np.zeros((256, 256, 3), np.uint8)
    coordinates[..., 0], coordinates[..., 1] = np.indices((256, 256))
    image = coordinates[None].repeat(128, axis=0)
    mean = np.random.default_rng(0).integers(0, 99, (256, 256, 3)).astype(np.float32)
    statistics = published_statistics(256)._replace(mean_image=mean)

    def crops(settings: run_config.Augment) -> list[tuple]:
        settings = settings.model_copy(update=NO_NOISE)
        return crops_of(training_views(image, settings, statistics, 224), coordinates, mean, settings.mean_crop)

    shared = crops(CODE.augment)
    groups = [set(shared[i : i + 32]) for i in range(0, 128, 32)]
    assert [len(group) for group in groups] == [1, 1, 1, 1] and len(set.union(*groups)) == 4
    assert len(set(crops(TEXT.augment))) > 110


@pytest.mark.slow
def test_2178_crops_and_mirror_images():
    """33 x 33 offsets of 256 - 224, and their mirror images, are equally frequent; tested with 2x2 crops of 34x34."""
    pixels = np.arange(34 * 34, dtype=np.uint16).reshape(34, 34)
    image = np.stack([pixels % 256, pixels // 256, 0 * pixels], axis=-1).astype(np.uint8)
    settings = TEXT.augment.model_copy(update=NO_NOISE)
    images = np.broadcast_to(image, (40_000, 34, 34, 3))
    views = training_views(images, settings, published_statistics(34), 2).astype(int)
    corner = (views[:, 0, :, 0] + 256 * views[:, 0, :, 1]).tolist()
    counts = np.unique([min(pair) + 34 * 34 * (pair[0] > pair[1]) for pair in corner], return_counts=True)[1]
    assert len(counts) == 33 * 33 * 2 == 2178
    expected = 40_000 / 2178
    assert ((counts - expected) ** 2 / expected).sum() == pytest.approx(2177, abs=5 * (2 * 2177) ** 0.5)  # chi squared
