"""Anthropic Messages on the wire."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import msgspec

from escalade_server.provider_simulator.answer import Answer, Question, ToolCall
from escalade_server.provider_simulator.anthropic_request import read_request
from escalade_server.provider_simulator.dialect import (
    Asked,
    BadRequestError,
    Envelope,
    Piece,
    Told,
    bearer_key,
    in_turns,
)
from escalade_server.provider_simulator.scenario import FaultKind
from escalade_server.provider_simulator.signatures import sign
from escalade_server.provider_simulator.vendors import Vendor

FINISH: Mapping[str, str] = MappingProxyType(
    {
        "stop": "end_turn",
        "length": "max_tokens",
        "tool_calls": "tool_use",
        "content_filter": "refusal",
        "prompt_filtered": "refusal",
        "window_exceeded": "model_context_window_exceeded",
    }
)
"""Its words for how an answer ends; other ends do not exist here and are `end_turn`."""
ERROR_WORDS: Mapping[str, str] = MappingProxyType(
    {"overloaded_error": "Overloaded", "api_error": "Internal server error"}
)
HUGE_TOKENS = 10**12
NOTHING: Mapping[str, object] = MappingProxyType({})

encode = msgspec.json.encode


class AnthropicDialect:
    """Implements `Dialect`."""

    def key(self, asked: Asked) -> str:
        """The key in `x-api-key`, else a bearer token."""
        return asked.headers.get("x-api-key", "").strip() or bearer_key(asked.headers)

    def question(self, asked: Asked, _vendor: Vendor) -> Question:
        """Reads a request; raises `BadRequestError` (also for another path)."""
        if asked.path != "messages":
            raise BadRequestError(f"Not found: /v1/{asked.path}")
        if not asked.headers.get("anthropic-version"):
            raise BadRequestError("anthropic-version: header is required")
        return read_request(asked.body)

    def whole(self, answer: Answer, envelope: Envelope) -> bytes:
        """A message."""
        if envelope.fault is FaultKind.ERROR_FRAME:
            return encode(error_of(envelope))
        message = head(answer, envelope) | {"content": blocks_of(answer, envelope)}
        if envelope.fault not in {FaultKind.NO_FINISH_REASON, FaultKind.BARE_END}:
            message |= end_of(answer, envelope)
        usage = usage_of(answer, envelope, answer.output_tokens)
        return encode(message if usage is None else message | {"usage": usage})

    def stream(self, answer: Answer, envelope: Envelope) -> Told:
        """`message_start`, blocks of pieces, `message_delta`, `message_stop`."""
        message = head(answer, envelope) | {"content": []}
        usage = usage_of(answer, envelope, min(1, answer.output_tokens))
        if usage is not None:
            message["usage"] = usage
        opening = event("message_start", {"message": message}) + event("ping")
        blocks: list[Sequence[Piece]] = []
        if answer.reasoning:
            text = "".join(answer.reasoning)
            signature = sign(envelope.question.model, text)
            start: dict[str, object] = {"type": "thinking", "thinking": "", "signature": ""}
            last = block_delta(0, {"type": "signature_delta", "signature": signature})
            blocks.append(block(0, start, "thinking", answer.reasoning, last=last))
        if answer.text:
            start = {"type": "text", "text": ""}
            blocks.append(block(len(blocks), start, "text", answer.text))
        calls = [call_block(len(blocks) + at, call) for at, call in enumerate(answer.calls)]
        pieces = [piece for told in blocks for piece in told]
        mixed = envelope.fault is FaultKind.INTERLEAVED_CALLS
        pieces += in_turns(calls) if mixed else (one for call in calls for one in call)
        return Told(opening, pieces, ending(answer, envelope))

    def broken_frame(self, _answer: Answer, envelope: Envelope) -> bytes:
        """An error event; nothing comes after it."""
        return b"event: error\ndata: " + encode(error_of(envelope)) + b"\n\n"

    def frame(self, data: bytes, _envelope: Envelope) -> bytes:
        """An event with this as its data."""
        return b"event: content_block_delta\ndata: " + data + b"\n\n"

    def error_body(self, body: bytes, _asked: Asked) -> bytes:
        """Errors look the same whatever was asked."""
        return body

    def models(self, names: Sequence[str], owner: str) -> bytes:
        """A page of models, the only one."""
        data = [
            {
                "type": "model",
                "id": name,
                "display_name": f"{name} by {owner}",
                "created_at": "2025-01-01T00:00:00Z",
            }
            for name in names
        ]
        ends = {"first_id": names[0], "last_id": names[-1]} if names else {}
        return encode({"data": data, "has_more": False} | ends)


def event(kind: str, fields: Mapping[str, object] = NOTHING) -> bytes:
    """One server-sent event: its name stands in the data as well."""
    return f"event: {kind}\ndata: ".encode() + encode({"type": kind, **fields}) + b"\n\n"


def head(answer: Answer, envelope: Envelope) -> dict[str, object]:
    """The message without content and usage, before its end is known."""
    return {
        "id": envelope.id,
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "stop_reason": None,
        "stop_sequence": None,
        "stop_details": None,
    }


def end_of(answer: Answer, envelope: Envelope) -> dict[str, object]:
    """Why the message ends."""
    reason = FINISH.get(answer.finish, "end_turn")
    details: dict[str, object] | None = None
    if answer.refusal is not None:
        reason = "refusal"
    if reason == "refusal":
        details = {
            "type": "refusal",
            "category": envelope.reason or "general_harms",
            "explanation": answer.refusal,
        }
    return {"stop_reason": reason, "stop_sequence": None, "stop_details": details}


def block_delta(index: int, delta: Mapping[str, object]) -> bytes:
    """A part of a block."""
    return event("content_block_delta", {"index": index, "delta": delta})


def block(
    index: int,
    start: Mapping[str, object],
    kind: str,
    texts: Iterable[str],
    *,
    field: str | None = None,
    size_bytes: int = 0,
    last: bytes = b"",
) -> list[Piece]:
    """The pieces of one block; its start rides on the first, its stop on the last.

    `size_bytes` is billed with the start; `last` stands before the stop.
    """
    begin = event("content_block_start", {"index": index, "content_block": start})
    pieces = [
        Piece(
            block_delta(index, {"type": f"{kind}_delta", field or kind: text}), len(text.encode())
        )
        for text in texts
    ] or [Piece(b"", 0)]
    pieces[0] = Piece(begin + pieces[0].frame, size_bytes + pieces[0].size_bytes)
    end = last + event("content_block_stop", {"index": index})
    pieces[-1] = Piece(pieces[-1].frame + end, pieces[-1].size_bytes)
    return pieces


def call_block(index: int, call: ToolCall) -> list[Piece]:
    """A tool call: its arguments come as pieces of JSON text."""
    start = {"type": "tool_use", "id": id_of(call), "name": call.name, "input": {}}
    return block(
        index,
        start,
        "input_json",
        call.arguments,
        field="partial_json",
        size_bytes=len(call.name.encode()),
    )


def id_of(call: ToolCall) -> str:
    """The call's id as Anthropic spells ids."""
    return f"toolu_{call.id}"


