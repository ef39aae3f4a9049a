"""Programs of single GPU threads in Pallas's Triton dialect: where a thread is, and its reads and writes.

Triton's arrays are spread over the threads of a block. One of [THREADS] is a register of each thread.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

THREADS = 128  # in a block: four warps
PIECE = 16  # bytes that a thread reads or writes at once, the most that GPUs can

Registers = list[Array]  # one [THREADS] array per channel


class Place(NamedTuple):
    """What a thread computes, each [THREADS]."""

    image: Array
    strip: Array  # of the image's rows
    channel: Array  # the first
    exists: Array  # False in the last threads of the last block
    has_left: Array  # whether there are channels of the same tower before its own
    has_right: Array


def place(towers: int, width: int, channels: int, strips: int, images: int) -> Place:
    """Where this thread is, if each computes `width` channels of a strip and neighbours have neighbouring channels."""
    thread = pl.program_id(0) * THREADS + jnp.arange(THREADS)
    groups = channels // width  # of channels
    own, group = lax.div(thread, groups), lax.rem(thread, groups)
    in_tower = lax.rem(group, groups // towers)
    image = lax.div(own, strips)
    last = groups // towers - 1
    return Place(image, lax.rem(own, strips), group * width, image < images, in_tower > 0, in_tower < last)


def load(ref, at: tuple, place: Place, width: int, reach: int, mask: Array) -> Registers:
    """The thread's channels of `ref[at]`, with `reach` more to each side, as float32; zero in another tower."""

    def part(start, width, mask):
        return _unstack(triton.load(ref.at[_index(at, start, width)], mask=mask[:, None], other=0))

    piece = min(width, PIECE // ref.dtype.itemsize)
    own = [each for start in range(0, width, piece) for each in part(place.channel + start, piece, mask)]
    if reach:
        side = pl.next_power_of_2(reach)
        left = part(place.channel - side, side, mask & place.has_left)[-reach:]
        right = part(place.channel + width, side, mask & place.has_right)[:reach]
        own = [*left, *own, *right]
    return own if ref.dtype == jnp.uint8 else [each.astype(jnp.float32) for each in own]


def store(ref, at: tuple, place: Place, values: Registers, mask: Array) -> None:
    piece = min(len(values), PIECE // ref.dtype.itemsize)
    for start in range(0, len(values), piece):
        stacked = _stack([each.astype(ref.dtype) for each in values[start : start + piece]])
        triton.store(ref.at[_index(at, place.channel + start, piece)], stacked, mask=mask[:, None])


def _index(at: tuple, channel: Array, width: int) -> tuple[Array, ...]:
    """The index of `width` channels of the pixel `at`, [THREADS, width] after broadcasting."""
    return *(jnp.broadcast_to(each, THREADS)[:, None] for each in at), channel[:, None] + jnp.arange(width)[None]


def _unstack(x: Array) -> Registers:
    """[THREADS, a power of two] -> its columns."""
    if x.shape[1] == 1:
        return [x.reshape(THREADS)]
    halves = lax.unstack(x.reshape(THREADS, -1, 2), axis=2)
    return [each for pair in zip(*map(_unstack, halves), strict=True) for each in pair]


def _stack(columns: Registers) -> Array:
    if len(columns) == 1:
        return columns[0].reshape(THREADS, 1)
    return lax.stack([_stack(columns[::2]), _stack(columns[1::2])], axis=2).reshape(THREADS, -1)
