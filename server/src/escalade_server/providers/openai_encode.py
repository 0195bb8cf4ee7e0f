"""A request as an OpenAI chat completion: what goes over the wire, and what stays behind.

Reasoning is never sent back, nor another vendor's state; JSON that a caller wrote is checked to be
one whole value before it goes in verbatim, so that it cannot close a brace that is not its own.
"""

import base64
import re
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from escalade_server.core.commands import Candidate
from escalade_server.core.task import (
    FormatKind,
    Image,
    Part,
    Request,
    ResponseFormat,
    Role,
    Sampling,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolMode,
    ToolResult,
)
from escalade_server.providers.encoding import (
    EMPTY_SCHEMA,
    Json,
    call_id,
    own_state,
    raw_json,
    refuse,
    state_owner,
)
from escalade_server.providers.openai_quirks import Quirks, quirks_of

DIALECT: Final = "openai"

_CALL_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,40}")
_ROLES: Final = {Role.SYSTEM: "system", Role.USER: "user", Role.ASSISTANT: "assistant"}
_MARK: Final = {"cache_control": {"type": "ephemeral"}}


class KeptState(msgspec.Struct):
    """What of its own a vendor wants back; a caller returns it, so only this is read of it."""

    reasoning_content: str


_STATE: Final = msgspec.json.Decoder(KeptState)


def body(request: Request, candidate: Candidate) -> bytes:
    """Encode the body of a streamed call; the output bound is always in it (R13).

    Raises:
        ProviderFailure: BAD_REQUEST, not sent: the request has no form in this dialect.
    """
    model = candidate.model
    quirks = quirks_of(model.provider, model.wire_id)
    fields: Json = {
        "model": model.wire_id,
        "messages": list(_messages(request, quirks, state_owner(candidate))),
        "stream": True,
        "stream_options": {"include_usage": True},
        quirks.output_bound: candidate.output_tokens_max,
    }
    if request.tools:
        fields["tools"] = [_tool(tool) for tool in request.tools]
        choice = _tool_choice(request.tool_choice)
        if choice is not None:
            fields["tool_choice"] = choice
    if request.response_format.kind is not FormatKind.TEXT:
        fields["response_format"] = _format(request.response_format)
    fields |= _sampling(request.sampling, quirks)
    if request.effort is not None:
        fields |= quirks.efforts.get(request.effort, {})
    return msgspec.json.encode(fields)


def _messages(request: Request, quirks: Quirks, owner: str) -> Iterator[Json]:
    keeps = quirks.returns_reasoning and bool(request.tools)
    for message in request.messages:
        rest: list[Part] = []
        for part in message.parts:
            # Each result is a message of its own here, and stands before what else was said.
            if isinstance(part, ToolResult):
                yield {
                    "role": "tool",
                    "tool_call_id": _call_id(part.call_id),
                    "content": _texts([Text(part.text, part.cache_hint)], quirks),
                }
            else:
                rest.append(part)
        if message.role is Role.ASSISTANT:
            yield _assistant(rest, quirks, owner if keeps else "")
        elif rest:
            yield _said(message.role, rest, quirks)


def _said(role: Role, parts: Sequence[Part], quirks: Quirks) -> Json:
    spoken = [part for part in parts if isinstance(part, Text | Image)]
    foreign = (ToolCall, Image) if role is Role.SYSTEM else (ToolCall,)
    if role not in _ROLES or any(isinstance(part, foreign) for part in parts):
        raise refuse(f"a {role.value} message holds a part that does not belong there")
    return {"role": _ROLES[role], "content": _content(spoken, quirks)}


