"""Images on the device: from stored uint8 to the input of the network (paper sections 2 and 4.1).

Stored images are [B, H, W, 3], 0..255. The mean image of the training set is subtracted pixel by pixel, and nothing is
divided by a standard deviation. All randomness comes from one key per example.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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
        if augment.crop == "resized":
            place = random_box(crop_key, image.shape[1:3], augment.crop_area, augment.crop_aspect)
        else:  # offsets 0..H-size inclusive, as in the authors' code: 33 x 33 of them where the paper counts 32 x 32
            place = jax.random.randint(crop_key, (2,), 0, jnp.array([down + 1, right + 1]))
        flip = jax.random.bernoulli(flip_key) if augment.flip else jnp.bool_(False)
        noise = _colour_noise(colour_key, statistics, augment) if augment.colour_noise_std else jnp.zeros(3)
        return place, flip, noise

    def view_of(image, place, flip, noise):
        if augment.crop == "resized":
            whole = image.astype(jnp.float32)
            view = resized(whole - mean_image if augment.mean_crop == "same" else whole, place, size)
        else:
            view = _crop(image, place, size).astype(jnp.float32)
            if augment.mean_crop == "same":
                view = view - _crop(mean_image, place, size)
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
    place, flip, noise = jax.vmap(draw)(place_keys, keys)
    noise = ops.in_memory(noise)  # or XLA for CPUs would compute it for each pixel
    if kernel != "mosaic" or augment.crop == "resized":
        return ops.in_memory(jax.vmap(view_of)(image, place, flip, noise))
    from alexnet_jax.kernels import mosaic_views  # Pallas takes long to import

    zeros = jnp.zeros_like(mean_image)
    before = mean_image if augment.mean_crop == "same" else zeros
    after = centre_crop(mean_image if augment.mean_crop == "centre" else zeros, size)
    shrinks = augment.colour_noise_std and augment.colour_noise_shrinks
    divisor = jnp.where(has_noise, 1 + augment.colour_noise_std, 1.0) if shrinks else jnp.ones(())
    shift = jnp.where(has_noise, noise, 0)
    return mosaic_views.views(image, (place[:, 0], place[:, 1]), flip, before, after, shift, divisor, dtype)


def random_box(key: Array, sides: tuple[int, ...], area: tuple[float, float], aspect: tuple[float, float]) -> Array:
    """A random part (top, left, height, width) of an image [H, W], in pixels: float32 integers.

    As in arXiv:1409.4842, and by the rule of torchvision's RandomResizedCrop: the share of the area is uniform within
    `area`, the logarithm of width / height within `aspect`; of ten boxes the first that fits, else the whole image.
    """
    area_key, aspect_key, corner_key = jax.random.split(key, 3)
    image = jnp.array(sides, jnp.float32)
    pixels = image.prod() * jax.random.uniform(area_key, (10,), minval=area[0], maxval=area[1])
    ratio = jnp.exp(jax.random.uniform(aspect_key, (10,), minval=np.log(aspect[0]), maxval=np.log(aspect[1])))
    boxes = jnp.round(jnp.stack([jnp.sqrt(pixels / ratio), jnp.sqrt(pixels * ratio)], axis=1))
    fits = ((boxes > 0) & (boxes <= image[None])).all(axis=1)
    box = jnp.where(fits.any(), boxes[jnp.argmax(fits)], image)
    corner = jnp.floor(jax.random.uniform(corner_key, (2,)) * (image - box + 1))
    return jnp.concatenate([jnp.minimum(corner, image - box), box])


def resized(image: Array, box: Array, size: int) -> Array:
    """The part `box` of an image [H, W, C], as of `random_box`, resized bilinearly to [size, size, C], float32.

    Where it shrinks, the weights are as much wider, as in PIL (antialiasing). `jax.image.scale_and_translate` would
    also take pixels beyond the edge of the box.
    """

    def weights(start: Array, length: Array, side: int) -> Array:  # [size, side]
        pixel, scale = jnp.arange(side, dtype=jnp.float32) + 0.5, length / size
        centre = start + (jnp.arange(size, dtype=jnp.float32) + 0.5) * scale
        weight = jnp.maximum(0, 1 - jnp.abs(pixel[None] - centre[:, None]) / jnp.maximum(scale, 1))
        inside = (pixel > start) & (pixel < start + length)
        weight = jnp.where(inside[None], weight, 0)
        return weight / weight.sum(axis=1, keepdims=True)

    rows, columns = (weights(box[axis], box[axis + 2], image.shape[axis]) for axis in (0, 1))
    image = jnp.einsum("rh,hwc->rwc", rows, image, precision="highest")
    return jnp.einsum("sw,rwc->rsc", columns, image, precision="highest")


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


VIEWS = (1, 5, 10)  # of an image at test time


def evaluation_views(image: Array, statistics: Statistics, size: int, views: int, mean_crop: str) -> Array:
    """The views of an image at test time: [B, H, W, 3] uint8 -> [B, views, size, size, 3] float32.

    One view is the centre, five are the centre and the four corners, ten also the mirror images of these (paper 4.1).
    """
    image = image.astype(jnp.float32)
    if mean_crop == "same":
        image = image - statistics.mean_image[None]
    down, right = image.shape[1] - size, image.shape[2] - size
    crops = [centre_crop(image, size)]
    if views > 1:
        crops += [image[:, i : i + size, j : j + size] for i in (0, down) for j in (0, right)]
    if views == 10:
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
