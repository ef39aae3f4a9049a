"""Changes to bytes, and to the structure of JSON. They are reproducible: all randomness comes from `rng`."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Rng = np.random.Generator

MARKS = (  # signatures by which decoders recognize formats, and text that has troubled parsers
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
    """`content` after 1 to 16 changes, fewer being likelier. Pieces of `others` may be inserted."""
    for _ in range(min(16, rng.geometric(0.4))):
        content = CHANGES[rng.integers(len(CHANGES))](rng, content, others)
    return content


def _span(rng: Rng, content: bytes) -> tuple[int, int]:
    """Start and end of a random piece, of widely varying length."""
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
    """Write an extreme number over the content, as formats store lengths: binary, octal or decimal."""
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


def _places(tree: Any, places: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Append every (container, key) of a tree to `places`."""
    for key, value in list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)):
        places.append((tree, key))
        if isinstance(value, dict | list):
            _places(value, places)
    return places


def changed_tree(rng: Rng, tree: Any) -> Any:
    """A JSON tree after 1 to 4 changes: other values and types; keys and items added, removed, repeated or moved."""
    tree = copy.deepcopy(tree)
    for _ in range(min(4, rng.geometric(0.6))):
        places = _places(tree, []) if isinstance(tree, dict | list) else []
        if not places or rng.random() < 0.01:
            return VALUES[rng.integers(len(VALUES))](rng)
        container, key = places[rng.integers(len(places))]
        choice = rng.integers(8)
        if choice < 4:
            container[key] = VALUES[rng.integers(len(VALUES))](rng)
        elif choice == 4:
            del container[key]
        elif choice == 5 and isinstance(container, dict):
            container[str(rng.choice(["extra", "../x", "", "format"]))] = container[key]
        elif choice == 5:
            container.insert(key, copy.deepcopy(container[key]))
        elif choice == 6 and isinstance(container[key], int | float):
            container[key] = container[key] * int(rng.choice([-1, 2, 10**6])) + int(rng.integers(-1, 2))
        else:
            other, other_key = places[rng.integers(len(places))]
            container[key] = copy.deepcopy(other[other_key])
    return tree
