"""Random crops and mirror images in a TPU kernel (Pallas, compiled by Mosaic).

XLA for TPUs cuts out the crops of a batch one by one in a loop, and copies the whole batch each time: 400 GB a step at
batch 1024. The kernel reads each image once and writes its view. It takes an image as three planes [H, W], with 128
columns in the lanes of a register and 8 rows in its sublanes, as XLA keeps batches of uint8, and rotates the planes.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

LANES, SUBLANES = 128, 8  # of a vector register


def views(
    image: Array,
    corner: tuple[Array, Array],
    mirrored: Array,
    before: Array,
    after: Array,
    shift: Array,
    divisor: Array,
    dtype: jnp.dtype,
    interpret: bool = False,
) -> Array:
    """((crop of (image - before), perhaps mirrored) - after + shift) / divisor: [B, H, W, C] uint8 -> [B, S, S, C].

    `corner` is the row [B] and the column [B] at which each crop starts, `mirrored` [B] whether it is turned left to
    right. `before` [H, W, C], `after` [S, S, C], `shift` [B, C] and `divisor` [] are float32, like the arithmetic.
    """
    (batch, height, width, channels), size = image.shape, after.shape[0]
    computed = jnp.float32 if dtype == jnp.float16 else dtype  # Mosaic has no float16
    scalars = [each.astype(jnp.int32) for each in (*corner, mirrored)] + [shift.reshape(-1), divisor.reshape(1)]
    stored, crop = (channels, height, width), (channels, size, size)
    means = [pl.BlockSpec(shape, lambda b: (0, 0, 0)) for shape in (stored, crop)]
    pixels, result = (pl.BlockSpec((None, *shape), lambda b: (b, 0, 0, 0)) for shape in (stored, crop))
    view = pl.pallas_call(
        _kernel,
        grid=(batch,),
        in_specs=[pl.BlockSpec(memory_space=pltpu.SMEM)] * len(scalars) + [pixels, *means],
        out_specs=result,
        out_shape=jax.ShapeDtypeStruct((batch, *crop), computed, manual_axis_type=jax.typeof(image).manual_axis_type),
        scratch_shapes=[pltpu.VMEM((pl.cdiv(height, SUBLANES) * SUBLANES, pl.cdiv(width, LANES) * LANES), jnp.float32)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)),
        interpret=interpret,
    )(*scalars, *(jnp.moveaxis(each, -1, -3) for each in (image, before, after)))
    return jnp.moveaxis(view, 1, -1).astype(dtype)


def _kernel(row, column, mirrored, shift, divisor, image, before, after, view, whole):
    example, (channels, height, width), size = pl.program_id(0), image.shape, view.shape[-1]
    rows, columns = whole.shape  # in whole registers; what is beyond the image stays outside the view
    # The mirror image of all columns, turned register by register, starts where the crop ends.
    turned = mirrored[example] == 1
    start = jnp.where(turned, columns - size - column[example], column[example])
    reverse = LANES - 1 - lax.broadcasted_iota(jnp.int32, (size, LANES), 1)
    for channel in range(channels):
        whole[:height, :width] = image[channel].astype(jnp.int32).astype(jnp.float32) - before[channel]
        pixels = pltpu.roll(whole[...], lax.rem(rows - row[example], rows), 0)[:size]
        parts = [pixels[:, i : i + LANES] for i in range(0, columns, LANES)]
        parts = [jnp.take_along_axis(part, reverse, 1, mode="promise_in_bounds") for part in reversed(parts)]
        pixels = jnp.where(turned, jnp.concatenate(parts, 1), pixels)
        pixels = pltpu.roll(pixels, lax.rem(columns - start, columns), 1)[:, :size]
        pixels = (pixels - after[channel] + shift[channels * example + channel]) / divisor[0]
        view[channel] = pixels.astype(view.dtype)
