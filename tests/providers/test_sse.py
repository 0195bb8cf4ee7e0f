"""The SSE decoder: WHATWG semantics, any split, bounds (faults U14-U19)."""

import itertools
import re
import tracemalloc
from dataclasses import dataclass

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from escalade_server.providers.sse import EVENT_BYTES_MAX, SseDecoder, SseViolation


@dataclass(frozen=True, slots=True)
class Decoded:
    """Everything a decoder tells about a stream."""

    events: tuple[bytes, ...]
    violation: SseViolation | None
    truncated: bool
    replaced: int
    comments: int
    unknown: int


def decode(chunks: list[bytes], line_max: int = 1 << 20, event_max: int = 4 << 20) -> Decoded:
    decoder = SseDecoder(line_bytes_max=line_max, event_bytes_max=event_max)
    events = tuple(event for chunk in chunks for event in decoder.feed(chunk))
    decoder.close()
    return Decoded(
        events=events,
        violation=decoder.violation,
        truncated=decoder.truncated,
        replaced=decoder.replaced,
        comments=decoder.comments,
        unknown=decoder.unknown,
    )


def reference(stream: bytes) -> list[bytes]:
    """WHATWG 9.2.6, word by word, on the whole stream at once."""
    text = stream.decode("utf-8", errors="replace").removeprefix("\ufeff")
    lines = re.split("\r\n|\n|\r", text)[:-1]
    events: list[bytes] = []
    data = ""
    for line in lines:
        if not line:
            if data:
                events.append(data.removesuffix("\n").encode())
            data = ""
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            if name == "data":
                data += value.removeprefix(" ") + "\n"
    return events


FRAME = b'data: {"a": "\xc3\xa9"}\n\n'

