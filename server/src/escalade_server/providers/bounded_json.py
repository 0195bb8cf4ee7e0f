"""JSON from strangers: nesting is bounded before anything recurses over it (U20).

msgspec does the rest: it refuses NaN and Infinity, and numbers beyond what a typed field holds.
"""

import re
from typing import Final, TypeVar

import msgspec

DEPTH_MAX: Final = 64

T = TypeVar("T")

_ANY: Final = msgspec.json.Decoder(object)
_STRING: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BRACKET: Final = re.compile(rb"[\[\]{}]")
_OPENING: Final = frozenset({b"[", b"{"})


def is_shallow(data: bytes) -> bool:
    """Whether a JSON text nests at most ``DEPTH_MAX`` deep; exact for well-formed JSON."""
    # Few brackets cannot nest deeply, and an ordinary frame has few.
    if data.count(b"{") + data.count(b"[") <= DEPTH_MAX:
        return True
    depth = 0
    for bracket in _BRACKET.findall(_STRING.sub(b"", data)):
        depth += 1 if bracket in _OPENING else -1
        if depth > DEPTH_MAX:
            return False
    return True


def decode_as(decoder: msgspec.json.Decoder[T], data: bytes) -> T:
    """Decode what a decoder is for.

    Raises:
        ValueError: not JSON, not of that shape, nested too deeply, or a number out of bounds.
    """
    if not is_shallow(data):
        raise ValueError("JSON nests too deeply")
    return decoder.decode(data)


def decode(data: bytes) -> object:
    """Decode any JSON value.

    Raises:
        ValueError: not JSON, nested too deeply, or a number out of bounds.
    """
    return decode_as(_ANY, data)
