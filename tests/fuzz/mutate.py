"""Bytes and JSON with mistakes in them, the same for the same random numbers."""

import json
from typing import Any

import numpy as np

MAGIC = [
    b"\xff\xd8",
    b"\xff\xd9",
    b"\xff\xc0",
    b"\xff\xda",
    b"\x1f\x8b",
    b"\x93NUMPY",
    b"PK\x03\x04",
    b"\0" * 512,
    b"ustar",
]
NUMBERS = [0, 1, 127, 128, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1]
VALUES: list[Any] = [
    None, True, 0, 1, -1, 2**31, 2**63, 10**30, 1e308, -0.5, "", "x", "../x", "/etc/passwd", "a/../../b", "\0",
    "\ud800", "9" * 5000, [], [0], {}, {"x": 1}, [[]], "NaN",
]  # fmt: skip


def mutated(rng: np.random.Generator, content: bytes, other: bytes) -> bytes:
    """One to eight mistakes; `other` is spliced in now and then."""
    data = bytearray(content)
    for _ in range(int(rng.integers(1, 9))):
        if not data:
            break
        at, length = int(rng.integers(len(data))), int(rng.integers(1, 65))
        match int(rng.integers(10)):
            case 0:
                data[at] ^= 1 << int(rng.integers(8))
            case 1:
                data[at] = int(rng.integers(256))
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = rng.integers(0, 256, length, np.uint8).tobytes()
            case 4:
                data[at:at] = data[int(rng.integers(len(data))) :][:length]
            case 5:
                magic = MAGIC[int(rng.integers(len(MAGIC)))]
                data[at : at + len(magic)] = magic
            case 6:
                width = int(rng.choice([1, 2, 4, 8]))
                number = NUMBERS[int(rng.integers(len(NUMBERS)))] % 256**width
                data[at : at + width] = number.to_bytes(width, "little" if rng.random() < 0.5 else "big")
            case 7:
                digits = f"{int(rng.integers(8**11)):011o}".encode()  # as sizes are in tars
                data[at : at + len(digits)] = digits
            case 8:
                del data[at:]
            case _:
                start = int(rng.integers(len(other) + 1))
                data[at : at + length] = other[start : start + length]
    return bytes(data)


def mutated_json(rng: np.random.Generator, tree: Any) -> Any:
    """A copy with one to four values or keys that do not belong there."""
    copy = json.loads(json.dumps(tree))
    for _ in range(int(rng.integers(1, 5))):
        places = [(parent, key) for parent, key in _places(copy)]
        if not places:
            break
        parent, key = places[int(rng.integers(len(places)))]
        value = VALUES[int(rng.integers(len(VALUES)))]
        match int(rng.integers(5)):
            case 0 | 1:
                parent[key] = value
            case 2:
                del parent[key]
            case 3 if isinstance(parent, dict):
                parent[str(VALUES[int(rng.integers(9, 16))])] = value
            case _:
                other, place = places[int(rng.integers(len(places)))]
                parent[key] = json.loads(json.dumps(other[place])) if _has(other, place) else value
    return copy


def _has(parent: Any, key: Any) -> bool:
    return key in parent if isinstance(parent, dict) else key < len(parent)


def _places(tree: Any) -> list[tuple[Any, Any]]:
    items = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)) if isinstance(tree, list) else []
    return [place for key, value in items for place in [(tree, key), *_places(value)]]