STREAMS = {
    "one": (FRAME, [FRAME[6:-2]]),
    "many": (FRAME * 3, [FRAME[6:-2]] * 3),
    "crlf": (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
    "cr": (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
    "mixed": (b"data: a\r\n\ndata: b\r\n\rdata: c\n\r\n", [b"a", b"b", b"c"]),
    "bom": (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
    "only the first bom": (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\n", []),
    "no space": (b"data:a\n\n", [b"a"]),
    "two spaces": (b"data:  a\n\n", [b" a"]),
    "no colon": (b"data\n\n", [b""]),
    "standard's example": (b"data\n\ndata\ndata\n\ndata:", [b"", b"\n"]),
    "multi-line": (b"data: a\ndata: b\n\n", [b"a\nb"]),
    "named": (b"event: delta\ndata: a\nid: 7\nretry: 1\n\n", [b"a"]),
    "name without data": (b"event: ping\n\n", []),
    "comments": (b": ping\n\n:\n\ndata: a\n: in between\ndata: b\n\n", [b"a\nb"]),
    "other line ends are text": (
        "data: a\u2028b\u0085c\x0bd\x0ce\n\n".encode(),
        ["a\u2028b\u0085c\x0bd\x0ce".encode()],
    ),
    "invalid": (b"data: a\xff\xf0\x9f\nb\n\n", ["a\ufffd\ufffd".encode()]),
    "blank lines": (b"\n\n\n\ndata: a\n\n\n\n", [b"a"]),
    "empty": (b"", []),
    "end inside the event": (b"data: a\n\ndata: b\n", [b"a"]),
    "end inside the line": (b"data: a\n\ndata: b", [b"a"]),
}


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.fault("U16", "U17")
def test_a_stream_decodes_alike_in_every_split(name: str) -> None:
    stream, events = STREAMS[name]
    whole = decode([stream])
    assert list(whole.events) == events == reference(stream)
    assert decode([bytes([byte]) for byte in stream]) == whole
    for first in range(len(stream) + 1):
        for second in range(first, len(stream) + 1):
            assert decode([stream[:first], stream[first:second], stream[second:]]) == whole


FIELDS = [b"data", b":", b" ", b"data: x", b"data: {}\n\n", b"event: e\n", b": c", b"id"]
ENDS = [b"\n", b"\r", b"\r\n", b"\n\n", "\u2028".encode()]
BYTES = [b"\xef\xbb\xbf", b"\xf0\x9f\x98\x80", b"\xf0\x9f", b"\xff", b"\xef\xbf\xbd", b"\x00"]
PIECES = st.sampled_from([*FIELDS, *ENDS, *BYTES])


@given(st.lists(PIECES, max_size=24).map(b"".join), st.data())
@example(b"\xef\xbb", None)
@pytest.mark.fault("U16", "U17")
def test_any_stream_in_any_split_is_what_the_standard_says(
    stream: bytes, data: st.DataObject | None
) -> None:
    whole = decode([stream])
    assert list(whole.events) == reference(stream)
    assert decode([bytes([byte]) for byte in stream]) == whole
    if data is not None:
        cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
        edges = [0, *cuts, len(stream)]
        pairs = itertools.pairwise(edges)
        assert decode([stream[start:end] for start, end in pairs]) == whole


@given(
    st.lists(PIECES, max_size=24).map(b"".join),
    st.integers(0, 200),
    st.integers(4, 40),
    st.integers(0, 20),
)
@example(b"data: 1\ndata: 2\n\ndata: 3\n\n", 8, 20, 0)
@example(b"data: 1234567\ndata: 1234567\n\ndata: 3\n\n", 14, 24, 1)
def test_bounds_hold_alike_in_every_split(
    stream: bytes, at: int, line_max: int, event_more: int
) -> None:
    event_max = line_max + event_more
    whole = decode([stream], line_max, event_max)
    assert decode([bytes([byte]) for byte in stream], line_max, event_max) == whole
    assert decode([stream[:at], stream[at:]], line_max, event_max) == whole


@pytest.mark.fault("U18")
def test_the_end_inside_an_event_is_flagged() -> None:
    assert decode([b"data: a\n\ndata: b\n"]).truncated
    assert decode([b"data: a\n\ndata: b"]).truncated
    assert decode([b"\xef\xbb"]).truncated
    assert not decode([b"data: a\n\n"]).truncated
    assert not decode([b""]).truncated


@pytest.mark.fault("U29")
def test_what_is_not_data_is_counted() -> None:
    decoded = decode([b": a\n:\nfoo: 1\nid: 1\n\ndata: \xff\xef\xbf\xbd\xe2\x82\n\n"])
    assert (decoded.comments, decoded.unknown, decoded.replaced) == (2, 1, 2)


def test_a_line_may_be_as_long_as_its_bound_and_no_longer() -> None:
    line = b"data: 78"
    assert decode([line + b"\n\n"], line_max=8).events == (b"78",)
    cut = decode([b"data: a\n\n" + line + b"9\n\ndata: b\n\n"], line_max=8)
    assert cut.events == (b"a",)
    assert cut.violation is SseViolation.LINE_TOO_LONG
    assert not cut.truncated


@pytest.mark.fault("U14")
def test_an_endless_line_is_cut_with_bounded_memory() -> None:
    decoder = SseDecoder()
    piece = b"x" * 65_536
    tracemalloc.start()
    try:
        for _ in range(1_000):
            assert decoder.feed(piece) == []
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert decoder.violation is SseViolation.LINE_TOO_LONG
    assert peak_bytes < 4 << 20


@pytest.mark.fault("U15")
def test_an_event_of_a_million_lines_is_cut() -> None:
    decoder = SseDecoder()
    lines = b"data: 0\n" * 1_000
    fed = 0
    while decoder.violation is None:
        assert decoder.feed(lines) == []
        fed += len(lines)
        assert fed < 2 * EVENT_BYTES_MAX
    assert decoder.violation is SseViolation.EVENT_TOO_LONG
    assert decoder.feed(b"\n\ndata: late\n\n") == []


@pytest.mark.fault("U4")
def test_keep_alives_for_hours_break_no_bound() -> None:
    decoded = decode([b": ping\n"] * 1_000, line_max=8, event_max=20)
    assert decoded.violation is None
    assert decoded.comments == 1_000


def test_bounds_must_make_sense() -> None:
    with pytest.raises(ValueError, match="line_bytes_max"):
        SseDecoder(line_bytes_max=2, event_bytes_max=1)


def test_what_holds_no_data_is_bounded_until_there_is_data() -> None:
    noise = b": ping\n\nevent: e\nfoo: bar\n" * 2_000
    assert decode([noise, b"data: a\n\n", noise]).events == (b"a",)
    broken = decode([noise, noise, b"data: a\n\n"])
    assert broken.violation is SseViolation.NOISE
    assert not broken.events


def test_many_short_lines_of_one_event_take_no_more_than_their_bytes() -> None:
    decoder = SseDecoder()
    tracemalloc.start()
    try:
        decoder.feed(b"data: xy\n" * 40_000)
        held_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held_bytes < 1 << 20
    assert decode([b"data: xy\n" * 400_000]).violation is SseViolation.EVENT_TOO_LONG
