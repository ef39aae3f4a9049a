"""Changes that use knowledge of a format: NumPy files and tars."""

import contextlib
import gzip
import io
import tarfile
import zipfile

import numpy as np

from alexnet_jax.data import images
from tests.fuzz.mutate import EDGES, Rng, changed


def changed_npy(rng: Rng, content: bytes) -> bytes:
    """A changed .npy file; half of the time with another well-formed header."""
    if rng.random() < 0.5:
        return changed(rng, content)
    dtype = str(rng.choice(["<i4", "<u8", "<f4", "|O", "<i8", "|V0", "<U9", ">f4", "|S4", "M8[s]", "|b1"]))
    shape = tuple(int(EDGES[i]) * int(rng.choice([1, 1, -1])) for i in rng.integers(len(EDGES), size=rng.integers(4)))
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": dtype, "fortran_order": bool(rng.integers(2)), "shape": shape})
    return out.getvalue() + content[128:]


def changed_npz(rng: Rng, content: bytes) -> bytes:
    """A changed .npz file; half of the time with changed arrays in an intact zip, compressed or not."""
    if rng.random() < 0.5:
        return changed(rng, content)
    out = io.BytesIO()
    compression = zipfile.ZIP_DEFLATED if rng.random() < 0.3 else zipfile.ZIP_STORED
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w", compression) as new:
        names = old.namelist()
        chosen = names[rng.integers(len(names))]
        for name in names:
            array = changed_npy(rng, old.read(name)) if name == chosen else old.read(name)
            if name != chosen or rng.random() < 0.9:
                new.writestr(str(rng.choice([name, name, name, "../outside.npy"])), array)
    return out.getvalue()


def changed_tar(rng: Rng, content: bytes) -> bytes:
    """A changed tar: its bytes, with matching checksums or not, or its members. In a .tar.gz, mostly the tar inside."""
    if content.startswith(images.GZIP_MAGIC):
        if rng.random() < 0.2:
            return changed(rng, content)
        return gzip.compress(changed_tar(rng, gzip.decompress(content)), compresslevel=1)
    choice = rng.random()
    if choice < 0.2:
        return changed(rng, content)
    if choice < 0.4:
        return _with_checksums(changed(rng, content))
    return _with_odd_members(rng, content)


def _with_odd_members(rng: Rng, content: bytes) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        members = [(member, file.read() if (file := tar.extractfile(member)) else b"") for member in tar]
    out = b""
    chosen = rng.integers(len(members))
    for number, (member, inside) in enumerate(members):
        if number == chosen or rng.random() < 0.05:
            member, inside = _odd_member(rng, member, inside)
        form = (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)[rng.integers(2)]
        header = b""
        with contextlib.suppress(ValueError):  # for numbers that cannot be written
            header = member.tobuf(form, "utf-8", "surrogateescape")
        header *= 1 if rng.random() < 0.99 else 2000  # a chain of headers
        out += header + inside + bytes(-len(inside) % 512)
    return out + bytes(1024) if rng.random() < 0.95 else out


def _odd_member(rng: Rng, member: tarfile.TarInfo, inside: bytes) -> tuple[tarfile.TarInfo, bytes]:
    paths = [
        "../../outside/x.JPEG",
        "/abs/x.JPEG",
        "",
        ".",
        "a\0b",
        "x" * 300,
        "\udcff.JPEG",
        "n1.tar",
        "data/meta.mat",
    ]
    huge = [-(2**40), -512, -1, 0, 1, 2**30, 2**33, 2**40, 2**63, 2**70]
    choice = rng.integers(7)
    if choice == 0:
        member.name = str(rng.choice(paths))
    elif choice == 1:
        member.type = b"0123456789LKSxgXVN\0"[(i := int(rng.integers(19))) : i + 1]
        member.linkname = str(rng.choice([*paths, member.name]))
    elif choice == 2:
        member.size = huge[rng.integers(len(huge))]
        if rng.random() < 0.5:
            member.type = b"Lxg5"[(i := int(rng.integers(4))) : i + 1]
    elif choice == 3:
        key = str(
            rng.choice(["size", "path", "linkpath", "GNU.sparse.realsize", "GNU.sparse.map", "hdrcharset", "mtime"])
        )
        values = [*map(str, huge), "x", "0,1,2", "../../outside", "BINARY", "9" * 5000]
        member.pax_headers = {key: values[rng.integers(len(values))], "GNU.sparse.major": str(rng.integers(2))}
    elif inside.startswith(b"MATLAB") or inside[257:262] != b"ustar":
        inside = changed(rng, inside)
        member.size = len(inside)
    else:
        inside = changed_tar(rng, inside)
        member.size = len(inside)
    return member, inside


def _with_checksums(content: bytes) -> bytes:
    """Give whatever looks like a header the checksum that matches it."""
    tar = bytearray(content)
    for at in range(0, len(tar) - 511, 512):
        if tar[at + 257 : at + 262] == b"ustar":
            tar[at + 148 : at + 156] = b" " * 8
            tar[at + 148 : at + 156] = b"%06o\0 " % sum(tar[at : at + 512])
    return bytes(tar)
