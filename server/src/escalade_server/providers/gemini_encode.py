"""A request as Gemini contents: what goes over the wire, and what stays behind.

System messages move to the top. Calls and results are matched by name there, so the name of a
result is looked up by its id. Signatures of thoughts go back to their own model, each on the part
that it came with.
"""

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from escalade_server.core.commands import Candidate
from escalade_server.core.task import (
    Effort,
    FormatKind,
    Image,
    Message,
    Part,
    Request,
    Role,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolMode,
    ToolResult,
)
from escalade_server.providers.encoding import (
    Json,
    Place,
    call_id,
    check_places,
    joined_text,
    json_object,
    own_state,
    raw_json,
    refuse,
    state_owner,
    told_form,
)
from escalade_server.providers.gemini_quirks import Quirks, quirks_of

DIALECT: Final = "gemini"

_CALL_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
# The vendor's word for a call that another vendor's model made (docs: thought signatures).
_UNSIGNED: Final = "skip_thought_signature_validator"


class SignedText(msgspec.Struct, tag="text"):
    """A signature on the text from one character to another, which may be none."""

    signature: str
    start: Place
    end: Place


class SignedCall(msgspec.Struct, tag="call"):
    """A signature on the call of that number."""

    signature: str
    call: int


class KeptState(msgspec.Struct):
    """What of its own a model wants back; a caller returns it, so only this is read of it."""

    signed: list[SignedText | SignedCall]


_STATE: Final = msgspec.json.Decoder(KeptState)


@dataclass(frozen=True, slots=True)
class _Content:
    role: str
    parts: list[Json]
    is_results: bool = False


def body(request: Request, candidate: Candidate) -> bytes:
    """Encode the body of a streamed call; the output bound is always in it (R13).

    Raises:
        ProviderFailure: BAD_REQUEST, not sent: the request has no form in this dialect.
    """
    quirks = quirks_of(candidate.model.wire_id)
    contents = _contents(request.messages, quirks, state_owner(candidate))
    config = _sampling(request) | {"maxOutputTokens": candidate.output_tokens_max}
    is_told = _is_told(request, quirks)
    if not is_told:
        config |= _format(request)
    thinking = _thinking(request.effort, candidate, quirks)
    if thinking:
        config["thinkingConfig"] = thinking
    fields: Json = {
        "contents": [{"role": content.role, "parts": content.parts} for content in contents],
        "generationConfig": config,
    }
    system = list(_system(request, is_told=is_told))
    if system:
        fields["systemInstruction"] = {"parts": system}
    if request.tools:
        fields["tools"] = [{"functionDeclarations": [_tool(tool) for tool in request.tools]}]
        choice = _tool_choice(request.tool_choice)
        if choice is not None:
            fields["toolConfig"] = {"functionCallingConfig": choice}
    return msgspec.json.encode(fields)


def _is_told(request: Request, quirks: Quirks) -> bool:
    """Whether a form of answer has to be asked for in words."""
    is_formed = request.response_format.kind is not FormatKind.TEXT
    return is_formed and bool(request.tools) and not quirks.tools_with_form


def _system(request: Request, *, is_told: bool) -> Iterator[Json]:
    for message in request.messages:
        if message.role is Role.SYSTEM:
            check_places(message)
            yield from (_text(part.text) for part in message.parts if isinstance(part, Text))
    if is_told:
        yield _text(told_form(request.response_format))


def _contents(messages: Sequence[Message], quirks: Quirks, owner: str) -> list[_Content]:
    contents: list[_Content] = []
    names: dict[str, str] = {}
    for message in messages:
        if message.role is Role.SYSTEM:
            continue
        check_places(message)
        if message.role is Role.ASSISTANT:
            names |= {part.id: part.name for part in message.parts if isinstance(part, ToolCall)}
            made = [_Content("model", list(_spoken(message.parts, quirks, owner)))]
        else:
            made = [
                _Content("user", list(_results(message.parts, names)), is_results=True),
                _Content("user", list(_said(message.parts))),
            ]
        for content in made:
            last = contents[-1] if contents else None
            if last and (last.role, last.is_results) == (content.role, content.is_results):
                last.parts.extend(content.parts)
            elif content.parts:
                contents.append(content)
    return contents


def _said(parts: Sequence[Part]) -> Iterator[Json]:
    for part in parts:
        if isinstance(part, Text) and part.text:
            yield _text(part.text)
        elif isinstance(part, Image):
            data = base64.b64encode(part.data).decode()
            yield {"inlineData": {"mimeType": part.media_type, "data": data}}


