"""OpenAI chat completions on the wire, with the habits of the vendors that speak it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import msgspec

from escalade_server.provider_simulator.answer import Answer, Question, ToolCall
from escalade_server.provider_simulator.dialect import (
    Asked,
    BadRequestError,
    Envelope,
    Piece,
    Told,
    bearer_key,
    in_turns,
)
from escalade_server.provider_simulator.openai_request import read_request
from escalade_server.provider_simulator.scenario import FaultKind
from escalade_server.provider_simulator.vendors import Vendor

DONE = b"data: [DONE]\n\n"
NO_CHOICES = b"[]"
PICO_PER_DOLLAR_DIGITS = 12
HUGE_TOKENS = 10**12
UNFINISHED = frozenset({FaultKind.NO_FINISH_REASON, FaultKind.BARE_END})
ENDS = frozenset({"stop", "length", "tool_calls"})
FINISH: Mapping[str, str] = MappingProxyType(
    {
        "prompt_filtered": "content_filter",
        "account_limited": "content_filter",
        "malformed_call": "stop",
        "window_exceeded": "length",
    }
)
"""Its nearest words for what only other vendors have."""

encode = msgspec.json.encode


class OpenAIDialect:
    """Implements `Dialect`."""

    def key(self, asked: Asked) -> str:
        """The bearer token."""
        return bearer_key(asked.headers)

    def question(self, asked: Asked, vendor: Vendor) -> Question:
        """Reads a request; raises `BadRequestError` (also for another path)."""
        if asked.path != "chat/completions":
            raise BadRequestError(f"Invalid URL (POST /v1/{asked.path})")
        return read_request(asked.body, vendor)

    def whole(self, answer: Answer, envelope: Envelope) -> bytes:
        """A `chat.completion` object."""
        message: dict[str, object] = {
            "role": "assistant",
            "content": "".join(answer.text) if answer.text else None,
            "refusal": answer.refusal,
        }
        if not answer.text and not answer.calls and answer.refusal is None:
            message["content"] = ""
        if answer.reasoning:
            message[envelope.vendor.reasoning_field] = "".join(answer.reasoning)
        if answer.calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": "".join(call.arguments)},
                }
                for call in answer.calls
            ]
        choice: dict[str, object] = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": None if envelope.fault in UNFINISHED else finish_of(answer, envelope),
        }
        if envelope.fault is FaultKind.ERROR_FRAME:
            choice |= {
                "finish_reason": "error",
                "error": upstream_error(envelope.vendor.broken_code or 502),
            }
        body = head(answer, envelope, "chat.completion") | {"choices": [choice]}
        usage = usage_of(answer, envelope)
        if usage is not None:
            body["usage"] = usage
        if envelope.vendor.base_resp:
            body["base_resp"] = {"status_code": 0, "status_msg": ""}
        return encode(body)

    def stream(self, answer: Answer, envelope: Envelope) -> Told:
        """`chat.completion.chunk` frames: role, pieces, finish, usage, `[DONE]`."""
        before, after = frame_edges(answer, envelope)
        role: dict[str, object] = {"role": "assistant", "content": ""}
        opening = frame(before, choices(role), after)

        def piece(delta: dict[str, object], size: int) -> Piece:
            return Piece(frame(before, choices(delta), after), size)

        pieces = [piece(*told) for told in deltas(answer, envelope.vendor)]
        mixed = envelope.fault is FaultKind.INTERLEAVED_CALLS
        # Mixed calls leave gaps between their indexes as well (U27).
        calls = [
            [piece(*told) for told in call_deltas(place * (2 if mixed else 1), call)]
            for place, call in enumerate(answer.calls)
        ]
        pieces += in_turns(calls) if mixed else (one for call in calls for one in call)
        return Told(opening, pieces, ending(answer, envelope, before, after))

    def broken_frame(self, answer: Answer, envelope: Envelope) -> bytes:
        """An error frame and, as most vendors do, `[DONE]` after it."""
        if envelope.vendor.broken_code is None:
            return b"data: " + encode({"error": server_error()}) + b"\n\n" + DONE
        body = head(answer, envelope, "chat.completion.chunk") | {
            "error": upstream_error(envelope.vendor.broken_code),
            "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}],
        }
        return b"data: " + encode(body) + b"\n\n" + DONE

    def frame(self, data: bytes, _envelope: Envelope) -> bytes:
        """A frame with this as its data."""
        return b"data: " + data + b"\n\n"

    def error_body(self, body: bytes, _asked: Asked) -> bytes:
        """Errors look the same whatever was asked."""
        return body

    def models(self, names: Sequence[str], owner: str) -> bytes:
        """A list of model objects."""
        data = [
            {"id": name, "object": "model", "created": 1_735_689_600, "owned_by": owner}
            for name in names
        ]
        return encode({"object": "list", "data": data})


def head(answer: Answer, envelope: Envelope, kind: str) -> dict[str, object]:
    """The fields every object begins with."""
    return {
        "id": envelope.id,
        "object": kind,
        "created": envelope.created_s,
        "model": answer.model,
        "system_fingerprint": "fp_simulated",
    }


def frame_edges(answer: Answer, envelope: Envelope) -> tuple[bytes, bytes]:
    """What is around the choices of every chunk: encoded once a stream, not once a chunk."""
    edge = encode(head(answer, envelope, "chat.completion.chunk"))
    after = b',"usage":null}\n\n' if envelope.usage_asked else b"}\n\n"
    return b"data: " + edge[:-1] + b',"choices":', after


def frame(before: bytes, choices: bytes, after: bytes) -> bytes:
    """One SSE frame."""
    return before + choices + after


def choices(delta: dict[str, object], finish: str | None = None) -> bytes:
    """The choices of a chunk."""
    return encode([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}])


def deltas(answer: Answer, vendor: Vendor) -> Iterator[tuple[dict[str, object], int]]:
    """The deltas of an answer before its calls, and the bytes billed for each."""
    for text in answer.reasoning:
        yield {vendor.reasoning_field: text}, len(text.encode())
    for text in answer.text:
        yield {"content": text}, len(text.encode())
    if answer.refusal is not None:
        yield {"refusal": answer.refusal}, len(answer.refusal.encode())


def call_deltas(index: int, call: ToolCall) -> Iterator[tuple[dict[str, object], int]]:
    """Id and name come once, at first; then the arguments in pieces."""
    first = {
        "index": index,
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": ""},
    }
    yield {"tool_calls": [first]}, len(call.name.encode())
    for text in call.arguments:
        part = {"index": index, "function": {"arguments": text}}
        yield {"tool_calls": [part]}, len(text.encode())


def ending(answer: Answer, envelope: Envelope, before: bytes, after: bytes) -> bytes:
    """Finish reason, usage and `[DONE]`, less what the fault leaves out."""
    if envelope.fault is FaultKind.BARE_END:
        return b""
    vendor = envelope.vendor
    usage = usage_of(answer, envelope)
    told = usage is not None and (envelope.usage_asked or vendor.usage_unasked)
    with_usage = b',"usage":' + encode(usage) + b"}\n\n"
    frames = b""
    if envelope.fault is not FaultKind.NO_FINISH_REASON:
        rides = told and vendor.usage_in_last_choice
        last = choices({}, finish_of(answer, envelope))
        frames = frame(before, last, with_usage if rides else after)
        told = told and not rides
    if told:
        frames += frame(before, NO_CHOICES, with_usage)
    return frames if envelope.fault is FaultKind.NO_DONE else frames + DONE


def finish_of(answer: Answer, envelope: Envelope) -> str:
    """The vendor's word for how the answer ended."""
    if answer.finish in ENDS:
        return answer.finish
    return envelope.reason or FINISH.get(answer.finish, answer.finish)


