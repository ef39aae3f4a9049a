"""Coverage-guided cases: python -m tests.fuzz.coverage KIND RUNS SEED HOME, or `python -m tests.fuzz --coverage`.

Only for readers written in Python, since the native decoders are not instrumented. Needs atheris (`pip install
atheris`). Stops at the first finding with a nonzero exit code; the input is in HOME/crash-*.
"""

import contextlib
import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["alexnet_jax.data", "tarfile"]):
    from alexnet_jax.data import images, manifest
    from alexnet_jax.data.sources.imagenet import challenge
    from alexnet_jax.errors import UserError
    from tests.fuzz.kinds import CASE, OUTSIDE, Manifest, Tar, sealed

MAX_BYTES = 2**17  # of an input


def manifest_target(home: Path) -> tuple[Callable[[bytes], None], list[bytes]]:
    kind = Manifest(home)

    def read(content: bytes) -> None:
        with contextlib.suppress(ValueError, RecursionError):  # not JSON: used as it is
            content = sealed(json.loads(content))
        kind.check(kind.folders[0], {manifest.NAME: content})

    return read, [folder.intact[manifest.NAME] for folder in kind.folders]


def tar_target(home: Path) -> tuple[Callable[[bytes], None], list[bytes]]:
    """The first byte of an input selects the archive that the rest replaces."""
    kind = Tar(home)

    def read(content: bytes) -> None:
        name = kind.names[content[0] % len(kind.names) if content else 0]
        content = gzip.compress(content[1:], compresslevel=1) if name.endswith(".gz") else content[1:]
        with kind.folder.holding({name: content}):
            challenge("imagenet2012", kind.folder.path)

    contents = [kind.folder.intact[name] for name in kind.names]
    tars = [gzip.decompress(each) if each.startswith(images.GZIP_MAGIC) else each for each in contents]
    return read, [bytes([number]) + tar for number, tar in enumerate(tars)]


TARGETS = {"manifest": manifest_target, "tar": tar_target}


def main() -> None:
    kind, runs, seed, home = sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4])
    for name in (CASE, OUTSIDE, "corpus"):
        (home / name).mkdir()
    read, seeds = TARGETS[kind](home)
    for number, content in enumerate(seeds):
        (home / "corpus" / str(number)).write_bytes(content)

    def ignore_refusals(content: bytes) -> None:
        with contextlib.suppress(UserError):
            read(content)

    options = [f"-runs={runs}", f"-seed={int(seed) + 1}", f"-max_len={MAX_BYTES}", "-timeout=60", "-rss_limit_mb=4096"]
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={home}/", str(home / "corpus")], ignore_refusals)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