def _results(parts: Sequence[Part], names: Mapping[str, str]) -> Iterator[Json]:
    for part in parts:
        if isinstance(part, ToolResult):
            name = names.get(part.call_id)
            if name is None:
                raise refuse("a tool result answers no call of the conversation")
            response = {"error" if part.is_error else "output": part.text}
            yield {
                "functionResponse": {
                    "id": _call_id(part.call_id),
                    "name": name,
                    "response": response,
                }
            }


def _spoken(parts: Sequence[Part], quirks: Quirks, owner: str) -> Iterator[Json]:
    """An earlier turn of a model, with the signatures that are this model's own."""
    signed = _kept(parts, owner)
    text, chars = joined_text(parts), 0
    for piece in signed:
        if isinstance(piece, SignedText):
            if text[chars : piece.start]:
                yield _text(text[chars : piece.start])
            own = text[max(chars, piece.start) : piece.end]
            yield _text(own) | {"thoughtSignature": piece.signature}
            chars = max(chars, piece.end)
    if text[chars:]:
        yield _text(text[chars:])
    signatures = {piece.call: piece.signature for piece in signed if isinstance(piece, SignedCall)}
    calls = (part for part in parts if isinstance(part, ToolCall))
    for number, call in enumerate(calls):
        signature = signatures.get(number)
        # Of calls made at once the first one alone is signed.
        if not signatures and number == 0 and quirks.demands_signatures:
            signature = _UNSIGNED
        yield _call(call) | ({"thoughtSignature": signature} if signature else {})


def _kept(parts: Sequence[Part], owner: str) -> list[SignedText | SignedCall]:
    state = own_state(parts, DIALECT, owner, _STATE)
    return [] if state is None else state.signed


def _text(text: str) -> Json:
    return {"text": text}


def _call(call: ToolCall) -> Json:
    arguments = json_object(call.arguments_json)
    return {"functionCall": {"id": _call_id(call.id), "name": call.name, "args": arguments}}


def _call_id(given: str) -> str:
    return call_id(given, _CALL_ID, "call_")


def _tool(tool: Tool) -> Json:
    wire: Json = {"name": tool.name}
    if tool.description:
        wire["description"] = tool.description
    if tool.parameters_json:
        wire["parametersJsonSchema"], _ = raw_json(tool.parameters_json, "the parameters of a tool")
    return wire


def _tool_choice(choice: ToolChoice) -> Json | None:
    match choice.mode:
        case ToolMode.AUTO:
            return None
        case ToolMode.NONE:
            return {"mode": "NONE"}
        case ToolMode.REQUIRED:
            return {"mode": "ANY"}
        case ToolMode.NAMED:
            return {"mode": "ANY", "allowedFunctionNames": [choice.name]}


def _format(request: Request) -> Json:
    wanted = request.response_format
    if wanted.kind is FormatKind.TEXT:
        return {}
    if wanted.kind is FormatKind.JSON:
        return {"responseMimeType": "application/json"}
    schema, _ = raw_json(wanted.schema_json, "the schema of the answer")
    return {"responseMimeType": "application/json", "responseJsonSchema": schema}


def _thinking(effort: Effort | None, candidate: Candidate, quirks: Quirks) -> Json | None:
    """How to think. It is shown where it can be: only so can silence be told from work (R24)."""
    if not quirks.thinks:
        return None
    amount = quirks.efforts.get(effort) if effort is not None else None
    if isinstance(amount, int):
        # Thinking is inside the output bound, so half of it is left for the answer.
        least = quirks.efforts.get(Effort.NONE)
        half = max(candidate.output_tokens_max // 2, least if isinstance(least, int) else 0)
        return {"includeThoughts": amount > 0, "thinkingBudget": min(amount, half)}
    level = {} if amount is None else {"thinkingLevel": amount}
    return {"includeThoughts": True, **level}


def _sampling(request: Request) -> Json:
    sampling = request.sampling
    fields: Json = {
        "temperature": sampling.temperature,
        "topP": sampling.top_p,
        "seed": sampling.seed,
        "stopSequences": list(sampling.stop) or None,
        "frequencyPenalty": sampling.frequency_penalty,
        "presencePenalty": sampling.presence_penalty,
    }
    return {name: value for name, value in fields.items() if value is not None}