def input_of(call: ToolCall) -> object:
    """The arguments as an object; broken ones stand in one, as text."""
    text = "".join(call.arguments)
    try:
        return msgspec.json.decode(text, type=dict[str, object])
    except msgspec.DecodeError:
        return {"INVALID_JSON": text}


def blocks_of(answer: Answer, envelope: Envelope) -> list[dict[str, object]]:
    """The content of a message that is not streamed."""
    blocks: list[dict[str, object]] = []
    if answer.reasoning:
        text = "".join(answer.reasoning)
        signature = sign(envelope.question.model, text)
        blocks.append({"type": "thinking", "thinking": text, "signature": signature})
    if answer.text:
        blocks.append({"type": "text", "text": "".join(answer.text)})
    blocks += (
        {"type": "tool_use", "id": id_of(call), "name": call.name, "input": input_of(call)}
        for call in answer.calls
    )
    return blocks


def ending(answer: Answer, envelope: Envelope) -> bytes:
    """`message_delta` and `message_stop`, less what the fault leaves out."""
    if envelope.fault is FaultKind.BARE_END:
        return b""
    usage = usage_of(answer, envelope, answer.output_tokens)
    told = {} if usage is None else {"usage": usage}
    frames = b""
    if envelope.fault is not FaultKind.NO_FINISH_REASON:
        frames = event("message_delta", {"delta": end_of(answer, envelope), **told})
    return frames if envelope.fault is FaultKind.NO_DONE else frames + event("message_stop")


def usage_of(answer: Answer, envelope: Envelope, said: int) -> dict[str, object] | None:
    """Usage, in which cached tokens stand beside the input; as the fault has it; None: not told."""
    read, written = answer.cached_tokens, answer.cache_write_tokens
    fresh = answer.input_tokens - read - written
    match envelope.fault:
        case FaultKind.MISSING_USAGE:
            return None
        case FaultKind.ZERO_USAGE:
            fresh = read = written = said = 0
        case FaultKind.NEGATIVE_USAGE:
            fresh, read, written, said = -fresh, 0, 0, -said
        case FaultKind.HUGE_USAGE:
            fresh, said = HUGE_TOKENS, HUGE_TOKENS
        case _:
            pass
    return {
        "input_tokens": fresh,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": written,
            "ephemeral_1h_input_tokens": 0,
        },
        "output_tokens": said,
        "service_tier": "standard",
    }


def error_of(envelope: Envelope) -> dict[str, object]:
    """The error object of a stream that broke."""
    kind = envelope.reason or "overloaded_error"
    error = {"type": kind, "message": ERROR_WORDS.get(kind, kind), "details": None}
    return {"type": "error", "error": error, "request_id": f"req_{envelope.id}"}