def usage_of(answer: Answer, envelope: Envelope) -> dict[str, object] | None:
    """Usage as the vendor tells it, or as the fault has it; None: not told."""
    asked, cached = answer.input_tokens, answer.cached_tokens
    said, thought = answer.output_tokens, answer.reasoning_tokens
    match envelope.fault:
        case FaultKind.MISSING_USAGE:
            return None
        case FaultKind.ZERO_USAGE:
            asked = cached = said = thought = 0
        case FaultKind.NEGATIVE_USAGE:
            asked, cached, said, thought = -asked, 0, -said, 0
        case FaultKind.HUGE_USAGE:
            asked, said = HUGE_TOKENS, HUGE_TOKENS
        case _:
            pass
    usage: dict[str, object] = {
        "prompt_tokens": asked,
        "completion_tokens": said,
        "total_tokens": asked + said,
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": thought, "audio_tokens": 0},
    }
    if envelope.vendor.cache_hit_fields:
        usage["prompt_cache_hit_tokens"] = cached
        usage["prompt_cache_miss_tokens"] = asked - cached
    if envelope.vendor.cost_in_usage:
        usage["cost"] = msgspec.Raw(dollars(envelope.cost_pico))
    return usage


def dollars(pico: int) -> bytes:
    """Pico-dollars as an exact decimal number of dollars."""
    digits = f"{pico:013d}"
    whole, part = digits[:-PICO_PER_DOLLAR_DIGITS], digits[-PICO_PER_DOLLAR_DIGITS:]
    return f"{whole}.{part.rstrip('0') or '0'}".encode()


def server_error() -> dict[str, object]:
    """OpenAI's error object in the middle of a stream."""
    message = "The server had an error while processing your request. Sorry about that!"
    return {"message": message, "type": "server_error", "param": None, "code": "server_error"}


def upstream_error(code: int | str) -> dict[str, object]:
    """The error object of a vendor that resells others' models."""
    return {
        "status": 502,
        "code": code,
        "message": "Provider disconnected unexpectedly",
        "metadata": {"error_type": "provider_unavailable"},
    }
