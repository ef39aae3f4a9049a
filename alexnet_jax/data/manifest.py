"""The manifest of packed data: what there is, and the length and checksum of every file."""

import json
import os
from pathlib import Path
from typing import IO, Annotated, Literal, Self

import pydantic
import xxhash
from pydantic import Field

from alexnet_jax.errors import DataError, UserError

FORMAT = 2
NAME = "manifest.json"
MAX_NAMED = 100


Count = Annotated[int, Field(ge=0, lt=2**63)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Colour = Annotated[list[Number], Field(min_length=3, max_length=3)]


class Record(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class File(Record):
    name: Annotated[str, Field(pattern="^[!-.0-~]{1,255}$")]  # in the folder of the manifest, and nowhere else
    bytes: Count
    xxh128: str  # what `xxhsum -H2` prints


class Shard(File):
    count: Count  # images


class Skipped(Record):
    name: str
    reason: str


class Unusual(Record):
    """Images that were taken, though something about their files is odd."""

    what: str
    count: Count
    names: list[str]  # of the first MAX_NAMED


class Published(Record):
    """How many images the publishers say there are."""

    images: Count
    by_class: list[Count] | None


class PackedSplit(Record):
    count: Annotated[Count, Field(ge=1)]
    shards: list[Shard]
    labels: File
    hashes: File
    names: File
    skipped: list[Skipped]
    unusual: list[Unusual]
    published: Published | None

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        if sum(shard.count for shard in self.shards) != self.count:
            raise ValueError(f"the shards do not hold {self.count} images")
        return self


class Manifest(Record):
    format: int
    plan: str  # SHA-256 of the settings and of the images' names: what was to be prepared
    store: Literal["raw", "jpeg"]
    size: Annotated[Count, Field(ge=1)]
    quality: int | None  # of the JPEGs
    classes: list[str]
    splits: dict[str, PackedSplit]
    mean_image: File
    eigenvalues: Colour  # of the colour covariance, largest first, colours in 0..255
    eigenvectors: Annotated[list[Colour], Field(min_length=3, max_length=3)]  # rows R, G, B; one vector a column
    xxh128: str = ""  # of all the rest

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        for name, split in self.splits.items():
            by_class = split.published.by_class if split.published else None
            if by_class is not None and len(by_class) != len(self.classes):
                raise ValueError(
                    f"{len(by_class)} published classes of the split {name}, and {len(self.classes)} classes"
                )
            wrong = [shard.name for shard in split.shards if shard.bytes != shard.count * self.size**2 * 3]
            if self.store == "raw" and wrong:
                raise ValueError(f"the length of {wrong[0]} is not that of its images")
        return self


def read(directory: Path) -> Manifest:
    """The manifest of packed data. Raises UserError if there is none, or it is of another version or damaged."""
    path = directory / NAME
    if not path.is_file():
        raise UserError(
            f"{directory} holds no prepared data ({NAME} is not there); write some with `python -m "
            "alexnet_jax.prepare --source folder --input IMAGES --output DATA` and name DATA here; one that was "
            "interrupted goes on where it stopped"
        )
    try:
        content = json.loads(path.read_text())
        if content["format"] != FORMAT:
            raise UserError(
                f"{path} has format {content['format']} and this program reads {FORMAT}; prepare the data again, or "
                "read it with the version of the program that wrote it"
            )
        manifest = Manifest.model_validate(content)
        changed = _sealed(manifest) != manifest  # raises ValueError for half a character, which no file can hold
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        first = str(error).splitlines()[:3]
        raise UserError(f"{path} cannot be read, prepare the data again: {' '.join(first)}") from None
    if changed:
        raise DataError(f"{path} has been changed since it was written; put it back, or prepare the data again")
    return manifest


def files(manifest: Manifest) -> list[File]:
    """Every file of the packed data but the manifest."""
    of_splits = [file for split in manifest.splits.values() for file in of_split(split)]
    return [manifest.mean_image, *of_splits]


def of_split(split: PackedSplit) -> list[File]:
    return [split.labels, split.hashes, split.names, *split.shards]


def problem(directory: Path, file: File, content: bool) -> str:
    """What is wrong with the length of a file, or with its `content`; "" if nothing is."""
    path = directory / file.name
    if not path.is_file():
        return f"{path} is missing"
    if path.stat().st_size != file.bytes:
        return f"{path} has {path.stat().st_size:,} bytes and should have {file.bytes:,}"
    if content and checksum(path) != file.xxh128:
        return f"{path} has changed since it was written: its checksum differs"
    return ""


def write(directory: Path, manifest: Manifest) -> Manifest:
    """Writes it with its checksum, and returns it as it was written."""
    sealed = _sealed(manifest)
    write_text(directory / NAME, sealed.model_dump_json(indent=2) + "\n")
    return sealed


def _sealed(manifest: Manifest) -> Manifest:
    rest = manifest.model_copy(update={"xxh128": ""})
    return manifest.model_copy(update={"xxh128": xxhash.xxh3_128_hexdigest(rest.model_dump_json().encode())})


def described(path: Path) -> File:
    return File(name=path.name, bytes=path.stat().st_size, xxh128=checksum(path))


def checksum(path: Path) -> str:
    """XXH3 of a file's content, 128 bits."""
    digest = xxhash.xxh3_128()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(2**22):
            digest.update(chunk)
    return digest.hexdigest()


def write_text(path: Path, text: str) -> None:
    """Writes a file at once: whoever reads it finds the old content or the new, never a part."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w") as file:
        file.write(text)
        flush(file)
    temporary.replace(path)


def flush(file: IO) -> None:
    """Makes what was written to it last through a power failure."""
    file.flush()
    os.fsync(file.fileno())
