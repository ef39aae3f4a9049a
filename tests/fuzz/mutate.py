"""How inputs are changed: bytes, and JSON by its structure. The same random numbers make the same changes."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Rng = np.random.Generator

MARKS = (  # of formats that decoders know by their first bytes
    b"\xff\xd8",
    b"\xff\xda",
    b"\xff\xc2",
    b"\xff\xd9",
    b"\x1f\x8b\x08",
    b"\x89PNG\r\n\x1a\n",
    b"GIF89a",
    b"BM",
    b"RIFF",
    b"II*\0",
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    b"\x93NUMPY\x01\x00",
    b"PK\x03\x04",
    b"ustar\x00",
    b"././@LongLink",
    b"../../outside",
    b"\x80\x04cos\nsystem\n",
    b"(" * 300,
    b"-" * 3000,
    b"[" * 3000,
)
EDGES = (0, 1, 2, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)


def changed(rng: Rng, content: bytes, others: Sequence[bytes] = ()) -> bytes:
    """`content` after 1 to 16 changes, few more often than many; pieces of `others` may come in."""
    for _ in range(min(16, rng.geometric(0.4))):
        content = CHANGES[rng.integers(len(CHANGES))](rng, content, others)
    return content


def _span(rng: Rng, content: bytes) -> tuple[int, int]:
    """Start and end of a piece, short ones as often as long ones."""
    start = int(rng.integers(len(content) + 1))
    longest = 1 + int((len(content) - start) * rng.random() ** 4)
    return start, min(len(content), start + longest)


def _flip(rng: Rng, content: bytes, others: Sequence[bytes]) -> bytes:
    changed = bytearray(content)
    for place in rng.integers(len(content), size=rng.integers(1, 9)) if content else ():
        changed[place] ^= 1 << rng.integers(8)
    return bytes(changed)


def _overwrite(rng: Rng, content: bytes, others: Sequence[bytes]) -> bytes:
    start, end = _span(rng, content)
    return content[:start] + rng.bytes(end - start) + content[end:]


def _fill(rng: Rng, content: bytes, others: Sequence[bytes]) -> bytes:
    start, end = _span(rng, content)
    return content[:start] + bytes([rng.choice([0, 32, 48, 57, 255])]) * (end - start) + content[end:]


def _cut(rng: Rng, content: bytes, others: Sequence[bytes]) -> bytes:
    start, end = _span(rng, content)
    return content[:start] if rng.random() < 0.2 else content[:start] + content[end:]


def _insert(rng: Rng, content: bytes, others: Sequence[bytes]) -> bytes:
    start, _ = _span(rng, content)
    return content[:start] + rng.bytes(int(rng.integers(1, 64))) + content[start:]


def _repeat(rng: Rng, content: bytes, others: Sequence[bytes]) -> bytes:
    start, end = _span(rng, content)
    return (
        content[:end] + content[start:end] * min(int(rng.integers(1, 64)), 2**16 // (1 + end - start)) + content[end:]
    )


def _swap(rng: Rng, content: bytes, others: Sequence[bytes]) -> bytes:
    a, b, c, d = sorted((*_span(rng, content), *_span(rng, content)))
    return content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:]


def _splice(rng: Rng, content: bytes, others: Sequence[bytes]) -> bytes:
    other = others[int(rng.integers(len(others)))] if len(others) else content
    start, end = _span(rng, other)
    place, stop = _span(rng, content)
    return content[:place] + other[start:end] + content[place if rng.random() < 0.5 else stop :]


def _mark(rng: Rng, content: bytes, others: Sequence[bytes]) -> bytes:
    place = 0 if rng.random() < 0.2 else int(rng.integers(len(content) + 1))
    mark = MARKS[int(rng.integers(len(MARKS)))]
    return content[:place] + mark + content[place + (len(mark) if rng.random() < 0.5 else 0) :]


def _number(rng: Rng, content: bytes, others: Sequence[bytes]) -> bytes:
    """A length that is hardly ever meant, as formats write it: binary, octal, decimal."""
    number, place = EDGES[rng.integers(len(EDGES))], int(rng.integers(len(content) + 1))
    size = int(rng.choice([1, 2, 4, 8]))
    order = "big" if rng.random() < 0.5 else "little"
    binary = (number % 256**size).to_bytes(size, order)
    text = (binary, b"%011o" % number, b"%d" % number)[rng.integers(3)]
    return content[:place] + text + content[place + len(text) :]


CHANGES: tuple[Callable[[Rng, bytes, Sequence[bytes]], bytes], ...] = (
    _flip,
    _overwrite,
    _fill,
    _cut,
    _insert,
    _repeat,
    _swap,
    _splice,
    _mark,
    _number,
)


def _deep(rng: Rng) -> Any:
    nested: Any = []
    for _ in range(int(rng.choice([3, 30, 400]))):
        nested = [nested] if rng.random() < 0.5 else {"count": nested}
    return nested


VALUES: tuple[Callable[[Rng], Any], ...] = (
    lambda rng: None,
    lambda rng: bool(rng.integers(2)),
    lambda rng: -int(EDGES[rng.integers(len(EDGES))]),
    lambda rng: int(EDGES[rng.integers(len(EDGES))]),
    lambda rng: 10 ** int(rng.choice([20, 200, 4000])),
    lambda rng: float(rng.choice([0.5, -1e300, 1e308, np.inf, -np.inf, np.nan])),
    lambda rng: str(
        rng.choice(["", "x", "../outside/x", "/etc/passwd", ".", "..", "a/b", "\ud800", "\0", "7", "train"])
    ),
    lambda rng: "é" * int(rng.choice([1, 300, 100_000])),
    lambda rng: [],
    lambda rng: {},
    lambda rng: [0] * int(rng.choice([1, 3, 5000])),
    _deep,
)


def _places(tree: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Every (container, key) of a tree."""
    for key, value in list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)):
        found.append((tree, key))
        if isinstance(value, dict | list):
            _places(value, found)
    return found


def changed_tree(rng: Rng, tree: Any) -> Any:
    """A JSON tree with 1 to 4 changes: other values and types, keys and items more, less, twice or in another place."""
    tree = copy.deepcopy(tree)
    for _ in range(min(4, rng.geometric(0.6))):
        places = _places(tree, []) if isinstance(tree, dict | list) else []
        if not places or rng.random() < 0.01:
            return VALUES[rng.integers(len(VALUES))](rng)
        at, key = places[rng.integers(len(places))]
        what = rng.integers(8)
        if what < 4:
            at[key] = VALUES[rng.integers(len(VALUES))](rng)
        elif what == 4:
            del at[key]
        elif what == 5 and isinstance(at, dict):
            at[str(rng.choice(["extra", "../x", "", "format"]))] = at[key]
        elif what == 5:
            at.insert(key, copy.deepcopy(at[key]))
        elif what == 6 and isinstance(at[key], int | float):
            at[key] = at[key] * int(rng.choice([-1, 2, 10**6])) + int(rng.integers(-1, 2))
        else:
            other, of = places[rng.integers(len(places))]
            at[key] = copy.deepcopy(other[of])
    return tree
