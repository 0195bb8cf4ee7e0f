"""What the codecs of Anthropic and Gemini refuse: hostile answers, and requests without a form."""

import base64

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from escalade_server.core.events import (
    ChunkArrived,
    ReasoningDelta,
    StateDelta,
    TextDelta,
    ToolCallDelta,
)
from escalade_server.core.failure import Failure, FailureClass
from escalade_server.core.task import (
    FormatKind,
    Image,
    Message,
    Part,
    Request,
    ResponseFormat,
    Role,
    Task,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)
from escalade_server.engine.ports import ProviderFailure
from escalade_server.providers import decoding
from escalade_server.providers.anthropic_encode import ANSWER_TOOL
from escalade_server.providers.codec import Decoder, Endpoint
from escalade_server.providers.registry import CODECS
from tests.providers.candidates import candidate
from tests.providers.golden_cases import decode

VENDORS = {"anthropic": "anthropic", "gemini": "google"}
MODELS = {"anthropic": "claude-sonnet-4-6", "gemini": "gemini-2.5-flash"}
ENDPOINT = Endpoint("v", "default", "https://api.example.test", "sk-key")
DIALECTS = pytest.mark.parametrize("dialect", VENDORS)


def decoder(dialect: str) -> Decoder:
    chosen = candidate(VENDORS[dialect], MODELS[dialect], dialect=dialect)
    return CODECS[dialect].decoder(
        chosen, 1, streamed=True, content_type="text/event-stream", now_ms=0
    )


def sse(value: object) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def said(dialect: str, text: str, *, is_thought: bool = False) -> bytes:
    """A frame with a piece of text."""
    if dialect == "gemini":
        return sse(
            {"candidates": [{"content": {"parts": [{"text": text, "thought": is_thought}]}}]}
        )
    kind = "thinking" if is_thought else "text"
    return sse({"type": "content_block_delta", "delta": {"type": f"{kind}_delta", kind: text}})


def protocol_code(events: list[ChunkArrived | Failure]) -> str:
    failure = events[-1]
    assert isinstance(failure, Failure)
    assert failure.cls is FailureClass.PROTOCOL
    return failure.code


@DIALECTS
def test_an_endless_line_ends_the_answer_and_keeps_what_came_before(dialect: str) -> None:
    told = decode(decoder(dialect), [said(dialect, "a") + b"x" * (2 << 20)])
    assert told[0] == ChunkArrived(1, (TextDelta("a"),))
    assert protocol_code(told) == "line_too_long"


@DIALECTS
def test_an_endless_event_ends_the_answer(dialect: str) -> None:
    told = decode(decoder(dialect), [b"data: a\n"] + [b"data: " + b"x" * 65_536 + b"\n"] * 65)
    assert protocol_code(told) == "event_too_long"


@DIALECTS
def test_an_endless_whole_body_ends_the_answer(
    dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "BODY_BYTES_MAX", 1_000)
    told = decode(decoder(dialect), [b'{"a":"', *[b"x" * 100] * 10])
    assert protocol_code(told) == "body_too_long"


@DIALECTS
@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000], ids=["arrays", "objects"])
def test_deep_json_neither_recurses_nor_passes(dialect: str, text: str) -> None:
    told = decode(decoder(dialect), [b"data: " + text.encode() + b"\n\n"])
    assert protocol_code(told) == "invalid_json"
    assert protocol_code(decode(decoder(dialect), [b'{"a":' + text.encode()])) == "invalid_json"


@DIALECTS
def test_reads_are_joined_into_one_chunk_of_few_deltas(dialect: str) -> None:
    thoughts = b"".join(said(dialect, word, is_thought=True) for word in "xyz")
    words = b"".join(said(dialect, word) for word in "abcdef")
    assert decoder(dialect).feed(thoughts + words) == ChunkArrived(
        1, (ReasoningDelta("xyz"), TextDelta("abcdef"))
    )


