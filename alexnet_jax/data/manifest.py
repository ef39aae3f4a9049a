"""The manifest of packed data: its contents, and the length and checksum of every file."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal, Self

import pydantic
import xxhash
from pydantic import Field, FiniteFloat

from alexnet_jax.data import files
from alexnet_jax.errors import DataError, UserError, reading

FORMAT = 2
NAME = "manifest.json"
MAX_NAMED = 100

Count = Annotated[int, Field(ge=0, lt=2**63)]
Colour = tuple[FiniteFloat, FiniteFloat, FiniteFloat]


class Record(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class File(Record):
    name: Annotated[str, Field(pattern="^[!-.0-~]{1,255}$")]  # no slash: beside the manifest and nowhere else
    bytes: Count
    xxh128: str  # as `xxhsum -H2` prints it


class Shard(File):
    count: Count  # images


class Skipped(Record):
    name: str
    reason: str


class Unusual(Record):
    what: str  # is odd about the files of these images, which were packed all the same
    count: Count
    names: list[str]  # of the first MAX_NAMED


@pydantic.dataclasses.dataclass(frozen=True, config=pydantic.ConfigDict(extra="forbid"))
class Published:
    images: Count  # of a split, according to its publishers
    by_class: list[Count] | None  # if they give it


class Contents(Record):
    labels: list[int] = []  # of packed images, in order
    hashes: list[int] = []  # XXH3 of each record
    names: list[str] = []
    skipped: list[Skipped] = []
    unusual: list[tuple[str, str]] = []  # what is unusual, name

    def extend(self, other: "Contents") -> None:
        for field in type(self).model_fields:
            getattr(self, field).extend(getattr(other, field))


class PackedSplit(Record):
    count: Annotated[Count, Field(ge=1)]
    shards: list[Shard]
    labels: File
    hashes: File
    names: File
    skipped: list[Skipped]
    unusual: list[Unusual]
    published: Published | None

    def files(self) -> list[File]:
        return [self.labels, self.hashes, self.names, *self.shards]


class Manifest(Record):
    format: int
    plan: str  # SHA-256 of the settings and the images' names: what was to be prepared
    store: Literal["raw", "jpeg"]
    size: Annotated[Count, Field(ge=1)]
    quality: int | None  # of JPEGs
    classes: list[str]
    splits: dict[str, PackedSplit]
    mean_image: File
    eigenvalues: Colour  # of the colour covariance, largest first, colours in 0..255
    eigenvectors: tuple[Colour, Colour, Colour]  # rows R, G, B; one vector per column
    xxh128: str = ""  # of the rest of the manifest

    @pydantic.model_validator(mode="after")
    def _check(self) -> Self:
        for name, split in self.splits.items():
            if sum(shard.count for shard in split.shards) != split.count:
                raise ValueError(f"split {name}: the shards do not hold {split.count} images")
            by_class = split.published.by_class if split.published else None
            if by_class is not None and len(by_class) != len(self.classes):
                raise ValueError(f"split {name}: {len(by_class)} published class sizes for {len(self.classes)} classes")
            wrong = [shard.name for shard in split.shards if shard.bytes != shard.count * self.size**2 * 3]
            if self.store == "raw" and wrong:
                raise ValueError(f"the length of {wrong[0]} does not match its number of images")
        return self

    def files(self) -> list[File]:
        """Every file of the packed data except the manifest."""
        return [self.mean_image, *(file for split in self.splits.values() for file in split.files())]


def read(directory: Path) -> Manifest:
    """Read the manifest of packed data. Raises UserError if it is missing, damaged or of another version."""
    path = directory / NAME
    if not path.is_file():
        raise UserError(
            f"{directory} holds no prepared data: it has no {NAME}. Prepare some with `alexnet prepare --source folder "
            "--input IMAGES --output DATA` and give DATA here; the same command resumes an interrupted preparation"
        )
    with reading(f"{path} cannot be read; prepare the data again", kind=UserError):
        content = json.loads(path.read_text())
        if content["format"] != FORMAT:
            raise UserError(
                f"{path} has format {content['format']}, but this version reads {FORMAT}; prepare the data again, or "
                "use the version that wrote it"
            )
        manifest = Manifest.model_validate(content)
        if _sealed(manifest) != manifest:  # raises ValueError for a lone surrogate, which no file can hold
            raise DataError(f"{path} has changed since it was written; restore it, or prepare the data again")
        return manifest


def problem(directory: Path, file: File, content: bool) -> str:
    """What is wrong with the length of a file, or with its checksum if `content` is set; "" if nothing is."""
    path = directory / file.name
    if not path.is_file():
        return f"{path} is missing"
    if path.stat().st_size != file.bytes:
        return f"{path} has {path.stat().st_size:,} bytes and should have {file.bytes:,}"
    if content and checksum(path) != file.xxh128:
        return f"{path} has changed since it was written: its checksum differs"
    return ""


def write(directory: Path, manifest: Manifest) -> Manifest:
    """Write the manifest with its checksum, and return it with that."""
    sealed = _sealed(manifest)
    files.write_text(directory / NAME, sealed.model_dump_json(indent=2) + "\n")
    return sealed


def _sealed(manifest: Manifest) -> Manifest:
    unsealed = manifest.model_copy(update={"xxh128": ""})
    return manifest.model_copy(update={"xxh128": xxhash.xxh3_128_hexdigest(unsealed.model_dump_json().encode())})


def describe(path: Path) -> File:
    """The manifest's entry for a file."""
    return File(name=path.name, bytes=path.stat().st_size, xxh128=checksum(path))


def checksum(path: Path) -> str:
    """The 128-bit XXH3 of a file's content, in hexadecimal."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()
