"""Sources that need no files: handwritten digits, and noise."""

import importlib.util
from pathlib import Path

import numpy as np

from alexnet_jax.data.sources.source import Source, array_split


def digits() -> Source:
    """Handwritten digits from the UCI repository, included in scikit-learn: 1797 grey images of 8x8, ten classes.

    The images are ordered by writer. The last fifth is the split `test`, so that most of its writers do not appear in
    the split `train`.
    """
    package = importlib.util.find_spec("sklearn")  # importing it would take as long as all the rest
    assert package and package.submodule_search_locations
    file = Path(package.submodule_search_locations[0]) / "datasets/data/digits.csv.gz"
    table = np.loadtxt(file, np.uint8, delimiter=",")  # [1797, 8 * 8 grey levels 0..16 and the digit]
    grey = np.round(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    pixels = np.repeat(grey[..., None], 3, axis=-1)
    cut = len(pixels) * 4 // 5
    slices = {"train": slice(0, cut), "test": slice(cut, None)}
    splits = {split: array_split(split, pixels[part], table[part, -1]) for split, part in slices.items()}
    return Source([str(digit) for digit in range(10)], splits, {})


def synthetic(size: int, num_classes: int = 1000) -> Source:
    """Noise, for speed tests: 512 training and 128 validation images of size x size."""
    rng = np.random.default_rng(0)
    splits = {}
    for split, count in (("train", 512), ("val", 128)):
        pixels = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
        splits[split] = array_split(split, pixels, np.arange(count) % num_classes)
    return Source([f"class {i}" for i in range(num_classes)], splits, {})
