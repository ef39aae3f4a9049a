"""Images on the device: from stored uint8 to what the network sees (paper sections 2 and 4.1).

Stored images are [B, H, W, 3], 0..255. The mean over the training set is subtracted pixel by pixel; nothing is
divided by a deviation. All randomness comes from a key an example.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from alexnet_jax import run_config
from alexnet_jax.data.statistics import Statistics


def example_keys(seed: int, epoch: Array, index: Array) -> tuple[Array, Array]:
    """Random keys [B] for the views and [B] for the dropout of the examples `index` [B] in `epoch`.

    They depend on nothing else: not on the batch, the device or the process that the example is in.
    """
    key = jax.random.fold_in(jax.random.key(seed), epoch)
    keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i)))(index)
    return keys[:, 0], keys[:, 1]


def training_view(
    image: Array, keys: Array, statistics: Statistics, size: int, augment: run_config.Augment, epoch: Array
) -> Array:
    """Random crop, random mirror image and colour noise: [B, H, W, 3] uint8 -> [B, size, size, 3] float32."""

    mean_image = jnp.asarray(statistics.mean_image)
    down, right = image.shape[1] - size, image.shape[2] - size
    noisy = jnp.logical_or(augment.colour_noise_epochs == 0, epoch < augment.colour_noise_epochs)

    def one(image, place_key, key):
        crop_key, flip_key, _ = jax.random.split(place_key, 3)
        colour_key = jax.random.split(key, 3)[2]
        # Offsets 0..H-size inclusive, as in the authors' code: 33 x 33 of them where the paper counts 32 x 32.
        row, column = jax.random.randint(crop_key, (2,), 0, jnp.array([down + 1, right + 1]))
        view = _crop(image, row, column, size).astype(jnp.float32)
        if augment.mean_crop == "same":
            view = view - _crop(mean_image, row, column, size)
        flip = jax.random.bernoulli(flip_key) if augment.flip else jnp.bool_(False)
        view = jnp.where(flip, view[:, ::-1], view)
        if augment.mean_crop == "centre":
            view = view - centre_crop(mean_image, size)
        if augment.colour_noise_std:
            coloured = view + _colour_noise(colour_key, statistics, augment)[None, None, :]
            if augment.colour_noise_shrinks:
                coloured = coloured / (1 + augment.colour_noise_std)
            view = jnp.where(noisy, coloured, view)
        return view

    rows = keys.reshape(-1, augment.shared_by)  # no indices: they would cross devices that split the batch
    place_keys = jnp.broadcast_to(rows[:, :1], rows.shape).reshape(keys.shape)
    return jax.vmap(one)(image, place_keys, keys)


def _colour_noise(key: Array, statistics: Statistics, augment: run_config.Augment) -> Array:
    """One colour [3], in 0..255, for all pixels of an image: P (alpha * lambda) of paper section 4.1.

    P and lambda are eigenvectors and eigenvalues of the colour covariance. `eigenvalue` follows the text, with
    colours in 0..1; `sqrt_eigenvalue` the authors' code, where the noise has a share of the colours' deviation.
    """
    alpha = augment.colour_noise_std * jax.random.normal(key, (3,))
    eigenvalues = jnp.asarray(statistics.eigenvalues)
    scale = {
        "eigenvalue": eigenvalues / 255.0,  # eigenvalues / 255^2 for colours in 0..1, then back times 255
        "sqrt_eigenvalue": jnp.sqrt(eigenvalues),
    }[augment.colour_noise_scale]
    return jnp.asarray(statistics.eigenvectors) @ (alpha * scale)


def evaluation_views(image: Array, statistics: Statistics, size: int, views: int, mean_crop: str) -> Array:
    """The centre crop, or the paper's ten views: [B, H, W, 3] uint8 -> [B, views, size, size, 3] float32.

    Section 4.1: the four corners and the centre, and their mirror images.
    """
    image = image.astype(jnp.float32)
    if mean_crop == "same":
        image = image - statistics.mean_image[None]
    down, right = image.shape[1] - size, image.shape[2] - size
    offsets = [(down // 2, right // 2), (0, 0), (0, right), (down, 0), (down, right)]
    if views == 1:
        offsets = offsets[:1]
    crops = [image[:, i : i + size, j : j + size] for i, j in offsets]
    if views == 10:
        crops += [crop[:, :, ::-1] for crop in crops]
    if mean_crop == "centre":
        mean = centre_crop(jnp.asarray(statistics.mean_image), size)[None]
        crops = [crop - mean for crop in crops]
    return jnp.stack(crops, axis=1)


def centre_crop(image: Any, size: int) -> Any:
    """The centre of images, of JAX or NumPy: [..., H, W, C] -> [..., size, size, C]."""
    down, right = image.shape[-3] - size, image.shape[-2] - size
    return image[..., down // 2 : down // 2 + size, right // 2 : right // 2 + size, :]


def _crop(image: Array, row: Array, column: Array, size: int) -> Array:
    return lax.dynamic_slice(image, (row, column, jnp.zeros_like(row)), (size, size, 3))