@DIALECTS
def test_a_chunk_of_nothing_is_none(dialect: str) -> None:
    assert decoder(dialect).feed(said(dialect, "")) is None


def test_thinking_too_long_to_hand_back_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "STATE_CHARS_MAX", 10)
    made = decoder("anthropic")
    made.feed(sse({"type": "content_block_start", "content_block": {"type": "thinking"}}))
    for _ in range(100):
        made.feed(said("anthropic", "12345", is_thought=True))
    signed = {"type": "signature_delta", "signature": "s"}
    made.feed(sse({"type": "content_block_delta", "delta": signed}))
    ending = made.feed(sse({"type": "message_delta", "delta": {"stop_reason": "end_turn"}}))
    assert isinstance(ending, ChunkArrived)
    assert not any(isinstance(delta, StateDelta) for delta in ending.deltas)


def test_signatures_too_long_to_hand_back_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "STATE_CHARS_MAX", 10)
    made = decoder("gemini")
    parts = [{"text": "a", "thoughtSignature": "123456"}] * 2
    told = made.feed(sse({"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}]}))
    assert told is not None
    assert told == ChunkArrived(1, (TextDelta("aa"),), told.finish)  # type: ignore[union-attr]


def test_more_calls_than_an_answer_may_hold_end_it() -> None:
    call = {"functionCall": {"name": "now"}}
    frame = sse({"candidates": [{"content": {"parts": [call] * 1_025}}]})
    told = decode(decoder("gemini"), [frame])
    assert isinstance(told[0], ChunkArrived)
    assert len(told[0].deltas) == 1_024
    assert protocol_code(told) == "too_many_calls"


def test_calls_of_two_answers_never_share_an_id() -> None:
    def given(response_id: str) -> str:
        part = {"functionCall": {"name": "now"}}
        frame = sse({"candidates": [{"content": {"parts": [part]}}], "responseId": response_id})
        told = decoder("gemini").feed(frame)
        assert isinstance(told, ChunkArrived)
        (delta,) = told.deltas
        assert isinstance(delta, ToolCallDelta)
        return delta.id

    assert given("a") == given("a")
    assert given("a") != given("b")


@DIALECTS
@given(
    pieces=st.lists(
        st.binary(max_size=40) | st.sampled_from([b"data: ", b"\n\n", b"{", b"[", b"[DONE]"])
    )
)
def test_no_bytes_break_a_decoder(dialect: str, pieces: list[bytes]) -> None:
    decode(decoder(dialect), pieces)


KEYS = [
    *("type", "index", "delta", "content_block", "message", "usage", "error", "text", "thinking"),
    *("signature", "data", "id", "name", "input", "partial_json", "stop_reason", "stop_details"),
    *("category", "input_tokens", "output_tokens", "content", "model", "candidates", "parts"),
    *("finishReason", "functionCall", "args", "thought", "thoughtSignature", "usageMetadata"),
    *("promptTokenCount", "candidatesTokenCount", "promptFeedback", "blockReason", "responseId"),
    *("details", "status", "code"),
]
WORDS = st.sampled_from(
    [
        *("message_start", "content_block_start", "content_block_delta", "content_block_stop"),
        *("message_delta", "message_stop", "error", "message", "text", "tool_use", "thinking"),
        *("redacted_thinking", "end_turn", "refusal", "STOP", "SAFETY", "UNEXPECTED_TOOL_CALL"),
    ]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | WORDS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6)
    ),
    max_leaves=20,
)


@DIALECTS
@given(values=st.lists(json_values, max_size=4))
def test_no_json_breaks_a_decoder(dialect: str, values: list[object]) -> None:
    texts = [msgspec.json.encode(value) for value in values]
    decode(decoder(dialect), [b"data: " + text + b"\n\n" for text in texts])
    for text in texts:
        decode(decoder(dialect), [text])


def refusal(dialect: str, request: Request) -> str:
    chosen = candidate(VENDORS[dialect], MODELS[dialect])
    with pytest.raises(ProviderFailure) as caught:
        CODECS[dialect].encode(request, chosen, ENDPOINT)
    failure = caught.value.failure
    assert failure.cls is FailureClass.BAD_REQUEST
    assert not failure.sent
    assert "secret" not in failure.detail
    return failure.detail


def asking(role: Role, *parts: Part) -> Request:
    return Request("r", Task(), (Message(role, parts),))


IMAGE = Image("image/png", b"secret")
CALL = ToolCall("c", "secret", "{}")
RESULT = ToolResult("c", "secret")


@DIALECTS
@pytest.mark.parametrize(
    ("role", "part"),
    [
        (Role.SYSTEM, IMAGE),
        (Role.SYSTEM, CALL),
        (Role.SYSTEM, RESULT),
        (Role.USER, CALL),
        (Role.TOOL, Text("secret")),
        (Role.TOOL, IMAGE),
        (Role.ASSISTANT, IMAGE),
        (Role.ASSISTANT, RESULT),
    ],
)
def test_a_part_without_a_place_is_refused_not_dropped(
    dialect: str, role: Role, part: Part
) -> None:
    assert role.value in refusal(dialect, asking(role, part))


def test_a_result_of_no_call_has_no_name_to_go_by() -> None:
    detail = refusal("gemini", asking(Role.TOOL, RESULT))
    assert detail == "a tool result answers no call of the conversation"


def test_a_tool_by_the_name_of_ours_is_refused() -> None:
    request = Request("r", Task(), (), tools=(Tool(ANSWER_TOOL, "secret", ""),))
    assert "is taken" in refusal("anthropic", request)


@DIALECTS
@pytest.mark.parametrize("text", ["secret", "{}secret", '{}},"model":"dear"', '{"a":NaN}'])
def test_json_that_does_not_stand_alone_is_refused(dialect: str, text: str) -> None:
    messages = (Message(Role.USER, (Text("Hi"),)),)
    tool = Request("r", Task(), messages, tools=(Tool("t", "", text),))
    assert refusal(dialect, tool).startswith("the parameters of a tool is not JSON")
    for tools in ((), (Tool("t", "", ""),)):
        schema = ResponseFormat(FormatKind.JSON_SCHEMA, "s", text)
        wanted = Request("r", Task(), messages, tools=tools, response_format=schema)
        assert refusal(dialect, wanted).startswith("the schema of the answer is not JSON")


@DIALECTS
def test_schemas_go_over_the_wire_verbatim(dialect: str) -> None:
    text = '{"type": "object", "additionalProperties": false, "y": 123456789012345678901234567890}'
    wanted = ResponseFormat(FormatKind.JSON_SCHEMA, "s", text)
    tool = Request("r", Task(), (), tools=(Tool("t", "", text),))
    for request in (tool, Request("r", Task(), (), response_format=wanted)):
        wire = CODECS[dialect].encode(request, candidate("v", MODELS[dialect]), ENDPOINT)
        assert text.encode() in wire.body


@DIALECTS
def test_the_key_shows_in_one_header_only(dialect: str) -> None:
    wire = CODECS[dialect].encode(
        asking(Role.USER, Text("Hi")), candidate("v", MODELS[dialect]), ENDPOINT
    )
    assert [value for _, value in wire.headers if "sk-key" in value] == ["sk-key"]
    assert "sk-key" not in repr(wire) + wire.url
    assert b"sk-key" not in wire.body


@DIALECTS
def test_an_image_goes_inline(dialect: str) -> None:
    request = asking(Role.USER, Image("image/png", b"\x89PNG"))
    wire = CODECS[dialect].encode(request, candidate("v", MODELS[dialect]), ENDPOINT)
    assert base64.b64encode(b"\x89PNG") in wire.body
