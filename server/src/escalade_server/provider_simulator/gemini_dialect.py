"""Gemini's generateContent and streamGenerateContent on the wire."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

import msgspec

from escalade_server.provider_simulator.answer import Answer, Question, ToolCall, size_of, tokens_of
from escalade_server.provider_simulator.dialect import (
    SSE_TYPE,
    Asked,
    BadRequestError,
    Envelope,
    Piece,
    Told,
)
from escalade_server.provider_simulator.gemini_request import (
    SIGNED_FROM,
    FunctionCall,
    read_request,
    signed_of,
)
from escalade_server.provider_simulator.refusals import JSON_TYPE
from escalade_server.provider_simulator.scenario import FaultKind
from escalade_server.provider_simulator.signatures import sign
from escalade_server.provider_simulator.vendors import Vendor

FINISH: Mapping[str, str] = MappingProxyType(
    {"stop": "STOP", "tool_calls": "STOP", "length": "MAX_TOKENS", "window_exceeded": "MAX_TOKENS"}
)
WITHHELD: Mapping[str, str] = MappingProxyType(
    {
        "content_filter": "SAFETY",
        "malformed_call": "MALFORMED_FUNCTION_CALL",
        "account_limited": "PUP_LIMITED_DISABLED",
    }
)
"""Its most usual words for ends that a fault may name otherwise."""
BROKEN: Mapping[str, tuple[int, str]] = MappingProxyType(
    {
        "UNAVAILABLE": (503, "The model is overloaded. Please try again later."),
        "INTERNAL": (500, "An internal error has occurred."),
        "RESOURCE_EXHAUSTED": (429, "Resource has been exhausted (e.g. check quota)."),
        "DEADLINE_EXCEEDED": (504, "Deadline expired before operation could complete."),
    }
)
HUGE_TOKENS = 10**12
NEXT = b",\r\n"

encode = msgspec.json.encode


class GeminiDialect:
    """Implements `Dialect`."""

    def key(self, asked: Asked) -> str:
        """The key in `x-goog-api-key`, else in the query."""
        return asked.headers.get("x-goog-api-key", "").strip() or asked.query.get("key", "")

    def question(self, asked: Asked, _vendor: Vendor) -> Question:
        """Reads a request; raises `BadRequestError` (also for another method)."""
        model, _, method = asked.path.removeprefix("models/").rpartition(":")
        if method not in {"generateContent", "streamGenerateContent"}:
            raise BadRequestError(f"Unknown method {method} of {asked.path}")
        stream = method == "streamGenerateContent"
        return read_request(asked.body, model, stream=stream, as_array=is_array(asked))

    def whole(self, answer: Answer, envelope: Envelope) -> bytes:
        """A response with all its parts."""
        if envelope.fault is FaultKind.ERROR_FRAME:
            return encode(error_of(envelope))
        found = [part for part, _ in parts_of(answer, envelope)]
        texts = [part for part in found if "functionCall" not in part]
        calls = [part for part in found if "functionCall" in part]
        end = end_parts(answer, envelope)
        parts = joined([*texts, *end]) + calls
        finish = envelope.fault not in {FaultKind.NO_FINISH_REASON, FaultKind.BARE_END}
        return encode(chunk(answer, envelope, parts, answer.output_tokens, finish=finish))

    def stream(self, answer: Answer, envelope: Envelope) -> Told:
        """Chunks that are responses of their own; the last has the finish reason."""
        told = list(parts_of(answer, envelope))
        pieces: list[Piece] = []
        so_far = 0
        for part, size in told:
            so_far += size
            said = tokens_of(so_far)
            body = chunk(answer, envelope, [part], said, finish=False)
            pieces.append(Piece(self.framed(body, envelope, first=not pieces), size))
        ending = b""
        if envelope.fault is not FaultKind.BARE_END:
            finish = envelope.fault is not FaultKind.NO_FINISH_REASON
            parts = end_parts(answer, envelope) or [{"text": ""}]
            body = chunk(answer, envelope, parts, answer.output_tokens, finish=finish)
            ending = self.framed(body, envelope, first=not pieces)
        if envelope.question.as_array:
            closing = b"" if envelope.fault is FaultKind.BARE_END else b"]"
            return Told(b"[", pieces, ending + closing, JSON_TYPE)
        return Told(b"", pieces, ending, SSE_TYPE)

    def framed(self, body: Mapping[str, object], envelope: Envelope, *, first: bool) -> bytes:
        """A chunk as an event, or as an item of an array."""
        if envelope.question.as_array:
            return (b"" if first else NEXT) + encode(body)
        return self.frame(encode(body), envelope)

    def broken_frame(self, _answer: Answer, envelope: Envelope) -> bytes:
        """A chunk that is an error."""
        closing = b"]" if envelope.question.as_array else b""
        return self.frame(encode(error_of(envelope)), envelope) + closing

    def frame(self, data: bytes, envelope: Envelope) -> bytes:
        """An event with this as its data, or an item of the array."""
        return NEXT + data if envelope.question.as_array else b"data: " + data + b"\r\n\r\n"

    def error_body(self, body: bytes, asked: Asked) -> bytes:
        """An error to who asked for an array is an array."""
        return b"[" + body + b"]" if is_array(asked) and not body.startswith(b"[") else body

    def models(self, names: Sequence[str], owner: str) -> bytes:
        """A list of models."""
        methods = ["generateContent", "streamGenerateContent"]
        data = [
            {
                "name": f"models/{name}",
                "displayName": f"{name} by {owner}",
                "supportedGenerationMethods": methods,
            }
            for name in names
        ]
        return encode({"models": data})


def is_array(asked: Asked) -> bool:
    """Whether a stream is to be one JSON array."""
    return asked.path.endswith(":streamGenerateContent") and asked.query.get("alt") != "sse"


def joined(parts: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """Parts of the same kind in a row as one, as a whole answer has them."""
    found: list[dict[str, object]] = []
    for part in parts:
        last = found[-1] if found else None
        if last is not None and last.get("thought") == part.get("thought"):
            found[-1] = last | part | {"text": f"{last['text']}{part['text']}"}
        else:
            found.append(part)
    return found


def parts_of(answer: Answer, envelope: Envelope) -> Iterator[tuple[dict[str, object], int]]:
    """The parts of an answer and the bytes billed for each; hidden thoughts go with the first."""
    hidden = 0
    for text in answer.reasoning:
        if envelope.question.thoughts_told:
            yield {"text": text, "thought": True}, len(text.encode())
        else:
            hidden += len(text.encode())
    for text in answer.text:
        yield {"text": text}, len(text.encode()) + hidden
        hidden = 0
    for place, call in enumerate(answer.calls):
        args = args_of(call)
        if args is None:
            continue
        made = FunctionCall(name=call.name, args=args)
        told: dict[str, object] = {"name": call.name, "args": args}
        if answer.model.startswith(SIGNED_FROM):
            told["id"] = call.id
        part: dict[str, object] = {"functionCall": told}
        if place == 0 and thinks(answer):
            part["thoughtSignature"] = sign(envelope.question.model, signed_of(made))
        yield part, len(call.name.encode()) + size_of(call.arguments) + hidden
        hidden = 0


def thinks(answer: Answer) -> bool:
    """Whether the answer comes with a signature."""
    return bool(answer.reasoning) or answer.model.startswith(SIGNED_FROM)


def args_of(call: ToolCall) -> dict[str, object] | None:
    """The arguments as an object; None when they are none: such a call cannot be told here."""
    try:
        return msgspec.json.decode("".join(call.arguments), type=dict[str, object])
    except msgspec.DecodeError:
        return None


def end_parts(answer: Answer, envelope: Envelope) -> list[dict[str, object]]:
    """The last part of an answer in text: its signature."""
    if not answer.text or not thinks(answer):
        return []
    return [{"text": "", "thoughtSignature": sign(envelope.question.model, "")}]


def chunk(
    answer: Answer,
    envelope: Envelope,
    parts: Sequence[Mapping[str, object]],
    said: int,
    *,
    finish: bool,
) -> dict[str, object]:
    """A response with these parts, after so many tokens of output."""
    body: dict[str, object] = {}
    if answer.finish == "prompt_filtered":
        body["promptFeedback"] = {"blockReason": envelope.reason or "SAFETY"}
        said = 0
    else:
        candidate: dict[str, object] = {"index": 0}
        if parts:
            candidate["content"] = {"parts": parts, "role": "model"}
        if finish:
            candidate |= end_of(answer, envelope)
        body["candidates"] = [candidate]
    usage = usage_of(answer, envelope, said)
    if usage is not None:
        body["usageMetadata"] = usage
    return body | {"modelVersion": answer.model, "responseId": envelope.id}


def end_of(answer: Answer, envelope: Envelope) -> dict[str, object]:
    """Why the answer ends."""
    broken = next((call for call in answer.calls if args_of(call) is None), None)
    if broken is not None and answer.finish == "tool_calls":
        text = f"Malformed function call: {broken.name}({''.join(broken.arguments)})"
        return {"finishReason": "MALFORMED_FUNCTION_CALL", "finishMessage": text}
    if answer.refusal is not None:
        return {"finishReason": "PROHIBITED_CONTENT"}
    if answer.finish in FINISH:
        return {"finishReason": FINISH[answer.finish]}
    return {"finishReason": envelope.reason or WITHHELD.get(answer.finish, "OTHER")}


def usage_of(answer: Answer, envelope: Envelope, said: int) -> dict[str, object] | None:
    """Usage, in which thoughts stand beside the answer; as the fault has it; None: not told."""
    asked, cached = answer.input_tokens, answer.cached_tokens
    thought = min(answer.reasoning_tokens, said)
    shown = said - thought
    match envelope.fault:
        case FaultKind.MISSING_USAGE:
            return None
        case FaultKind.ZERO_USAGE:
            asked = cached = thought = shown = 0
        case FaultKind.NEGATIVE_USAGE:
            asked, cached, thought, shown = -asked, 0, 0, -said
        case FaultKind.HUGE_USAGE:
            asked, shown = HUGE_TOKENS, HUGE_TOKENS
        case _:
            pass
    usage: dict[str, object] = {
        "promptTokenCount": asked,
        "candidatesTokenCount": shown,
        "totalTokenCount": asked + shown + thought,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": asked}],
    }
    if cached:
        usage["cachedContentTokenCount"] = cached
    if thought:
        usage["thoughtsTokenCount"] = thought
    return usage


def error_of(envelope: Envelope) -> dict[str, object]:
    """The error object of a stream that broke."""
    status = envelope.reason or "UNAVAILABLE"
    code, message = BROKEN.get(status, (500, status))
    return {"error": {"code": code, "message": message, "status": status}}
