"""Files of features in netCDF, as xarray and Brain-Score read them, and exact nearest neighbours.

A file holds one variable, features [network, presentation, neuroid] float32, with coordinates along each dimension:

    network        run and step, and parameters, a hash of them
    presentation   stimulus_id, the name of the image; example, its index among those given; label, for a split
    neuroid        layer, tower, y, x and channel, as `activations.units` has them

At most one block of features is in memory, however many images, units and networks there are.
"""

import contextlib
import importlib.util
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alexnet_jax.data.files import replacing
from alexnet_jax.data.records import Images
from alexnet_jax.errors import DataError, UserError, reading
from alexnet_jax.inference import activations
from alexnet_jax.inference.network import Bad, Network

QUERIES = 1024  # images whose neighbours are searched for in one pass over a file
BLOCK = 2**23  # most numbers in a block of features: 64 MB as float64
ROWS = 4096  # most images in a block, since their distances to all queries are in memory at once
CHUNK = (1, 64, 4096)  # networks, images and units that HDF5 stores together: 1 MB


class Saved(NamedTuple):
    """A file of features, open for reading."""

    path: Path
    pool: str
    networks: list[str]  # hashes of their parameters
    names: list[str]  # of the images
    labels: list[str] | None
    layer: np.ndarray  # [units] str

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.layer.tolist()))

    def blocks(self, network: int, layers: tuple[str, ...]) -> Iterator[np.ndarray]:
        """Iterate over the features of all images in order, [n, units of `layers`] float32 at a time."""
        columns, rows = np.isin(self.layer, layers), max(1, min(ROWS, BLOCK // len(self.layer)))
        with _opened(self.path) as file:
            for start in range(0, len(self.names), rows):
                yield file["features"][network, start : start + rows][:, columns]


def check_path(path: Path) -> None:
    """Raise UserError if `path` does not end in .nc, or h5netcdf is missing."""
    if path.suffix != ".nc":
        raise UserError(f"{path}: files of features are netCDF; give a name that ends in .nc")
    if importlib.util.find_spec("h5netcdf") is None:
        raise UserError('netCDF needs h5netcdf: pip install "alexnet_jax[features]"')


def save(
    path: Path, networks: Iterable[tuple[str, Network]], images: Images, layers: str | None, pool: str, labelled: bool
) -> tuple[tuple[int, ...], Bad]:
    """Write the features of `images` in networks, each given with the name of its run, to a file.

    `layers` and `pool` are as for `Network.features_step`. Of images without labels, any share may be damaged. Returns
    the shape of the features, and what is wrong with damaged images, as `Network.over` does. Raises UserError if
    networks differ in layers, classes or the size of stored images, or if no image can be read.
    """
    import h5netcdf

    bad, first = Bad(), None
    with replacing(path) as temporary, h5netcdf.File(temporary, "w") as file:
        for number, (run, network) in enumerate(networks):
            model = network.config.model
            kind = activations.shapes(model)[1], model.towers, network.classes, network.config.data.size
            if first is None:
                first = kind
                units = activations.units(network.config, activations.layers_of(network.config, layers), pool)
                file.attrs["pool"] = pool
                _create(file, units, ["stimulus_id", "label"] if labelled else ["stimulus_id"])
            elif kind != first:
                raise UserError(
                    f"{run} has other layers, classes or sizes than the first run; give it a file of its own"
                )
            file.resize_dimension("network", number + 1)
            for name, value in (("run", run), ("step", network.step), ("parameters", network.identity)):
                file[name][number] = value
            step, done = network.features_step(layers, pool), 0
            for example, _, label, features in network.over(images, step, None if labelled else 1.0, bad):
                rows = slice(done, done := done + len(example))
                if number == 0:
                    file.resize_dimension("presentation", done)
                    file["example"][rows] = example
                    file["stimulus_id"][rows] = np.array([images.name(i) for i in example.tolist()], object)
                    if labelled:
                        file["label"][rows] = np.array(network.classes, object)[label]
                elif not np.array_equal(file["example"][rows], example):
                    raise DataError("some images could be read for one network and not for another; try again")
                file["features"][number, rows] = features
            if not done:
                raise UserError(f"none of the images can be read: {listed(bad, images)}")
        shape = file["features"].shape
    return shape, bad


def listed(bad: Bad, images: Images) -> str:
    """The names of images, and what is wrong with each."""
    return "; ".join(f"{images.name(i)}: {problem}" for i, problem in sorted(bad.items()))


def _create(file: Any, units: dict[str, np.ndarray], texts: list[str]) -> None:
    """Create all dimensions and variables; `texts` are coordinates of the images."""
    import h5py

    text, count = h5py.string_dtype(), len(units["layer"])
    file.dimensions = {"network": None, "presentation": None, "neuroid": count}
    coordinates = {"network": {"run": text, "step": np.int64, "parameters": text}}
    coordinates["presentation"] = dict.fromkeys(texts, text) | {"example": np.int32}
    coordinates["neuroid"] = {name: text if name == "layer" else np.int32 for name in units}
    for dimension, columns in coordinates.items():
        for name, dtype in columns.items():
            file.create_variable(name, (dimension,), dtype)
    for name, column in units.items():
        file[name][:] = column
    chunks = (*CHUNK[:2], min(CHUNK[2], count))
    features = file.create_variable("features", tuple(coordinates), np.float32, chunks=chunks)
    features.attrs["coordinates"] = " ".join(itertools.chain.from_iterable(coordinates.values()))


def open_saved(path: Path) -> Saved:
    """Open a file that `save` wrote. Raises UserError if it is damaged or some other file."""
    check_path(path)
    with _opened(path) as file:
        networks, names, layer = (file[name][:] for name in ("parameters", "stimulus_id", "layer"))
        labels = file["label"][:].tolist() if "label" in file.variables else None
        features, pool = file["features"], file.attrs["pool"]
        expected = (len(networks), len(names), len(layer)), np.float32
        if (features.shape, features.dtype) != expected or pool not in activations.POOLS:
            raise ValueError(f"features {features.shape} {features.dtype}, pooled by {pool}")
        return Saved(path, pool, networks.tolist(), names.tolist(), labels, layer)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import h5netcdf

    problem = f"{path} is damaged, or not a file that `alexnet features` wrote"
    with (
        reading(problem, "; write it again with --output", UserError),
        h5netcdf.File(path, "r", decode_vlen_strings=True) as file,
    ):
        yield file


def nearest(queries: np.ndarray, blocks: Iterable[np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` vectors nearest to each of `queries` [Q, units] by Euclidean distance, exactly.

    Returns their indices among all vectors of `blocks`, each [n, units], int64, and their distances, float64, both
    [Q, count], nearest first; of two at the same distance, the one that comes first in `blocks`.
    """
    # scikit-learn's |q|^2 + |x|^2 - 2 qx is fast, but has few correct digits where the distance is small. So it only
    # selects the candidates, all those that its rounding error leaves in question.
    from scipy.spatial.distance import cdist
    from sklearn.metrics.pairwise import euclidean_distances

    queries = queries.astype(np.float64)
    indices = [np.empty(0, np.int64)] * len(queries)
    distances = [np.empty(0)] * len(queries)
    first = 0
    for block in (block.astype(np.float64) for block in blocks):
        rough = euclidean_distances(queries, block, squared=True)
        largest, last = (queries**2).sum(axis=1) + (block**2).sum(axis=1).max(), min(count, len(block)) - 1
        bound = np.partition(rough, last, axis=1)[:, last] + 4 * block.shape[1] * np.finfo(np.float64).eps * largest
        for row, query in enumerate(queries):
            near = np.flatnonzero(rough[row] <= bound[row])
            merged = np.concatenate([distances[row], cdist(query[None], block[near])[0]])
            order = np.argsort(merged, kind="stable")[:count]
            distances[row], indices[row] = merged[order], np.concatenate([indices[row], first + near])[order]
        first += len(block)
    return np.stack(indices), np.stack(distances)


def neighbours(
    queries: Iterable[tuple[str, np.ndarray]], blocks: Callable[[], Iterable[np.ndarray]], count: int
) -> Iterator[tuple[str, list[tuple[int, float]]]]:
    """The name of each query, with the index among the vectors of `blocks` and the distance of its `count` nearest."""
    remaining = iter(queries)
    while batch := list(itertools.islice(remaining, QUERIES)):
        names, vectors = zip(*batch, strict=True)
        indices, distances = nearest(np.stack(vectors), blocks(), count)
        for name, *row in zip(names, indices.tolist(), distances.tolist(), strict=True):
            yield name, list(zip(*row, strict=True))
