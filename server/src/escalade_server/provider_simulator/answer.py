"""What a simulated model is asked and what it answers, in no vendor's dialect.

Tokens are counted by one rule everywhere: 4 bytes of UTF-8 are a token, rounded up once over the
whole input and once over the whole output (reasoning, text, names and arguments of tool calls);
an image is 85 tokens.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import msgspec

from escalade_server.provider_simulator.json_instance import instance_of
from escalade_server.provider_simulator.scenario import Fault, FaultKind, ModelScript

BYTES_PER_TOKEN = 4
IMAGE_TOKENS = 85
DEFAULT_WORDS = 12
ARGUMENT_PIECE_CHARS = 6

REFUSAL_TEXT = "I'm sorry, I can't assist with that request."


def tokens_of(size_bytes: int) -> int:
    """Tokens of so many bytes."""
    return -(-size_bytes // BYTES_PER_TOKEN)


@dataclass(frozen=True, slots=True)
class ToolOffer:
    """A tool the caller offers."""

    name: str
    parameters: object
    """JSON schema of its arguments."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A valid request."""

    model: str
    stream: bool
    usage_asked: bool
    input_tokens: int
    digest: str
    """Of all texts in the request: tells requests apart in default answers."""
    last_text: str
    output_tokens_max: int | None = None
    tools: tuple[ToolOffer, ...] = ()
    tool_choice: str = "auto"
    """`auto`, `none`, `required` or a tool's name."""
    after_tools: bool = False
    """The last message is a tool's result."""
    as_json: bool = False
    schema: object = None
    thinks: bool = True
    """Whether the model reasons, if its script has it do so."""
    thoughts_told: bool = True
    """Whether reasoning is shown; it is billed all the same."""
    as_array: bool = False
    """A stream is told as one JSON array, not as server-sent events (Gemini)."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call, its arguments split for streaming."""

    id: str
    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole answer; how much of it a client sees is up to the delivery."""

    model: str
    """As the vendor says, which need not be the one asked (U30)."""
    reasoning: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    refusal: str | None = None
    finish: str = "stop"
    input_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0

    @property
    def reasoning_tokens(self) -> int:
        """Part of the output tokens."""
        return tokens_of(size_of(self.reasoning))

    @property
    def output_tokens(self) -> int:
        """With reasoning."""
        calls = sum(len(c.name.encode()) + size_of(c.arguments) for c in self.calls)
        refusal = len((self.refusal or "").encode())
        return tokens_of(size_of(self.reasoning) + size_of(self.text) + calls + refusal)


def size_of(pieces: Iterable[str]) -> int:
    """Bytes of all pieces."""
    return sum(len(piece.encode()) for piece in pieces)


def digest_of(texts: Iterable[str]) -> str:
    """Four hex digits that differ between most requests."""
    crc = 0
    for text in texts:
        crc = zlib.crc32(text.encode(), crc)
    return f"{crc & 0xFFFF:04x}"


def default_text(model: str, digest: str, words: int) -> str:
    """Words that each name the model, the request and their place: a splice shows at once."""
    return " ".join(f"{model}:{digest}:{place}" for place in range(words))


def compose(question: Question, script: ModelScript, fault: Fault | None, number: int) -> Answer:
    """The answer of `script` to its `number`-th request, before any of it is sent."""
    cached_tokens = question.input_tokens * script.cached_input_percent // 100
    answer = Answer(
        model=question.model,
        input_tokens=question.input_tokens,
        cached_tokens=cached_tokens,
        cache_write_tokens=(question.input_tokens - cached_tokens)
        * script.cache_write_percent
        // 100,
        reasoning=split(script.reasoning, script.chunks) if question.thinks else (),
    )
    calls = calls_of(question, script, number)
    if calls:
        answer = replace(answer, calls=calls, finish="tool_calls")
    else:
        answer = replace(answer, text=text_of(question, script))
    return limited(told_by(answer, fault), question.output_tokens_max)


def told_by(answer: Answer, fault: Fault | None) -> Answer:
    """What a fault of the model (not of the line) makes of its answer."""
    if fault is None:
        return answer
    match fault.kind:
        case FaultKind.CONTENT_FILTER:
            text = answer.text[: fault.after_chunks]
            return replace(answer, text=text, calls=(), finish="content_filter")
        case FaultKind.CUT_SHORT:
            text = answer.text[: fault.after_chunks]
            return replace(answer, text=text, calls=(), finish="insufficient_system_resource")
        case FaultKind.REFUSAL:
            return replace(answer, text=(), calls=(), refusal=REFUSAL_TEXT, finish="stop")
        case FaultKind.PROMPT_FILTERED:
            return replace(answer, reasoning=(), text=(), calls=(), finish="prompt_filtered")
        case FaultKind.MALFORMED_CALL | FaultKind.ACCOUNT_LIMITED:
            return replace(answer, text=(), calls=(), finish=fault.kind.value)
        case FaultKind.WINDOW_EXCEEDED:
            text = answer.text[: fault.after_chunks]
            return replace(answer, text=text, calls=(), finish=fault.kind.value)
        case FaultKind.OTHER_MODEL:
            return replace(answer, model=f"{answer.model}-other")
        case _:
            return answer


def text_of(question: Question, script: ModelScript) -> tuple[str, ...]:
    """Pieces of the text: JSON if asked for, else scripted, else the default words."""
    if question.as_json and script.obeys_format:
        value = instance_of(question.schema, question.model)
        return sliced(msgspec.json.encode(value).decode(), ARGUMENT_PIECE_CHARS)
    text = script.text
    for needle, reply in script.replies.items():
        if needle in question.last_text:
            text = reply
            break
    if text is None:
        text = default_text(question.model, question.digest, script.chunks or DEFAULT_WORDS)
    return split(text, script.chunks)


def calls_of(question: Question, script: ModelScript, number: int) -> tuple[ToolCall, ...]:
    """Tool calls, when tools are offered and script or caller want them.

    A result of a tool is answered with text, so that an agent's loop ends.
    """
    if not question.tools or question.tool_choice == "none":
        return ()
    forced = question.tool_choice != "auto"
    if question.after_tools and not forced:
        return ()
    offered = {tool.name: tool for tool in question.tools}
    wanted = [call for call in script.tool_calls if call.name in offered]
    if question.tool_choice in offered:
        wanted = [call for call in wanted if call.name == question.tool_choice]
    made = [(call.name, call.arguments) for call in wanted]
    if not made and (forced or script.calls_first_tool):
        tool = offered.get(question.tool_choice, question.tools[0])
        value = instance_of(tool.parameters, question.model)
        made = [(tool.name, msgspec.json.encode(value).decode())]
    return tuple(
        ToolCall(f"call_{number}_{place}", name, sliced(arguments, ARGUMENT_PIECE_CHARS))
        for place, (name, arguments) in enumerate(made)
    )


def limited(answer: Answer, tokens_max: int | None) -> Answer:
    """The answer cut at the caller's output limit, with finish `length`; reasoning counts too."""
    if tokens_max is None or answer.output_tokens <= tokens_max:
        return answer
    room = tokens_max * BYTES_PER_TOKEN
    reasoning, room = fitting(answer.reasoning, room)
    text, room = fitting(answer.text, room)
    calls: list[ToolCall] = []
    for call in answer.calls:
        room -= len(call.name.encode())
        if room < 0:
            break
        arguments, room = fitting(call.arguments, room)
        calls.append(replace(call, arguments=arguments))
    cut = replace(answer, reasoning=reasoning, text=text, calls=tuple(calls), finish="length")
    return replace(cut, refusal=None)


