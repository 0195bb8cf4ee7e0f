"""Bytes that no vendor should send, in every dialect: marks, bad UTF-8, floods, odd numbers."""

from collections.abc import Callable, Iterable

import msgspec
import pytest

from escalade_server.core.commands import Candidate
from escalade_server.core.events import ChunkArrived
from escalade_server.core.failure import Failure, FailureClass
from escalade_server.core.task import Message, ProviderState, Request, Role, Task, Text, Tool
from escalade_server.providers import decoding
from escalade_server.providers.codec import Endpoint
from escalade_server.providers.encoding import state_owner
from escalade_server.providers.openai_usage import read_cost_nanos
from escalade_server.providers.registry import CODECS
from tests.providers.candidates import candidate
from tests.providers.golden_cases import decode, merged

MODELS = {
    "openai": ("deepseek", "deepseek-reasoner"),
    "anthropic": ("anthropic", "claude-sonnet-4-6"),
    "gemini": ("google", "gemini-2.5-flash"),
}
DIALECTS = pytest.mark.parametrize("dialect", MODELS)
BOM = b"\xef\xbb\xbf"
WHOLE = {
    "openai": b'{"model":"m","s":"\xff","choices":[{"message":{"content":"a\xffb","tool_calls":'
    b'[{"id":"c","function":{"name":"f","arguments":"{}\xff"}}]},"finish_reason":"stop"}]}',
    "anthropic": b'{"type":"message","model":"m","s":"\xff","content":[{"type":"text","text":'
    b'"a\xffb"},{"type":"tool_use","id":"c","name":"f","input":{"x":"\xff"}}],'
    b'"stop_reason":"tool_use"}',
    "gemini": b'{"modelVersion":"m","s":"\xff","candidates":[{"content":{"parts":['
    b'{"text":"a\xffb"},{"functionCall":{"id":"c","name":"f","args":{"x":"\xff"}}}]},"finishReason":"STOP"}]}',
}
"""One answer of each dialect, with a bad byte where nobody looks, in the text and in a call."""


def model(dialect: str) -> Candidate:
    provider, wire_id = MODELS[dialect]
    return candidate(provider, wire_id, dialect=dialect)


def told(dialect: str, pieces: Iterable[bytes]) -> list[ChunkArrived | Failure]:
    decoder = CODECS[dialect].decoder(
        model(dialect), 1, streamed=True, content_type="text/event-stream", now_ms=0
    )
    return decode(decoder, pieces)


def sse(*values: object) -> bytes:
    return b"".join(b"data: " + msgspec.json.encode(value) + b"\n\n" for value in values)


@DIALECTS
def test_bad_bytes_in_a_whole_answer_are_replaced_and_counted(dialect: str) -> None:
    (chunk,) = told(dialect, [WHOLE[dialect]])
    assert isinstance(chunk, ChunkArrived)
    text, call = merged([chunk])["deltas"]
    assert text == {"text": "a\ufffdb"}
    assert "\ufffd" in call["tool"][3]
    assert chunk.finish is not None
    assert chunk.oddities is not None
    assert chunk.oddities.replaced == 3


