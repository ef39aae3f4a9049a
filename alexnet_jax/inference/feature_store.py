"""Files of feature vectors (paper 6.1), and exact nearest neighbours. At most one block of vectors is in memory.

file.npz       names [N] str, vectors [N, units] float32, labels [N] int32 (for a split), about (JSON); no pickle
file.parquet   columns name, label (for a split) and vector; about as metadata. Needs pyarrow
"""

import contextlib
import importlib.util
import itertools
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from alexnet_jax.data import arrays
from alexnet_jax.data.files import replacing
from alexnet_jax.errors import UserError, reading

QUERIES = 1024  # images whose neighbours are searched for in one pass over a file
BLOCK = 2**23  # most numbers in a block of vectors: 64 MB as float64
ROWS = 4096  # most vectors in a block, since their distances to all queries are in memory at once


def _rows_per_block(units: int) -> int:
    return max(1, min(ROWS, BLOCK // units))


class About(NamedTuple):
    """The origin of the vectors in a file."""

    layer: str
    network: str  # hash of its parameters
    classes: list[str]  # label -> name


class Named(NamedTuple):
    """Feature vectors of some images."""

    names: list[str]  # of the images
    labels: np.ndarray | None  # [n] int32
    vectors: np.ndarray  # [n, units] float32


class Saved(NamedTuple):
    """A file of vectors, open for reading."""

    about: About
    names: list[str]
    labels: np.ndarray | None  # [N] int32
    blocks: Callable[[], Iterator[np.ndarray]]  # iterates over all vectors in order, [n, units] float32 at a time


def check_suffix(path: Path) -> None:
    """Raise UserError if `path` ends in neither .npz nor .parquet, or pyarrow is missing."""
    if path.suffix not in (".npz", ".parquet"):
        raise UserError(f"{path}: files of vectors end in .npz or .parquet; give such a name")
    if path.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise UserError('Parquet needs pyarrow: pip install "alexnet_jax[features]"; or give a file that ends in .npz')


def save(path: Path, parts: Iterable[Named], about: About) -> int:
    """Write the vectors of all parts to a file, and return their number. Without vectors, no file is written."""
    check_suffix(path)
    names, labels = list[str](), list[np.ndarray]()
    with tempfile.TemporaryFile(dir=path.parent) as spool:  # since their number is only known at the end
        for part in parts:
            names += part.names
            labels += [] if part.labels is None else [part.labels]
            spool.write(np.ascontiguousarray(part.vectors, np.float32).data)
        if not names:
            return 0
        spool.flush()
        vectors = np.memmap(spool, np.float32, "r").reshape(len(names), -1)
        columns: dict[str, Any] = {"labels": np.concatenate(labels)} if labels else {}
        columns |= {"names": np.array(names), "vectors": vectors, "about": json.dumps(about._asdict())}
        with replacing(path) as temporary, temporary.open("wb") as file:
            (np.savez if path.suffix == ".npz" else _write_parquet)(file, **columns)
    return len(names)


def _write_parquet(file: BinaryIO, names: np.ndarray, vectors: np.ndarray, about: str, **labels: np.ndarray) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers, units = pa.array(vectors.reshape(-1)), vectors.shape[1]  # no copy: they stay on disk
    columns = {"name": names} | ({"label": labels["labels"]} if labels else {})
    columns |= {"vector": pa.FixedSizeListArray.from_arrays(numbers, units)}
    pq.write_table(pa.table(columns, metadata={"about": about}), file, row_group_size=_rows_per_block(units))


def open_saved(path: Path) -> Saved:
    """Open a file that `save` wrote. Raises UserError if it is damaged or some other file."""
    check_suffix(path)
    with _reading(path):
        if path.suffix == ".parquet":
            return _open_parquet(path)
        saved = arrays.zipped(path, ("about", "names", "labels"))
        about = About(**json.loads(str(saved["about"])))
        return Saved(about, [str(name) for name in saved["names"]], saved.get("labels"), lambda: _npz_blocks(path))


def _reading(path: Path) -> contextlib.AbstractContextManager[None]:
    what = f"{path} is damaged, or not a file that `alexnet features` wrote"
    return reading(what, "; write it again with --output", UserError)


def _npz_blocks(path: Path) -> Iterator[np.ndarray]:
    with (
        _reading(path),
        zipfile.ZipFile(path) as archive,
        archive.open(arrays.members(archive, ("vectors",))["vectors"]) as file,
    ):
        (_, units), fortran, dtype = arrays.header(file)
        if fortran or dtype != np.float32 or not units:
            raise ValueError(f"vectors of {units} {dtype}")
        while content := file.read(_rows_per_block(units) * units * dtype.itemsize):
            yield np.frombuffer(content, dtype).reshape(-1, units)


def _open_parquet(path: Path) -> Saved:
    import pyarrow.parquet as pq

    schema = pq.read_schema(path)
    about = About(**json.loads((schema.metadata or {})[b"about"]))
    units = schema.field("vector").type.list_size
    table = pq.read_table(path, columns=[name for name in schema.names if name != "vector"])
    labels = table["label"].to_numpy() if "label" in schema.names else None

    def blocks() -> Iterator[np.ndarray]:
        with _reading(path), pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_rows_per_block(units), columns=["vector"]):
                yield batch.column("vector").flatten().to_numpy().reshape(-1, units)

    return Saved(about, table["name"].to_pylist(), labels, blocks)


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


def neighbours(queries: Iterable[Named], saved: Saved, count: int) -> Iterator[tuple[str, list[tuple[int, float]]]]:
    """The name of each query, with the index in `saved` and the Euclidean distance of its `count` nearest vectors."""
    vectors = ((name, vector) for part in queries for name, vector in zip(part.names, part.vectors, strict=True))
    while batch := list(itertools.islice(vectors, QUERIES)):
        names, of_queries = zip(*batch, strict=True)
        indices, distances = nearest(np.stack(of_queries), saved.blocks(), count)
        for name, *row in zip(names, indices.tolist(), distances.tolist(), strict=True):
            yield name, list(zip(*row, strict=True))
