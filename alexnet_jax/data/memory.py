"""Memory for batches that is used again.

The system clears every page of fresh memory, which takes about as long as filling it with images (measured: 1.5 times
the images/s of raw records on two threads without that). A batch's memory is taken again only once nothing refers
to it any more; JAX keeps a reference while it reads an array, or uses it in place as the CPU backend does.
"""

import ctypes
import math
import mmap
import weakref

import numpy as np


class Pool:
    """Arrays of one shape and of uint8, aligned to pages; several threads may take them."""

    def __init__(self, shape: tuple[int, ...]):
        self._shape, self._bytes = shape, math.prod(shape)
        self._free: list[mmap.mmap] = []

    def empty(self) -> np.ndarray:
        """An array that holds anything."""
        try:
            memory = self._free.pop()
        except IndexError:
            memory = mmap.mmap(-1, self._bytes)
        # NumPy's views refer to what owns their memory, not to each other: so to this, which is new for each array.
        owner = (ctypes.c_uint8 * self._bytes).from_buffer(memory)
        weakref.finalize(owner, self._free.append, memory).atexit = False
        return np.frombuffer(memoryview(owner), np.uint8).reshape(self._shape)