def byte_by_byte(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


@DIALECTS
@pytest.mark.parametrize("start", [BOM, b" \n" + BOM + b"\r\n", b"\n\n"], ids=repr)
def test_one_mark_at_the_start_is_nothing(dialect: str, start: bytes) -> None:
    body = WHOLE[dialect]
    expected = merged(told(dialect, [body]))
    assert expected["failure"] is None
    assert merged(told(dialect, [start + body])) == expected
    assert merged(told(dialect, byte_by_byte(start + body))) == expected
    stream = b"data: " + body + b"\n\ndata: [DONE]\n\n"
    streamed = merged(told(dialect, [stream]))
    assert merged(told(dialect, [start + stream])) == streamed
    assert merged(told(dialect, byte_by_byte(start + stream))) == streamed


@DIALECTS
@pytest.mark.parametrize("form", [b"%b", b"data: %b\n\n"], ids=["whole", "events"])
@pytest.mark.parametrize("marks", [2, 3])
def test_a_second_mark_is_not_one_in_any_split(dialect: str, form: bytes, marks: int) -> None:
    data = BOM * marks + form % WHOLE[dialect]
    at_once = merged(told(dialect, [data]))
    assert at_once["failure"] is not None
    for size in (1, 3, 4):
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        assert merged(told(dialect, pieces)) == at_once


def calls_of_openai(count: int) -> bytes:
    calls = [{"index": 0, "id": f"c{n}", "function": {"name": "f"}} for n in range(count)]
    choice = {"delta": {"tool_calls": calls}, "finish_reason": "tool_calls"}
    return sse({"choices": [choice]}, {"choices": [], "usage": {}})


def calls_of_anthropic(count: int) -> bytes:
    block = {"type": "tool_use", "id": "c", "name": "f"}
    begun = [{"type": "content_block_start", "content_block": block} for _ in range(count)]
    return sse(*begun, {"type": "message_delta", "delta": {"stop_reason": "tool_use"}})


def calls_of_gemini(count: int) -> bytes:
    parts = [{"functionCall": {"name": "f"}}] * count
    return sse({"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}]})


FLOODS = {"openai": calls_of_openai, "anthropic": calls_of_anthropic, "gemini": calls_of_gemini}


@pytest.mark.parametrize(("dialect", "flood"), FLOODS.items())
def test_an_answer_of_too_many_calls_is_broken_though_it_has_a_finish(
    dialect: str, flood: Callable[[int], bytes]
) -> None:
    fits = merged(told(dialect, [flood(decoding.CALLS_MAX)]))
    assert fits["finish"] == ["tool_calls", ""]
    assert len(fits["deltas"]) == decoding.CALLS_MAX
    beyond = merged(told(dialect, [flood(decoding.CALLS_MAX + 1)]))
    assert beyond["failure"] == {"class": "protocol", "code": "too_many_calls"}
    assert beyond["finish"] is None
    assert len(beyond["deltas"]) == decoding.CALLS_MAX


@DIALECTS
def test_the_name_of_the_answering_model_is_cut(dialect: str) -> None:
    body = WHOLE[dialect].replace(b'"m"', b'"%b"' % (b"n" * 1_000))
    assert merged(told(dialect, [body]))["model"] == "n" * decoding.NAME_CHARS_MAX


@pytest.mark.parametrize(
    ("written", "nanos"),
    [
        (b"0.000001", 1_000),
        (b'"NaN"', None),
        (b'"sNaN"', None),
        (b'"Infinity"', None),
        (b"1e400", None),
        (b"-1", None),
        (b"1" * 5_000, None),
        (b"1e-400", 1),
    ],
)
def test_a_cost_is_a_number_that_can_be_or_none(written: bytes, nanos: int | None) -> None:
    assert read_cost_nanos(b'{"cost":%b}' % written) == nanos


TOOL = Tool("now", "", "{}")
KEPT = {
    "openai": b'{"reasoning_content":"mine"%b}',
    "anthropic": b'{"blocks":[{"chars":0,"calls":0,"block":{"type":"redacted_thinking",'
    b'"data":"mine"}}]%b}',
    "gemini": b'{"signed":[{"type":"text","signature":"mine","start":0,"end":1}]%b}',
}


def sent(dialect: str, state: bytes, text: str = "words") -> bytes:
    """The request of a turn that brings back a state."""
    owner = state_owner(model(dialect))
    turn = Message(Role.ASSISTANT, (Text(text), ProviderState(dialect, owner, state)))
    question = Message(Role.USER, (Text("Go"),))
    asked = Request("r-1", Task("debug"), (question, turn, question), (TOOL,))
    endpoint = Endpoint("v", "default", "https://api.example.test", "key")
    return CODECS[dialect].encode(asked, model(dialect), endpoint).body


@DIALECTS
def test_a_state_that_no_model_made_counts_as_none(dialect: str) -> None:
    assert b"mine" in sent(dialect, KEPT[dialect] % b"")
    deep = b',"x":' + b"[" * 200_000 + b"]" * 200_000
    assert b"mine" not in sent(dialect, KEPT[dialect] % deep)
    assert b"mine" not in sent(dialect, b"\xff")


@pytest.mark.parametrize("dialect", ["anthropic", "gemini"])
def test_a_state_cannot_have_a_turn_said_over_and_over(dialect: str) -> None:
    blocks = {
        "anthropic": b'{"chars":-1,"calls":-1,"block":{"type":"redacted_thinking","data":"d"}}',
        "gemini": b'{"type":"text","signature":"s","start":-1,"end":-1}',
    }
    name = {"anthropic": b"blocks", "gemini": b"signed"}[dialect]
    state = b'{"%b":[%b]}' % (name, b",".join([blocks[dialect]] * 50))
    assert sent(dialect, state, "over and over").count(b"over and") == 1


@DIALECTS
def test_an_error_is_read_with_a_mark_and_bad_bytes(dialect: str) -> None:
    error = b'{"error":{"code":"insufficient_quota","message":"caf\xe9"}}'
    headers = {"content-type": "application/json"}
    clean = error.replace(b"\xe9", b"e")
    expected = CODECS[dialect].classify(model(dialect), 429, headers, clean, 0)
    found = CODECS[dialect].classify(model(dialect), 429, headers, BOM + error, 0)
    assert found == expected
    if dialect == "openai":
        assert found.cls is FailureClass.BALANCE
