"""Files of named vectors, as .npz or .parquet, and exact nearest neighbours in one. No more than a block is in memory.

file.npz       names [N] str, vectors [N, units] float32, labels [N] int32 (of a split), about (JSON); no pickle
file.parquet   columns name, label (of a split) and vector; about as metadata. Needs pyarrow
"""

import contextlib
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from alexnet_jax.data import arrays
from alexnet_jax.data.manifest import flush
from alexnet_jax.errors import UserError

BLOCK = 2**23  # numbers in a block of vectors at most: 64 MB as float64
ROWS = 4096  # vectors in a block at most: all their distances to many others are held at once
PARQUET_NEEDS = 'Parquet needs pyarrow: pip install "alexnet_jax[features]"; or give a file that ends in .npz'


class About(NamedTuple):
    """Where the vectors of a file come from."""

    layer: str
    network: str  # hash of its parameters
    classes: list[str]  # label -> name


class Named(NamedTuple):
    """Some vectors [n, units] float32 and the names of their images; labels [n] int32, or None."""

    names: list[str]
    labels: np.ndarray | None
    vectors: np.ndarray


class Saved(NamedTuple):
    """A file opened for reading."""

    about: About
    names: list[str]
    labels: np.ndarray | None  # [N] int32
    blocks: Callable[[], Iterator[np.ndarray]]  # the vectors from the first on, [n, units] float32 at a time


def _rows(units: int) -> int:
    """Vectors in a block."""
    return max(1, min(ROWS, BLOCK // units))


def check_suffix(path: Path) -> None:
    """Raises UserError if `path` has another ending than those above, or what it needs is not installed."""
    if path.suffix not in (".npz", ".parquet"):
        raise UserError(f"{path}: vectors are kept in files that end in .npz or .parquet; give such a name")
    if path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise UserError(PARQUET_NEEDS) from None


def save(path: Path, parts: Iterable[Named], about: About) -> int:
    """Writes the vectors of all parts, and returns how many; if there is none, no file."""
    check_suffix(path)
    names: list[str] = []
    labels: list[np.ndarray] = []
    with tempfile.TemporaryFile(dir=path.parent) as spool:  # how many there will be is known at the end
        for part in parts:
            names += part.names
            labels += [] if part.labels is None else [part.labels]
            spool.write(np.ascontiguousarray(part.vectors, np.float32).data)
        if not names:
            return 0
        spool.flush()
        vectors = np.memmap(spool, np.float32, "r").reshape(len(names), -1)
        whole = Named(names, np.concatenate(labels) if labels else None, vectors)
        temporary = path.with_name(path.name + ".tmp")
        try:
            with temporary.open("wb") as file:
                (_write_npz if path.suffix == ".npz" else _write_parquet)(file, whole, json.dumps(about._asdict()))
                flush(file)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return len(names)


def _write_npz(file: BinaryIO, whole: Named, about: str) -> None:
    arrays: dict[str, Any] = {"names": np.array(whole.names), "vectors": whole.vectors, "about": np.array(about)}
    np.savez(file, **arrays | ({} if whole.labels is None else {"labels": whole.labels}))


def _write_parquet(file: BinaryIO, whole: Named, about: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    count, units = whole.vectors.shape
    fields = [("name", pa.string())] + ([] if whole.labels is None else [("label", pa.int32())])
    schema = pa.schema([*fields, ("vector", pa.list_(pa.float32(), units))], {"about": about})
    rows = _rows(units)
    with pq.ParquetWriter(file, schema) as writer:
        for start in range(0, count, rows):
            part = slice(start, start + rows)
            columns = [pa.array(whole.names[part])] + ([] if whole.labels is None else [pa.array(whole.labels[part])])
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(whole.vectors[part].reshape(-1)), units)
            writer.write_table(pa.table([*columns, vectors], schema=schema))


def open_saved(path: Path) -> Saved:
    """A file that `save` wrote. Raises UserError if it is none."""
    check_suffix(path)
    with _told(path):
        if path.suffix == ".parquet":
            return _open_parquet(path)
        saved = arrays.zipped(path, ("about", "names", "labels"))
        about = About(**json.loads(str(saved["about"])))
        return Saved(about, [str(name) for name in saved["names"]], saved.get("labels"), lambda: _npz_blocks(path))


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, PermissionError):
        raise
    except (KeyError, TypeError, ValueError, EOFError, OSError, RecursionError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} is damaged, or not a file that alexnet_jax.features wrote ({error}); write it again with --output"
        ) from None


def _npz_blocks(path: Path) -> Iterator[np.ndarray]:
    with (
        _told(path),
        zipfile.ZipFile(path) as archive,
        archive.open(arrays.members(archive, ("vectors",))["vectors"]) as file,
    ):
        (_, units), fortran, dtype = arrays.header(file)
        if fortran or dtype != np.float32 or not units:
            raise ValueError(f"vectors of {units} {dtype}")
        while content := file.read(_rows(units) * units * dtype.itemsize):
            yield np.frombuffer(content, dtype).reshape(-1, units)


def _open_parquet(path: Path) -> Saved:
    import pyarrow.parquet as pq

    schema = pq.read_schema(path)
    about = About(**json.loads((schema.metadata or {})[b"about"]))
    units = schema.field("vector").type.list_size
    table = pq.read_table(path, columns=[name for name in schema.names if name != "vector"])
    labels = table["label"].to_numpy() if "label" in schema.names else None

    def blocks() -> Iterator[np.ndarray]:
        with _told(path), pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_rows(units), columns=["vector"]):
                yield batch.column("vector").flatten().to_numpy().reshape(-1, units)

    return Saved(about, table["name"].to_pylist(), labels, blocks)


def nearest(queries: np.ndarray, blocks: Iterable[np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` vectors of `blocks` nearest to each of `queries` [Q, units], by Euclidean distance, exactly.

    Returns their places among all vectors and the distances in float64, both [Q, count], the nearest first and of
    equals the first. One matrix product a block finds all that can be among them within its rounding; of these the
    differences themselves are summed, since |q|^2 + |x|^2 - 2 qx leaves few digits of a small distance.
    """
    queries = queries.astype(np.float64)
    squares = (queries**2).sum(axis=1)
    places = [np.empty(0, np.int64)] * len(queries)
    distances = [np.empty(0)] * len(queries)
    first = 0
    for block in (block.astype(np.float64) for block in blocks):
        block_squares = (block**2).sum(axis=1)
        rough = squares[:, None] + block_squares[None] - 2 * (queries @ block.T)
        slack = 4 * block.shape[1] * np.finfo(np.float64).eps * (squares + block_squares.max())
        for row, query in enumerate(queries):
            bound = np.partition(rough[row], count - 1)[count - 1] if len(block) > count else np.inf
            near = np.flatnonzero(rough[row] <= bound + slack[row])
            exact = np.sqrt(((block[near] - query) ** 2).sum(axis=1))
            both = np.concatenate([distances[row], exact])
            best = np.argsort(both, kind="stable")[:count]
            distances[row] = both[best]
            places[row] = np.concatenate([places[row], first + near])[best]
        first += len(block)
    return np.stack(places), np.stack(distances)
