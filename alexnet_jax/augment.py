"""Images on the device: from stored uint8 to the input of the network (paper sections 2 and 4.1).

Stored images are [B, H, W, 3], 0..255. The mean image of the training set is subtracted pixel by pixel, and nothing is
divided by a standard deviation. All randomness comes from one key per example.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from alexnet_jax import ops, run_config
from alexnet_jax.data.statistics import Statistics


def example_keys(seed: int, epoch: Array, index: Array) -> tuple[Array, Array]:
    """Random keys for the views [B] and the dropout [B] of the examples `index` [B] in `epoch`.

    They depend on nothing else: not on the batch, the device or the process that an example is in.
    """
    key = jax.random.fold_in(jax.random.key(seed), epoch)
    keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i)))(index)
    return keys[:, 0], keys[:, 1]


def training_view(
    image: Array,
    keys: Array,
    statistics: Statistics,
    size: int,
    augment: run_config.Augment,
    epoch: Array,
    dtype: Any = jnp.float32,
    kernel: str | None = None,
) -> Array:
    """Random crop, mirroring and colour noise (paper 4.1): [B, H, W, 3] uint8 -> [B, size, size, 3] `dtype`.

    Computed in float32; by the module `kernel` of `kernels`, if it has a function for it.
    """
    mean_image = jnp.asarray(statistics.mean_image)
    down, right = image.shape[1] - size, image.shape[2] - size
    has_noise = jnp.logical_or(augment.colour_noise_epochs == 0, epoch < augment.colour_noise_epochs)

    def draw(place_key, key):
        crop_key, flip_key, _ = jax.random.split(place_key, 3)
        colour_key = jax.random.split(key, 3)[2]
        # Offsets 0..H-size inclusive, as in the authors' code: 33 x 33 of them where the paper counts 32 x 32.
        corner = jax.random.randint(crop_key, (2,), 0, jnp.array([down + 1, right + 1]))
        flip = jax.random.bernoulli(flip_key) if augment.flip else jnp.bool_(False)
        noise = _colour_noise(colour_key, statistics, augment) if augment.colour_noise_std else jnp.zeros(3)
        return corner, flip, noise

    def view_of(image, corner, flip, noise):
        view = _crop(image, corner, size).astype(jnp.float32)
        if augment.mean_crop == "same":
            view = view - _crop(mean_image, corner, size)
        view = jnp.where(flip, view[:, ::-1], view)
        if augment.mean_crop == "centre":
            view = view - centre_crop(mean_image, size)
        if augment.colour_noise_std:
            noisy = view + noise[None, None, :]
            if augment.colour_noise_shrinks:
                noisy = noisy / (1 + augment.colour_noise_std)
            view = jnp.where(has_noise, noisy, view)
        return view.astype(dtype)

    groups = keys.reshape(-1, augment.shared_by)  # not by indexing, which would communicate where the batch is split
    place_keys = jnp.broadcast_to(groups[:, :1], groups.shape).reshape(keys.shape)
    corner, flip, noise = jax.vmap(draw)(place_keys, keys)
    noise = ops.in_memory(noise)  # or XLA for CPUs would compute it for each pixel
    if kernel != "mosaic":
        return ops.in_memory(jax.vmap(view_of)(image, corner, flip, noise))
    from alexnet_jax.kernels import mosaic_views  # Pallas takes long to import

    zeros = jnp.zeros_like(mean_image)
    before = mean_image if augment.mean_crop == "same" else zeros
    after = centre_crop(mean_image if augment.mean_crop == "centre" else zeros, size)
    shrinks = augment.colour_noise_std and augment.colour_noise_shrinks
    divisor = jnp.where(has_noise, 1 + augment.colour_noise_std, 1.0) if shrinks else jnp.ones(())
    shift = jnp.where(has_noise, noise, 0)
    return mosaic_views.views(image, (corner[:, 0], corner[:, 1]), flip, before, after, shift, divisor, dtype)


def _colour_noise(key: Array, statistics: Statistics, augment: run_config.Augment) -> Array:
    """One colour [3], on the scale 0..255, for all pixels of an image: P (alpha * lambda) of paper section 4.1.

    P and lambda are the eigenvectors and eigenvalues of the colour covariance. The authors' code takes the square root
    of lambda, so its noise is proportional to the standard deviation.
    """
    alpha = augment.colour_noise_std * jax.random.normal(key, (3,))
    eigenvalues = jnp.asarray(statistics.eigenvalues)
    scale = {
        "eigenvalue": eigenvalues / 255.0,  # eigenvalues / 255^2 for colours in 0..1, then times 255 again
        "sqrt_eigenvalue": jnp.sqrt(eigenvalues),
    }
    return jnp.asarray(statistics.eigenvectors) @ (alpha * scale[augment.colour_noise_scale])


def evaluation_views(image: Array, statistics: Statistics, size: int, views: int, mean_crop: str) -> Array:
    """The centre crop, or the ten views of paper 4.1: [B, H, W, 3] uint8 -> [B, views, size, size, 3] float32.

    The ten views are the centre, the four corners and the mirror images of these.
    """
    image = image.astype(jnp.float32)
    if mean_crop == "same":
        image = image - statistics.mean_image[None]
    down, right = image.shape[1] - size, image.shape[2] - size
    crops = [centre_crop(image, size)]
    if views == 10:
        crops += [image[:, i : i + size, j : j + size] for i in (0, down) for j in (0, right)]
        crops += [crop[:, :, ::-1] for crop in crops]
    if mean_crop == "centre":
        mean = centre_crop(jnp.asarray(statistics.mean_image), size)[None]
        crops = [crop - mean for crop in crops]
    return jnp.stack(crops, axis=1)


def centre_crop(image: Any, size: int) -> Any:
    """The centre of JAX or NumPy images: [..., H, W, C] -> [..., size, size, C]."""
    down, right = image.shape[-3] - size, image.shape[-2] - size
    return image[..., down // 2 : down // 2 + size, right // 2 : right // 2 + size, :]


def _crop(image: Array, corner: Array, size: int) -> Array:
    return lax.dynamic_slice(image, (*corner, jnp.zeros_like(corner[0])), (size, size, 3))
