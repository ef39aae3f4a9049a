"""The views of a stored image, and what determines them."""

import jax
import numpy as np
import pytest
from PIL import Image

from alexnet_jax import augment, run_config
from alexnet_jax.data.statistics import Statistics
from tests.conftest import random_batch


def settings(**changes) -> run_config.Augment:
    values = {"flip": True, "shared_by": 1, "mean_crop": "same", "colour_noise_std": 0.0}
    values |= {"crop": "random", "crop_area": (0.08, 1.0), "crop_aspect": (0.75, 4 / 3)}
    values |= {"colour_noise_scale": "sqrt_eigenvalue", "colour_noise_shrinks": False, "colour_noise_epochs": 0}
    return run_config.Augment(**values | changes)


def views(image, index, statistics, augment_settings, size=28, epoch=0, seed=0):
    keys, _ = augment.example_keys(seed, np.int32(epoch), np.asarray(index, np.int32))
    return np.asarray(
        jax.jit(augment.training_view, static_argnums=(3, 4))(
            image, keys, statistics, size, augment_settings, np.int32(epoch)
        )
    )


@pytest.mark.slow
def test_a_view_is_a_crop_minus_the_mean_there_mirrored_or_not(statistics):
    image = random_batch(1).image.repeat(400, axis=0)
    random_views = views(image, range(400), statistics, settings())
    centred = image[0].astype(np.float32) - statistics.mean_image
    crops = {}
    for i in range(5):
        for j in range(5):
            crop = centred[i : i + 28, j : j + 28]
            crops[crop.tobytes()] = (i, j, False)
            crops[np.ascontiguousarray(crop[:, ::-1]).tobytes()] = (i, j, True)
    drawn = [crops[view.tobytes()] for view in random_views]
    assert len(set(drawn)) == 50  # every offset, mirrored and not
    assert np.mean([flip for *_, flip in drawn]) == pytest.approx(0.5, abs=0.1)
    assert not any(crops[view.tobytes()][2] for view in views(image, range(400), statistics, settings(flip=False)))


@pytest.mark.slow
def test_a_view_depends_only_on_seed_epoch_and_example(statistics):
    batch = random_batch(8)
    in_order = views(batch.image, batch.example, statistics, settings(colour_noise_std=0.1))
    order = np.array([3, 1, 7])
    reordered = views(batch.image[order], batch.example[order], statistics, settings(colour_noise_std=0.1))
    np.testing.assert_allclose(reordered, in_order[order], rtol=1e-5)  # rounding varies with the batch size
    for other in ({"epoch": 1}, {"seed": 1}):
        assert not np.allclose(
            views(batch.image, batch.example, statistics, settings(colour_noise_std=0.1), **other), in_order
        )


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["eigenvalue", "sqrt_eigenvalue"])
def test_colour_noise_is_one_colour_per_image_spread_along_the_eigenvectors(statistics, scale):
    image = random_batch(1).image.repeat(2000, axis=0)
    plain = settings(flip=False)
    noisy = settings(flip=False, colour_noise_std=0.1, colour_noise_scale=scale)
    noise = views(image, range(2000), statistics, noisy) - views(image, range(2000), statistics, plain)
    assert np.abs(noise - noise[:, :1, :1]).max() < 1e-3
    along = noise[:, 0, 0] @ statistics.eigenvectors
    eigenvalues = statistics.eigenvalues
    # The text's P (alpha lambda) with colours in 0..1, or the code's standard deviations.
    expected = 0.1 * (eigenvalues / 255 if scale == "eigenvalue" else np.sqrt(eigenvalues))
    np.testing.assert_allclose(along.std(axis=0), expected, rtol=0.06)
    assert np.abs(along.mean(axis=0) / expected).max() < 0.1


def test_resized_boxes_are_those_of_pil(statistics):
    """Enlarged or shrunk, minus the mean image there; the boxes have the areas and shapes of the config."""
    area, aspect, image = (0.1, 0.9), (0.5, 2.0), random_batch(1).image[0].astype(np.float32)
    keys = jax.random.split(jax.random.key(0), 500)
    boxes = np.asarray(jax.jit(jax.vmap(lambda key: augment.random_box(key, (32, 32), area, aspect)))(keys))
    resize = jax.jit(jax.vmap(augment.resized, (None, 0, None)), static_argnums=2)
    for size in (12, 28):
        for ours, (top, left, height, width) in zip(np.asarray(resize(image, boxes[:8], size)), boxes[:8], strict=True):
            box = (left, top, left + width, top + height)
            channels = [Image.fromarray(image[..., i]).crop(tuple(map(int, box))) for i in range(3)]
            theirs = [np.asarray(each.resize((size, size), Image.Resampling.BILINEAR)) for each in channels]
            np.testing.assert_allclose(ours, np.stack(theirs, axis=-1), atol=1e-2)
    corners, sides = boxes[:, :2], boxes[:, 2:]
    assert (boxes == np.round(boxes)).all() and (corners >= 0).all() and (corners + sides <= 32).all()
    share = sides.prod(axis=1) / 32**2
    assert 0.08 < share.min() < 0.15 and 0.7 < share.max() < 0.93 and 0.4 < share.mean() < 0.52
    assert 0.4 < (sides[:, 1] / sides[:, 0]).min() < 0.7 and np.abs(np.log(sides[:, 1] / sides[:, 0]).mean()) < 0.1
    whole = settings(flip=False, crop="resized", crop_area=(1.0, 1.0), crop_aspect=(1.0, 1.0))
    batch = random_batch(2)
    expected = batch.image.astype(np.float32) - statistics.mean_image
    np.testing.assert_allclose(views(batch.image, range(2), statistics, whole, size=32), expected, atol=1e-2)


@pytest.mark.parametrize("changes", [{"crop_area": (0.5, 0.1)}, {"crop_area": (0.5, 2.0)}, {"crop_aspect": (1.5, 2.0)}])
def test_ranges_of_crops(changes):
    with pytest.raises(ValueError, match=r"no range of shares; give two in order|leaves out squares; give a range"):
        settings(**changes)


def test_the_papers_ten_views():
    statistics = Statistics(np.zeros((256, 256, 3), np.float32), np.zeros(3, np.float32), np.eye(3, dtype=np.float32))
    image = random_batch(1, 256).image
    ten = np.asarray(augment.evaluation_views(image, statistics, 224, 10, "same"))
    assert ten.shape == (1, 10, 224, 224, 3)
    for view, (i, j) in zip(ten[0, :5], ((16, 16), (0, 0), (0, 32), (32, 0), (32, 32)), strict=True):
        np.testing.assert_array_equal(view, image[0, i : i + 224, j : j + 224])
    np.testing.assert_array_equal(ten[0, 5:], ten[0, :5, :, ::-1])
    for views in (1, 5):
        np.testing.assert_array_equal(augment.evaluation_views(image, statistics, 224, views, "same"), ten[:, :views])


def test_dropout_and_views_use_different_keys():
    view_keys, dropout_keys = augment.example_keys(0, np.int32(0), np.arange(4, dtype=np.int32))
    keys = np.concatenate([jax.random.key_data(view_keys), jax.random.key_data(dropout_keys)])
    assert len({key.tobytes() for key in keys}) == 8
