"""Guided by what is covered, for the readers in pure Python: python -m tests.fuzz.guided tar|manifest [-runs=10000]

Needs atheris (`pip install atheris`), whose flags, those of libFuzzer, follow the kind. It ends at the first finding.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["alexnet_jax", "tarfile"]):
    from tests.fuzz.targets import BYTES


def main() -> None:
    kind = sys.argv.pop(1)
    with tempfile.TemporaryDirectory(prefix="alexnet_jax_fuzz_") as home:
        seeds, take = BYTES[kind](Path(home))
        corpus = Path(home) / "corpus"
        corpus.mkdir()
        for i, seed in enumerate(seeds):
            (corpus / str(i)).write_bytes(seed)
        atheris.Setup([*sys.argv, str(corpus)], lambda content: take(content) and None)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
