"""JSON from strangers: checked before anything recurses over it or believes it (U20).

Nesting is bounded, and no object may hold a key twice: which of the two counts is anybody's guess.
msgspec does the rest: it refuses NaN and Infinity, and numbers beyond what a typed field holds.
"""

import json
import re
from typing import Final, TypeVar

import msgspec

DEPTH_MAX: Final = 64
TOKENS_MAX: Final = 1 << 17
"""Quotes and opening brackets of one text: they bound the time that a look at it takes."""
UNSOUND: Final = "JSON that nests too deeply, or holds a key twice"

_SHORT: Final = 4_096
_MISSES_MAX: Final = 16
"""Frames that differ in more than one place, one after another: nothing is to be learnt."""

T = TypeVar("T")

_ANY: Final = msgspec.json.Decoder(object)
_TEXT: Final = msgspec.json.Decoder(str)
_CHARACTERS: Final = rb'[^"\\]*(?:\\.[^"\\]*)*'
_STRING: Final = rb'"(' + _CHARACTERS + rb')"'
_INSIDE: Final = re.compile(_CHARACTERS, re.DOTALL)
# A string, with the colon that makes it a key; or a bracket.
_TOKEN: Final = re.compile(_STRING + rb"(\s*:)?|([\[\]{}])", re.DOTALL)
_VALUE: Final = re.compile(rb":\s*" + _STRING, re.DOTALL)
_OPENING: Final = frozenset({b"[", b"{"})
_BACKSLASH: Final = ord("\\")


def is_sound(data: bytes) -> bool:
    """Whether a JSON text nests at most ``DEPTH_MAX`` deep, and no object has a key twice.

    Exact for well-formed JSON.
    """
    brackets = data.count(b"{") + data.count(b"[")
    if brackets <= DEPTH_MAX and len(data) <= _SHORT:
        return _is_short_and_sound(data)
    if data.count(b'"') + brackets > TOKENS_MAX:
        return False
    above: list[set[bytes]] = []
    keys: set[bytes] = set()
    for text, colon, bracket in _TOKEN.findall(data):
        if colon:
            key = _TEXT.decode(b'"%b"' % text).encode() if b"\\" in text else text
            if key in keys:
                return False
            keys.add(key)
        elif bracket in _OPENING:
            above.append(keys)
            if len(above) > DEPTH_MAX:
                return False
            keys = set()
        elif bracket and above:
            keys = above.pop()
    return True


def _once(pairs: list[tuple[str, object]]) -> None:
    """Take an object of which nothing is needed but that its keys differ."""
    if len(pairs) > 1 and len(dict(pairs)) != len(pairs):
        raise ValueError(UNSOUND)


_KEYS: Final = json.JSONDecoder(object_pairs_hook=_once)


def _is_short_and_sound(data: bytes) -> bool:
    """Look for a key that stands twice, where depth and numbers are of no concern."""
    try:
        _KEYS.decode(data.decode(errors="replace"))
    except ValueError:
        return False
    return True


class Alike:
    """Spares the look at frames that differ from the last sound one in a single string only.

    Nearly every frame of a stream does: the same keys around another piece of text. What follows
    the last key may differ, too.
    """

    __slots__ = ("_head", "_misses", "_tail", "_values")

    def __init__(self) -> None:
        """Begin with a stream of which nothing is known."""
        self._head = self._tail = b"\0"
        self._values: list[bytes] = []
        self._misses = 0

    def is_sound(self, frame: bytes) -> bool:
        """Answer as the function does, most often without a look at all of it."""
        head, tail = self._head, self._tail
        if frame.startswith(head) and (end := frame.find(b'"', len(head))) >= 0:
            if frame[end - 1] == _BACKSLASH and (inside := _INSIDE.match(frame, len(head))):
                end = inside.end()
            rest = end + len(tail)
            if (
                frame.startswith(tail, end)
                and frame.find(b":", rest) < 0
                and len(frame) - rest < DEPTH_MAX
            ):
                self._misses = 0
                return True
        self._misses += 1
        return self._look(frame) if self._misses <= _MISSES_MAX else is_sound(frame)

    def _look(self, frame: bytes) -> bool:
        """Look at all of a frame, and learn what surrounds the string in which it differs."""
        if not is_sound(frame):
            return False
        found = list(_VALUE.finditer(frame))
        for value, before in zip(found, self._values, strict=False):
            if value[1] != before:
                self._head = frame[: value.start(1)]
                end = value.end(1)
                self._tail = frame[end : max(frame.rfind(b":"), end) + 1]
                break
        self._values = [value[1] for value in found]
        return True


def decode_as(decoder: msgspec.json.Decoder[T], data: bytes) -> T:
    """Decode what a decoder is for.

    Raises:
        ValueError: not JSON, not of that shape, beyond the bounds, or with a key twice.
    """
    if not is_sound(data):
        raise ValueError(UNSOUND)
    return decoder.decode(data)


def decode(data: bytes) -> object:
    """Decode any JSON value.

    Raises:
        ValueError: not JSON, beyond the bounds, or with a key twice.
    """
    return decode_as(_ANY, data)
