"""The same images through PyTorch's DataLoader and through tf.data, each in the fastest form that was found.

Both are optional; the functions that need one import it. They hand out batches [B, size, size, 3] uint8, of the
images alone, and never come to an end: the next epoch's batches follow without the break that an epoch's end makes.
"""

import functools
import os
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from alexnet_jax.bench.rounds import Batches

FOREVER = 2**62
TFDATA_AHEAD = 4  # batches. AUTOTUNE would double it at every pause between rounds, and these are not to be timed


def installed(package: str) -> bool:
    return find_spec(package) is not None


class JpegFiles:
    """A dataset as PyTorch wants it; its workers find the class by its name."""

    def __init__(self, paths: list[str]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Any:
        import torch

        with Image.open(self.paths[i]) as image:
            return torch.from_numpy(np.array(image.convert("RGB")))


def torch_jpeg(paths: list[str], batch: int, workers: int) -> Batches:
    """JPEG files, decoded by Pillow in `workers` processes, in a new random order every epoch."""
    from torch.utils.data import DataLoader, RandomSampler

    files: Any = JpegFiles(paths)
    loader = DataLoader(
        files,
        batch,
        sampler=RandomSampler(files, num_samples=FOREVER),
        num_workers=workers,
        multiprocessing_context="forkserver",  # forks of a process in which JAX or TensorFlow has threads may hang
    )
    yield from loader


def torch_ahead(workers: int) -> int:
    """Batches that the workers have ready or in hand."""
    return 2 * workers  # the default prefetch_factor


def write_tfrecords(folder: Path, name: str, contents: Iterable[bytes], files: int) -> list[str]:
    """Spreads `contents` over `files` TFRecord files and returns their paths."""
    tf = _tensorflow()
    paths = [str(folder / f"{name}-{i}.tfrecord") for i in range(files)]
    writers = [tf.io.TFRecordWriter(path) for path in paths]
    for i, content in enumerate(contents):
        writers[i % files].write(content)
    for writer in writers:
        writer.close()
    return paths


def tfdata_jpeg(paths: list[str], batch: int, size: int, threads: int) -> Batches:
    """TFRecords of JPEGs. The decoder is TensorFlow's default, which is its fast one."""
    tf = _tensorflow()

    def decode(record: Any) -> Any:
        return tf.ensure_shape(tf.io.decode_jpeg(record, channels=3), (size, size, 3))

    records = _shuffled(tf, paths, batch, threads)
    return _endless(tf, records.map(decode, tf.data.AUTOTUNE).batch(batch), threads)


def tfdata_raw(paths: list[str], batch: int, size: int, threads: int, by_records: bool = False) -> Batches:
    """TFRecords of pixels. Whole batches are turned into pixels or, `by_records`, one record after the other, as one
    would write it first; that is slower."""
    tf = _tensorflow()

    def decode(record: Any) -> Any:
        return tf.reshape(tf.io.decode_raw(record, tf.uint8), (-1, size, size, 3)[by_records:])

    records = _shuffled(tf, paths, batch, threads)
    if by_records:
        return _endless(tf, records.map(decode, tf.data.AUTOTUNE).batch(batch), threads)
    return _endless(tf, records.batch(batch).map(decode, tf.data.AUTOTUNE), threads)


def _shuffled(tf: Any, paths: list[str], batch: int, threads: int) -> Any:
    return tf.data.TFRecordDataset(paths, num_parallel_reads=threads).repeat().shuffle(8 * batch)


def _endless(tf: Any, dataset: Any, threads: int) -> Batches:
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1
    options.deterministic = False  # batches as they get ready
    yield from dataset.prefetch(TFDATA_AHEAD).with_options(options)


@functools.cache
def _tensorflow() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before the import: it talks a lot
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")  # else it would take the device's memory
    return tf
