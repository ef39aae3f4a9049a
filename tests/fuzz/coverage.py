"""Cases that follow coverage: python -m tests.fuzz.coverage KIND RUNS SEED HOME, or `python -m tests.fuzz --coverage`.

Only of what is Python: decoders are native, and not built for it. Needs atheris (`pip install atheris`). Ends with an
exit code that is not 0 at the first finding, whose input is HOME/crash-*.
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

LONGEST = 2**17  # bytes of an input


def of_manifests(home: Path) -> tuple[Callable[[bytes], None], list[bytes]]:
    kind = Manifest(home)

    def one(content: bytes) -> None:
        with contextlib.suppress(ValueError, RecursionError):  # no JSON: as it is
            content = sealed(json.loads(content))
        kind.check(kind.folders[0], {manifest.NAME: content})

    return one, [folder.sound[manifest.NAME] for folder in kind.folders]


def of_tars(home: Path) -> tuple[Callable[[bytes], None], list[bytes]]:
    """The first byte says which of the archives the rest is."""
    kind = Tar(home)

    def one(content: bytes) -> None:
        name = kind.names[content[0] % len(kind.names) if content else 0]
        content = gzip.compress(content[1:], compresslevel=1) if name.endswith(".gz") else content[1:]
        with kind.folder.holding({name: content}):
            challenge("imagenet2012", kind.folder.path)

    contents = [kind.folder.sound[name] for name in kind.names]
    tars = [gzip.decompress(of) if of.startswith(images.GZIP_MAGIC) else of for of in contents]
    return one, [bytes([number]) + tar for number, tar in enumerate(tars)]


KINDS = {"manifest": of_manifests, "tar": of_tars}


def main() -> None:
    kind, runs, seed, home = sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4])
    for name in (CASE, OUTSIDE, "corpus"):
        (home / name).mkdir()
    one, seeds = KINDS[kind](home)
    for number, content in enumerate(seeds):
        (home / "corpus" / str(number)).write_bytes(content)

    def quietly(content: bytes) -> None:
        with contextlib.suppress(UserError):
            one(content)

    options = [f"-runs={runs}", f"-seed={int(seed) + 1}", f"-max_len={LONGEST}", "-timeout=60", "-rss_limit_mb=4096"]
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={home}/", str(home / "corpus")], quietly)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
