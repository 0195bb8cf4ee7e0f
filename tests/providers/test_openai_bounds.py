"""What an OpenAI codec refuses: hostile answers, and requests without a form in the dialect."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from escalade_server.core.events import ChunkArrived, ReasoningDelta, StateDelta, TextDelta
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
)
from escalade_server.engine.ports import ProviderFailure
from escalade_server.providers import decoding
from escalade_server.providers.codec import Endpoint
from escalade_server.providers.openai_chat import OpenAIChat
from escalade_server.providers.openai_decode import OpenAIDecoder
from tests.providers.candidates import candidate
from tests.providers.golden_cases import decode

CODEC = OpenAIChat()
ENDPOINT = Endpoint("openai", "default", "https://api.example.test/v1", "sk-key")


def decoder(provider: str = "openai") -> OpenAIDecoder:
    chosen = candidate(provider, "m")
    made = CODEC.decoder(chosen, 1, streamed=True, content_type="text/event-stream", now_ms=0)
    assert isinstance(made, OpenAIDecoder)
    return made


def frame(delta: object, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + msgspec.json.encode({"choices": [choice]}) + b"\n\n"


def protocol_code(events: list[ChunkArrived | Failure]) -> str:
    failure = events[-1]
    assert isinstance(failure, Failure)
    assert failure.cls is FailureClass.PROTOCOL
    return failure.code


def test_an_endless_line_ends_the_answer_and_keeps_what_came_before() -> None:
    told = decode(decoder(), [frame({"content": "a"}), *[b"x" * 65_536] * 20])
    assert told[0] == ChunkArrived(1, (TextDelta("a"),))
    assert protocol_code(told) == "line_too_long"


def test_text_and_a_broken_bound_in_one_read_are_both_told() -> None:
    told = decode(decoder(), [frame({"content": "a"}) + b"x" * (2 << 20)])
    assert told[0] == ChunkArrived(1, (TextDelta("a"),))
    assert protocol_code(told) == "line_too_long"


def test_an_endless_event_ends_the_answer() -> None:
    told = decode(decoder(), [b"data: a\n"] + [b"data: " + b"x" * 65_536 + b"\n"] * 65)
    assert protocol_code(told) == "event_too_long"


def test_an_endless_whole_body_ends_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "BODY_BYTES_MAX", 1_000)
    told = decode(decoder(), [b'{"a":"', *[b"x" * 100] * 10])
    assert protocol_code(told) == "body_too_long"


def test_blank_lines_before_an_answer_are_not_kept() -> None:
    made = decoder()
    for _ in range(1_000):
        assert made.feed(b"\n\r\n ") is None
    assert len(made._body) == 0
    assert made.feed(frame({"content": "a"})) == ChunkArrived(1, (TextDelta("a"),))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000], ids=["arrays", "objects"])
def test_deep_json_neither_recurses_nor_passes(text: str) -> None:
    assert protocol_code(decode(decoder(), [b"data: " + text.encode() + b"\n\n"])) == (
        "invalid_json"
    )
    whole = text if text.startswith("{") else '{"choices":' + text
    assert protocol_code(decode(decoder(), [whole.encode()])) == "invalid_json"


def test_reads_are_joined_into_one_chunk_of_few_deltas() -> None:
    words = b"".join(frame({"content": word}) for word in "abcdef")
    thoughts = b"".join(frame({"reasoning": word}) for word in "xyz")
    assert decoder().feed(thoughts + words) == ChunkArrived(
        1, (ReasoningDelta("xyz"), TextDelta("abcdef"))
    )


def test_a_chunk_of_nothing_is_none() -> None:
    assert decoder().feed(frame({"role": "assistant", "content": ""})) is None


def test_reasoning_too_long_to_hand_back_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "STATE_CHARS_MAX", 10)
    made = decoder("deepseek")
    for _ in range(100):
        made.feed(frame({"reasoning_content": "12345"}))
    assert len(made._reasoning) == 3
    ending = made.feed(frame({"content": "a"}, "stop"))
    assert ending is not None
    assert not any(isinstance(delta, StateDelta) for delta in ending.deltas)


@given(
    pieces=st.lists(st.binary(max_size=40) | st.sampled_from([b"data: ", b"\n\n", b"{", b"[DONE]"]))
)
def test_no_bytes_break_a_decoder(pieces: list[bytes]) -> None:
    decode(decoder(), pieces)


KEYS = [
    *("choices", "delta", "message", "content", "tool_calls", "index", "id", "error", "refusal"),
    *("function", "name", "arguments", "finish_reason", "usage", "cost", "code", "base_resp"),
    *("prompt_tokens", "completion_tokens", "model", "reasoning_content"),
]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=5,
        )
    ),
    max_leaves=15,
)


@given(values=st.lists(json_values, max_size=4), provider=st.sampled_from(["openrouter", "x"]))
def test_no_json_breaks_a_decoder(values: list[object], provider: str) -> None:
    texts = [msgspec.json.encode(value) for value in values]
    decode(decoder(provider), [b"data: " + text + b"\n\n" for text in texts])
    for text in texts:
        decode(decoder(provider), [text])


def refusal(request: Request) -> str:
    with pytest.raises(ProviderFailure) as caught:
        CODEC.encode(request, candidate("openai", "gpt-4o"), ENDPOINT)
    failure = caught.value.failure
    assert failure.cls is FailureClass.BAD_REQUEST
    assert not failure.sent
    assert "secret" not in failure.detail
    return failure.detail


def asking(role: Role, *parts: Part) -> Request:
    return Request("r", Task(), (Message(role, parts),))


IMAGE = Image("image/png", b"secret")
CALL = ToolCall("c", "secret", "{}")


@pytest.mark.parametrize(
    ("role", "part"),
    [
        (Role.SYSTEM, IMAGE),
        (Role.SYSTEM, CALL),
        (Role.USER, CALL),
        (Role.TOOL, Text("secret")),
        (Role.ASSISTANT, IMAGE),
    ],
)
def test_a_part_without_a_place_is_refused_not_dropped(role: Role, part: Part) -> None:
    assert role.value in refusal(asking(role, part))


@pytest.mark.parametrize(
    "text",
    [
        "secret",
        "{}secret",
        '{}},"model":"dear"',
        '{"a":' * 65 + "1" + "}" * 65,
        '{"a":NaN}',
    ],
)
def test_json_that_does_not_stand_alone_is_refused(text: str) -> None:
    messages = (Message(Role.USER, (Text("Hi"),)),)
    tool = Request("r", Task(), messages, tools=(Tool("t", "", text),))
    wrong = "is not JSON, nests too deeply, or holds a key twice"
    assert refusal(tool) == f"the parameters of a tool {wrong}"
    schema = ResponseFormat(FormatKind.JSON_SCHEMA, "s", text)
    wanted = Request("r", Task(), messages, response_format=schema)
    assert refusal(wanted) == f"the schema of the answer {wrong}"


def test_a_schema_goes_over_the_wire_verbatim() -> None:
    text = '{"type": "object", "x": 1.50, "y": 123456789012345678901234567890}'
    request = Request("r", Task(), (), tools=(Tool("t", "", text),))
    wire = CODEC.encode(request, candidate("openai", "gpt-4o"), ENDPOINT)
    assert text.encode() in wire.body


def test_the_key_shows_in_the_headers_only() -> None:
    request = asking(Role.USER, Text("Hi"))
    wire = CODEC.encode(request, candidate("openai", "gpt-4o"), ENDPOINT)
    assert ("authorization", "Bearer sk-key") in wire.headers
    assert "sk-key" not in repr(ENDPOINT) + repr(wire) + wire.url
    assert b"sk-key" not in wire.body
