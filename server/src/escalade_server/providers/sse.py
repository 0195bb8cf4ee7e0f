"""Server-sent events, decoded as they arrive: bytes in, payloads out, no I/O.

Follows WHATWG HTML section 9.2.6 with bounds (faults U14, U15). Dialects read the payload only: it
repeats the event's name wherever that matters, so `event`, `id` and `retry` are dropped.

Everything is done on bytes: a line ends with an ASCII character, so no UTF-8 sequence can span two
lines and whole lines are checked at once, never characters. The usual read (whole
`data: {...}` frames) costs one split and one slice a frame.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from escalade_server.providers import utf8

LINE_BYTES_MAX: Final = 1 << 20
EVENT_BYTES_MAX: Final = 2 << 20
"""Fifty calls at once may hold so much each (U15 names 4 MiB as what must be cut)."""
NOISE_BYTES_MAX: Final = 64 << 10

_OF_A_LINE: Final = 32
"""Bytes that each further line of an event counts for besides its own: it costs time (U15)."""
_COLON: Final = ord(":")
_DROPPED: Final = frozenset({b"event", b"id", b"retry"})


class SseViolation(Enum):
    """How a stream broke the bounds; the stream is unusable from there on."""

    LINE_TOO_LONG = "line_too_long"
    EVENT_TOO_LONG = "event_too_long"
    NOISE = "noise"


@dataclass(slots=True)
class SseDecoder:
    """Turns the bytes of one stream into the data of its events, in any split.

    Attributes:
        line_bytes_max: longest line accepted, without its end (U14).
        event_bytes_max: most bytes in the `data` lines of one event (U15); at least a line. Of
            several lines each counts for a little more.
        noise_bytes_max: most bytes in a row that hold no data: comments, names, unknown fields and
            empty lines, which cost us time and bring the answer no further (U4, U25).
        violation: set once a bound is broken. What came before it is still returned by the `feed`
            that met it; later feeds return nothing. Look at it after every `feed`.
        truncated: set by `close` if the stream ended inside a line or an event (U18).
        replaced: invalid UTF-8 sequences that became U+FFFD (U16).
        comments: comment lines, which are no progress (U4).
        unknown: lines with a field that the standard does not name (U29).
    """

    line_bytes_max: int = LINE_BYTES_MAX
    event_bytes_max: int = EVENT_BYTES_MAX
    noise_bytes_max: int = NOISE_BYTES_MAX
    violation: SseViolation | None = None
    truncated: bool = False
    replaced: int = 0
    comments: int = 0
    unknown: int = 0
    _line: bytearray = field(default_factory=bytearray)
    _data: bytearray = field(default_factory=bytearray)
    """Each line's data and its LF: one buffer, as a list of short lines takes many times more."""
    _data_bytes: int = 0
    _noise_bytes: int = 0
    _at_start: bool = True
    _after_cr: bool = False

    def __post_init__(self) -> None:
        """Check the bounds: the short cut in `feed` relies on an event having room for a line."""
        if not 0 < self.line_bytes_max <= self.event_bytes_max:
            msg = "line_bytes_max must be positive and at most event_bytes_max"
            raise ValueError(msg)

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take the next bytes and return the data of each event they complete, as valid UTF-8."""
        # A name before the data is dropped, like every name.
        data = chunk.partition(b"\n")[2] if chunk.startswith(b"event: ") else chunk
        if (
            data.startswith(b"data: ")
            and data.find(b"\n") == len(data) - 2
            and data.endswith(b"\n\n")
            and len(chunk) <= self.line_bytes_max
            and not (self._line or self._data or self._at_start or self._after_cr)
            and b"\r" not in chunk
            and self.violation is None
            and chunk.isascii()
        ):
            # A read of exactly one ordinary frame: a token as it is made, so it must be cheap.
            self._noise_bytes = 0
            return [data[6:-2]]
        out: list[bytes] = []
        if self._at_start or self._after_cr or b"\r" in chunk:
            chunk = self._normalise(chunk)
        if self.violation is not None:
            return out
        if self._line:
            head, end, chunk = chunk.partition(b"\n")
            self._hold(head)
            if not end or self.violation is not None:
                return out
            line = bytes(self._line)
            self._line.clear()
            self._take(line, out)
        cut = chunk.rfind(b"\n") + 1
        if cut:
            self._take_lines(chunk[:cut], out)
        if cut < len(chunk) and self.violation is None:
            self._hold(chunk[cut:])
        return out

    def close(self) -> None:
        """Note the end of the stream; an event without its blank line is dropped (U18)."""
        self.truncated = self.violation is None and bool(self._line or self._data)
        self._line.clear()
        self._data.clear()

    def _normalise(self, chunk: bytes) -> bytes:
        """Strip the mark at the start and make every line end a single LF."""
        if self._at_start:
            chunk = bytes(self._line) + chunk
            self._line.clear()
            if len(chunk) < len(utf8.BOM) and utf8.BOM.startswith(chunk):
                self._line += chunk
                return b""
            self._at_start = False
            chunk = chunk.removeprefix(utf8.BOM)
        if self._after_cr and chunk:
            # The CR has ended its line already; an LF after it is the other half of that end.
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        if b"\r" in chunk:
            self._after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return chunk

    def _take_lines(self, block: bytes, out: list[bytes]) -> None:
        """Take a block of whole lines; frames of one `data: ` line go the short way."""
        if self._is_broken:
            return
        if len(block) > self.line_bytes_max or not utf8.is_valid(block):
            self._take_each(block, out)
            return
        frames = block.split(b"\n\n")
        rest = frames.pop()
        if self._data and frames:
            self._take_each(frames.pop(0) + b"\n\n", out)
            if self.violation is not None:
                return
        for frame in frames:
            data = frame.partition(b"\n")[2] if frame.startswith(b"event: ") else frame
            if data.startswith(b"data: ") and b"\n" not in data:
                self._noise_bytes = 0
                out.append(data[6:])
            else:
                self._take_each(frame + b"\n\n", out)
                if self.violation is not None:
                    return
        if rest:
            self._take_each(rest, out)

    def _take_each(self, block: bytes, out: list[bytes]) -> None:
        for line in block[:-1].split(b"\n"):
            self._take(line, out)
            if self.violation is not None:
                return

    def _take(self, line: bytes, out: list[bytes]) -> None:
        """Take one whole line."""
        if not line:
            if self._data:
                out.append(bytes(self._data[:-1]))
                self._data.clear()
                self._data_bytes = self._noise_bytes = 0
            else:
                self._heard_noise(1)
            return
        size = len(line)
        if size > self.line_bytes_max:
            self._violate(SseViolation.LINE_TOO_LONG)
            return
        if not utf8.is_valid(line):
            line, replaced = utf8.mended(line)
            self.replaced += replaced
        if line[0] == _COLON:
            self.comments += 1
            self._heard_noise(size)
            return
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data_bytes += size + (_OF_A_LINE if self._data else 0)
            if self._data_bytes > self.event_bytes_max:
                self._violate(SseViolation.EVENT_TOO_LONG)
                return
            self._data += value.removeprefix(b" ")
            self._data += b"\n"
        else:
            self.unknown += name not in _DROPPED
            self._heard_noise(size)

    def _heard_noise(self, size: int) -> None:
        self._noise_bytes += size
        if self._noise_bytes > self.noise_bytes_max:
            self._violate(SseViolation.NOISE)

    def _hold(self, part: bytes) -> None:
        """Keep the beginning of a line until its end arrives."""
        self._line += part
        if len(self._line) > self.line_bytes_max:
            self._violate(SseViolation.LINE_TOO_LONG)

    @property
    def _is_broken(self) -> bool:
        return self.violation is not None

    def _violate(self, violation: SseViolation) -> None:
        self.violation = violation
        self._line.clear()
        self._data.clear()
