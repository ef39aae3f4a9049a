"""Sources that need no files: handwritten digits, and noise."""

import numpy as np

from alexnet_jax.data.sources.source import Source, array_split


def digits() -> Source:
    """Handwritten digits from the UCI repository, included in scikit-learn: 1797 grey images of 8x8, ten classes.

    The images are ordered by writer. The last fifth is the split `test`, so that most of its writers do not appear in
    the split `train`.
    """
    from sklearn.datasets import load_digits  # a heavy import that only this source needs

    bunch = load_digits()
    grey = np.round(bunch.images * (255 / 16)).astype(np.uint8)  # [1797, 8, 8], from 0..16
    pixels = np.repeat(grey[..., None], 3, axis=-1)
    cut = len(pixels) * 4 // 5
    slices = {"train": slice(0, cut), "test": slice(cut, None)}
    splits = {split: array_split(split, pixels[part], bunch.target[part]) for split, part in slices.items()}
    return Source([str(digit) for digit in range(10)], splits, {})


def synthetic(size: int, num_classes: int = 1000) -> Source:
    """Noise, for speed tests: 512 training and 128 validation images of size x size."""
    rng = np.random.default_rng(0)
    splits = {}
    for split, count in (("train", 512), ("val", 128)):
        pixels = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
        splits[split] = array_split(split, pixels, np.arange(count) % num_classes)
    return Source([f"class {i}" for i in range(num_classes)], splits, {})
