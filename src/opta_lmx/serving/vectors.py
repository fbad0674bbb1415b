"""Arithmetic on finished vectors: little-endian 32-bit floats, as workers send them."""

import math
import struct
from collections.abc import Sequence
from operator import mul


def numbers(vector: bytes) -> tuple[float, ...]:
    """The vector's numbers."""
    return struct.unpack(f"<{len(vector) // 4}f", vector)


def shortened(vector: bytes, width: int) -> bytes:
    """The first `width` numbers, scaled to length 1."""
    kept = numbers(vector)[:width]
    length = math.sqrt(sum(map(mul, kept, kept))) or 1.0
    return struct.pack(f"<{width}f", *(number / length for number in kept))


def cosines(query: bytes, documents: Sequence[bytes]) -> list[float]:
    """Cosine of the angle between the query and each document, -1 to 1; 0 for a zero vector."""
    left = numbers(query)
    own = math.sqrt(sum(map(mul, left, left)))
    found: list[float] = []
    for document in documents:
        right = numbers(document)
        length = own * math.sqrt(sum(map(mul, right, right)))
        dot = sum(map(mul, left, right))
        found.append(max(-1.0, min(1.0, dot / length)) if length else 0.0)
    return found
