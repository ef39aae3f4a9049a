"""An explorer as a folder of static files, which a browser opens from disk or any web host.

web/src/contract.ts says what the files hold.
"""

import base64
import gzip
import json
import lzma
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from alexnet_jax.data.files import replacing_folder
from alexnet_jax.errors import UserError
from alexnet_jax.explorer import description, program
from alexnet_jax.inference.network import Network, open_workdir
from alexnet_jax.run import workdir

BUILT = Path(__file__).with_name("built")  # the page, and the runtime of programs
DESCRIPTION = "network"
LARGE = 10_000_000  # parameters; with more, weights are float16, and only the newest step is exported
PIECE = 12_000_000  # most bytes in a file, before base64: a third more after it, which web hosts accept


class Written(NamedTuple):
    bytes: int
    steps: list[int]
    notes: list[str]  # on what was left out


def export(directory: Path, folder: Path) -> Written:
    """Write the explorer of the run in `directory` to `folder`, completely or not at all.

    Raises UserError if `folder` holds something else, or a layer has no equivalent in ONNX.
    """
    newest = open_workdir(directory)
    check_folder(folder)
    large = description.parameters(newest) > LARGE
    kept = [step for step in workdir.saved_steps(directory) if step < newest.step]
    notes = []
    if large and kept:
        notes.append(f"only the newest of {len(kept) + 1} steps, since the network has more than {LARGE:,} parameters")
    steps = [*([] if large else kept), newest.step]
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    with replacing_folder(folder) as temporary:
        shutil.copytree(BUILT, temporary, ignore=shutil.ignore_patterns("*.xz"), dirs_exist_ok=True)
        runtime = {path.name.partition(".")[0]: path for path in (BUILT / "runtime").glob("*.wasm.xz")}
        described = description.describe(newest) | {
            "backend": "browser",
            "precision": "float16" if large else "float32",
            "runtime": {
                kind: _write_pieces(temporary, f"runtime/{kind}", lzma.decompress(path.read_bytes()))
                for kind, path in runtime.items()
            },
            "steps": [
                _write_step(temporary, newest if step == newest.step else open_workdir(directory, step), large)
                for step in steps
            ],
            "examples": [],
            "units": 0,
            "searched": 0,
            "neighbours": 0,
        }
        write(temporary, DESCRIPTION, described)
        size = sum(path.stat().st_size for path in temporary.rglob("*") if path.is_file())
    return Written(size, steps, notes)


def check_folder(folder: Path) -> None:
    """Raise UserError if `folder` is something other than an explorer, an empty folder, or nothing."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; give the --explorer a folder of its own")
    described = folder / f"{DESCRIPTION}.js"
    ours = described.is_file() and described.open("rb").read(30).startswith(_call(DESCRIPTION).encode())
    if folder.is_dir() and any(folder.iterdir()) and not ours:
        raise UserError(f"{folder} holds files that are not an explorer's; give the --explorer a folder of its own")


def write(folder: Path, name: str, value: Any) -> None:
    """Write a value as the script of that name."""
    path = folder / f"{name}.js"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{_call(name)}{json.dumps(value, separators=(',', ':'))});\n")


def _call(name: str) -> str:
    return f"explorer({json.dumps(name)},"


def _write_step(folder: Path, network: Network, half: bool) -> dict[str, Any]:
    pieces = _write_pieces(folder, f"programs/{network.step}", program.serialized(network, half))
    return {"step": network.step, "program": pieces, "conv1": description.conv1(network)}


def _write_pieces(folder: Path, name: str, content: bytes) -> dict[str, Any]:
    packed = gzip.compress(content, compresslevel=6, mtime=0)
    pieces = [packed[start : start + PIECE] for start in range(0, len(packed), PIECE)]
    for number, piece in enumerate(pieces):
        write(folder, f"{name}.{number}", base64.b64encode(piece).decode())
    return {"name": name, "bytes": [len(piece) for piece in pieces]}