def fitting(pieces: Sequence[str], room_bytes: int) -> tuple[tuple[str, ...], int]:
    """The pieces that fit into `room_bytes`, the last one shortened, and the room left."""
    kept: list[str] = []
    for piece in pieces:
        encoded = piece.encode()
        if len(encoded) > room_bytes:
            short = encoded[:room_bytes].decode(errors="ignore")
            return (*kept, short) if short else tuple(kept), 0
        kept.append(piece)
        room_bytes -= len(encoded)
    return tuple(kept), room_bytes


def split(text: str, pieces: int | None) -> tuple[str, ...]:
    """Text as one piece a word (spaces stay with the word before), or about evenly as `pieces`."""
    words = [f"{word} " for word in text.split(" ")]
    words[-1] = words[-1][:-1]  # no space stands after the last word
    if not words[-1]:
        words.pop()
    if pieces is None or pieces >= len(words):
        return tuple(words)
    edges = [len(words) * place // pieces for place in range(pieces + 1)]
    return tuple("".join(words[start:end]) for start, end in itertools.pairwise(edges))


def sliced(text: str, chars: int) -> tuple[str, ...]:
    """Text in slices of `chars` characters, wherever they fall: also inside escapes (U27)."""
    return tuple(text[start : start + chars] for start in range(0, len(text), chars))
