"""An explorer as a folder of static files, which a browser opens from disk or any web host.

web/src/contract.ts says what the files hold.
"""

import base64
import gzip
import lzma
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from alexnet_jax.data.files import replacing_folder
from alexnet_jax.errors import UserError
from alexnet_jax.explorer import bundle, description, program, sprites
from alexnet_jax.explorer.description import BUILT, LARGE, NAME
from alexnet_jax.inference.network import Network, open_workdir
from alexnet_jax.interop import networks

PIECE = 12_000_000  # most bytes in a file, before base64: a third more after it, which web hosts accept


class Written(NamedTuple):
    bytes: int
    notes: list[str]  # on what was left out


def export(directory: Path, folder: Path, data: str | None, images: int) -> Written:
    """Write the explorer of the run in `directory` to `folder`, completely or not at all.

    `data` and `images` are as for `bundle.of_network`, with the same errors. Raises UserError too if `folder` holds
    something else, or a layer has no equivalent in ONNX.
    """
    newest = open_workdir(directory)
    check_folder(folder)
    networks.check_shared(newest.config.model)
    large = description.is_large(newest)
    shown = bundle.of_network(newest, data, images)
    notes = [f"without images of the data: {shown.missing}"] if shown.missing else []
    if large:
        notes.append(f"of step {newest.step} alone, since the network has more than {LARGE:,} parameters")
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    with replacing_folder(folder) as temporary:
        unused = ("*.xz", "*.sha256", *([] if large else ["webgpu*"]))
        shutil.copytree(BUILT, temporary, ignore=shutil.ignore_patterns(*unused), dirs_exist_ok=True)
        described = description.describe(newest) | {
            "backend": "browser",
            "precision": "float16" if large else "float32",
            "runtime": {
                kind: _write_pieces(temporary, f"runtime/{kind}", _wasm(kind))
                for kind in (("wasm", "webgpu") if large else ("wasm",))
            },
            "steps": [
                _write_step(temporary, network, half=large or network is not newest)
                for network in description.along_training(newest)
            ],
        }
        for name, value in (shown.files | {NAME: described | shown.described}).items():
            write(temporary, name, value)
        size = sum(path.stat().st_size for path in temporary.rglob("*") if path.is_file())
    return Written(size, notes)


def check_folder(folder: Path) -> None:
    """Raise UserError if `folder` is something other than an explorer, an empty folder, or nothing."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; give the --explorer a folder of its own")
    described = folder / f"{NAME}.js"
    ours = described.is_file() and described.read_text(errors="replace").startswith(description.call(NAME))
    if folder.is_dir() and any(folder.iterdir()) and not ours:
        raise UserError(f"{folder} holds files that are not an explorer's; give the --explorer a folder of its own")


def write(folder: Path, name: str, value: Any) -> None:
    """Write a value as the script of that name."""
    path = folder / f"{name}.js"
    path.parent.mkdir(exist_ok=True)
    path.write_text(description.script(name, value))


def _wasm(runtime: str) -> bytes:
    return lzma.decompress((BUILT / "runtime" / f"{runtime}.wasm.xz").read_bytes())


def _write_step(folder: Path, network: Network, half: bool) -> dict[str, Any]:
    pieces = _write_pieces(folder, f"programs/{network.step}", program.serialized(network, half))
    return {"step": network.step, "program": pieces, "conv1": sprites.conv1_row(network)}


def _write_pieces(folder: Path, name: str, content: bytes) -> dict[str, Any]:
    packed = gzip.compress(content, compresslevel=6, mtime=0)
    pieces = [packed[start : start + PIECE] for start in range(0, len(packed), PIECE)]
    for number, piece in enumerate(pieces):
        write(folder, f"{name}.{number}", base64.b64encode(piece).decode())
    return {"name": name, "bytes": [len(piece) for piece in pieces]}
