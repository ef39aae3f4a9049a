"""The same images through PyTorch's DataLoader and through tf.data, each in the fastest form that we know.

Both are optional: only the functions that need one import it. The streams yield images [B, size, size, 3] uint8, and
never end, so that no pause between epochs is timed.
"""

import functools
import os
from collections.abc import Generator, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Stream = Generator[object, None, None]  # endless; its values are ignored
FOREVER = 2**62
TORCH_AHEAD = 2  # batches that each worker holds ready: PyTorch's default prefetch_factor
TFDATA_AHEAD = 4  # batches. AUTOTUNE would double it at every pause between rounds, which must not be timed


def installed(package: str) -> bool:
    return find_spec(package) is not None


def _decode(paths: list[str]) -> Any:
    """A batch of JPEG files, decoded by Pillow. PyTorch's workers import this function by its name."""
    from torch.utils.data import default_collate

    return default_collate([np.array(Image.open(path).convert("RGB")) for path in paths])


def torch_jpeg(paths: list[str], batch: int, workers: int) -> Stream:
    """JPEG files in a new random order every epoch, decoded in `workers` processes."""
    from torch.utils.data import DataLoader, RandomSampler

    yield from DataLoader(
        paths,
        batch,
        sampler=RandomSampler(paths, num_samples=FOREVER),
        num_workers=workers,
        collate_fn=_decode,
        multiprocessing_context="forkserver",  # a fork of a process in which JAX or TensorFlow has threads may hang
    )


def write_tfrecords(folder: Path, name: str, contents: Iterable[bytes], files: int) -> list[str]:
    """Spread `contents` over `files` TFRecord files and return their paths."""
    tf = _tensorflow()
    paths = [str(folder / f"{name}-{i}.tfrecord") for i in range(files)]
    writers = [tf.io.TFRecordWriter(path) for path in paths]
    for i, content in enumerate(contents):
        writers[i % files].write(content)
    for writer in writers:
        writer.close()
    return paths


def tfdata(paths: list[str], store: str, batch: int, size: int, threads: int, by_records: bool = True) -> Stream:
    """TFRecords of JPEGs, or of raw pixels. Without `by_records`, raw batches are decoded at once: that is faster."""
    tf = _tensorflow()
    shape = (size, size, 3) if by_records else (-1, size, size, 3)

    def decode(record: Any) -> Any:
        if store == "jpeg":
            return tf.ensure_shape(tf.io.decode_jpeg(record, channels=3), shape)
        return tf.reshape(tf.io.decode_raw(record, tf.uint8), shape)

    records = tf.data.TFRecordDataset(paths, num_parallel_reads=threads).repeat().shuffle(8 * batch)
    if by_records:
        batches = records.map(decode, tf.data.AUTOTUNE).batch(batch)
    else:
        batches = records.batch(batch).map(decode, tf.data.AUTOTUNE)
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1
    options.deterministic = False  # batches come as soon as they are ready
    yield from batches.prefetch(TFDATA_AHEAD).with_options(options)


@functools.cache
def _tensorflow() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before the import, which logs a lot
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")  # otherwise it takes the device's memory
    return tf