def _assistant(parts: Sequence[Part], quirks: Quirks, owner: str) -> Json:
    """An earlier turn; ``owner`` names whose reasoning goes back, if any."""
    if any(isinstance(part, Image) for part in parts):
        raise refuse("an assistant message holds an image")
    said = [part for part in parts if isinstance(part, Text)]
    calls = [part for part in parts if isinstance(part, ToolCall)]
    turn: Json = {"role": "assistant", "content": _texts(said, quirks) if said else None}
    if not said and not calls:
        turn["content"] = ""
    if calls:
        turn["tool_calls"] = [_call(call) for call in calls]
    if owner:
        # A turn of another model has none, and leaving the field out is an error there.
        turn["reasoning_content"] = _kept(parts, owner)
    return turn


def _kept(parts: Sequence[Part], owner: str) -> str:
    state = own_state(parts, DIALECT, owner, _STATE)
    return "" if state is None else state.reasoning_content


def _content(parts: Sequence[Text | Image], quirks: Quirks) -> str | list[Json]:
    texts = [part for part in parts if isinstance(part, Text)]
    if len(texts) == len(parts):
        return _texts(texts, quirks)
    return [_part(part, quirks) for part in parts]


def _texts(parts: Sequence[Text], quirks: Quirks) -> str | list[Json]:
    """Plain text where it can be: not every compatible server takes parts."""
    if quirks.cache_marks and any(part.cache_hint for part in parts):
        return [_part(part, quirks) for part in parts]
    return "\n".join(part.text for part in parts)


def _part(part: Text | Image, quirks: Quirks) -> Json:
    if isinstance(part, Text):
        wire: Json = {"type": "text", "text": part.text}
    else:
        data = base64.b64encode(part.data).decode()
        url = f"data:{part.media_type};base64,{data}"
        wire = {"type": "image_url", "image_url": {"url": url}}
    return wire | _MARK if quirks.cache_marks and part.cache_hint else wire


def _call(call: ToolCall) -> Json:
    arguments = call.arguments_json or "{}"
    return {
        "id": _call_id(call.id),
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    }


def _call_id(given: str) -> str:
    return call_id(given, _CALL_ID, "call_")


def _tool(tool: Tool) -> Json:
    schema = EMPTY_SCHEMA
    if tool.parameters_json:
        schema, _ = raw_json(tool.parameters_json, "the parameters of a tool")
    function: Json = {"name": tool.name, "parameters": schema}
    if tool.description:
        function["description"] = tool.description
    return {"type": "function", "function": function}


def _tool_choice(choice: ToolChoice) -> str | Json | None:
    match choice.mode:
        case ToolMode.AUTO:
            return None
        case ToolMode.NONE:
            return "none"
        case ToolMode.REQUIRED:
            return "required"
        case ToolMode.NAMED:
            return {"type": "function", "function": {"name": choice.name}}


def _format(wanted: ResponseFormat) -> Json:
    if wanted.kind is FormatKind.JSON:
        return {"type": "json_object"}
    schema, decoded = raw_json(wanted.schema_json, "the schema of the answer")
    return {
        "type": "json_schema",
        "json_schema": {
            "name": wanted.name or "answer",
            "schema": schema,
            "strict": _is_closed(decoded),
        },
    }


def _is_closed(schema: object) -> bool:
    """Whether strict mode takes a schema: each object lists, and demands, all it may hold."""
    if isinstance(schema, list):
        return all(_is_closed(item) for item in schema)
    if not isinstance(schema, dict):
        return True
    properties = schema.get("properties")
    if schema.get("type") == "object" or isinstance(properties, dict):
        known = properties if isinstance(properties, dict) else {}
        required = schema.get("required")
        names = required if isinstance(required, list) else []
        demanded = {name for name in names if isinstance(name, str)}
        if schema.get("additionalProperties") is not False or set(known) != demanded:
            return False
    return all(_is_closed(item) for item in schema.values())


def _sampling(sampling: Sampling, quirks: Quirks) -> Json:
    fields: Json = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
        "stop": list(sampling.stop) or None,
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
    }
    return {
        name: value
        for name, value in fields.items()
        if value is not None and name not in quirks.refuses
    }
