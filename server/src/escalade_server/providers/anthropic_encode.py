"""A request as an Anthropic message: what goes over the wire, and what stays behind.

System messages move to the top, turns of one side become one, and the results of tools come first
in theirs. Thinking goes back to the model that thought it, in its place, or not at all.
"""

import base64
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
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
    ResponseFormat,
    Role,
    Sampling,
    Text,
    Tool,
    ToolCall,
    ToolMode,
    ToolResult,
)
from escalade_server.providers.anthropic_quirks import Quirks, Thinking, quirks_of
from escalade_server.providers.encoding import (
    EMPTY_SCHEMA,
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

DIALECT: Final = "anthropic"
ANSWER_TOOL: Final = "escalade_answer"
"""The tool whose input is the answer, where a schema can be had in no other way."""
THINKING_TOKENS_MIN: Final = 1_024

_CALL_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MARKS_MAX: Final = 4
_MARK: Final = {"type": "ephemeral"}
_BUDGETS: Final = {Effort.LOW: 2_048, Effort.MEDIUM: 8_192, Effort.HIGH: 16_384}
_VISIBLE: Final = {"type": "adaptive", "display": "summarized"}
# What the vendor's schemas for answers cannot say.
_SCHEMA_WORDS: Final = frozenset(
    {
        *("$ref", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        *("minLength", "maxLength", "pattern", "minItems", "maxItems", "uniqueItems"),
        *("patternProperties", "if", "not", "oneOf"),
    }
)


class KeptThinking(msgspec.Struct, tag="thinking", tag_field="type"):
    """A block of visible thinking, signed."""

    thinking: str
    signature: str


class KeptRedacted(msgspec.Struct, tag="redacted_thinking", tag_field="type"):
    """A block of thinking that the vendor keeps to itself."""

    data: str


class KeptBlock(msgspec.Struct):
    """A block and where it stood: after so many characters of text and so many calls."""

    chars: Place
    calls: Place
    block: KeptThinking | KeptRedacted


class KeptState(msgspec.Struct):
    """What of its own a model wants back; a caller returns it, so only this is read of it."""

    blocks: list[KeptBlock]


_STATE: Final = msgspec.json.Decoder(KeptState)


class AnswerForm(Enum):
    """How the wanted form of an answer is asked for."""

    TEXT = "text"
    SCHEMA = "schema"
    """By the vendor's structured outputs."""
    TOOL = "tool"
    """By a forced tool whose input is the answer."""
    TOLD = "told"
    """In words."""


@dataclass(frozen=True, slots=True)
class _Turn:
    role: str
    blocks: list[Json]


def body(request: Request, candidate: Candidate) -> bytes:
    """Encode the body of a streamed call; the output bound is always in it (R13).

    Raises:
        ProviderFailure: BAD_REQUEST, not sent: the request has no form in this dialect.
    """
    quirks = quirks_of(candidate.model.wire_id)
    owner = state_owner(candidate)
    form = _form(request, quirks)
    system = list(_system(request, quirks, form))
    turns = _turns(request.messages, owner)
    _limit_marks([*system, *(block for turn in turns for block in turn.blocks)])
    fields: Json = {
        "model": candidate.model.wire_id,
        "max_tokens": candidate.output_tokens_max,
        "messages": [{"role": turn.role, "content": turn.blocks} for turn in turns],
        "stream": True,
    }
    if system:
        fields["system"] = system
    tools = list(_tools(request, form))
    choice = _tool_choice(request, quirks, form)
    if tools:
        fields["tools"] = tools
        if choice is not None:
            fields["tool_choice"] = choice
    is_forced = choice is not None and choice["type"] in {"any", "tool"}
    output: Json = {}
    if form is AnswerForm.SCHEMA:
        schema, _ = raw_json(request.response_format.schema_json, "the schema of the answer")
        output["format"] = {"type": "json_schema", "schema": schema}
    # Thinking that is asked for does not go with a forced tool.
    asked = None if is_forced and request.effort is not Effort.NONE else request.effort
    has_begun = _has_own_thinking(request.messages, owner)
    thinking = _thinking(asked, candidate, quirks, may_begin=has_begun)
    effort = _effort(request.effort, quirks)
    if effort:
        output["effort"] = effort
    if thinking:
        fields["thinking"] = thinking
    if output:
        fields["output_config"] = output
    return msgspec.json.encode(fields | _sampling(request.sampling, quirks, thinking))


def _form(request: Request, quirks: Quirks) -> AnswerForm:
    wanted = request.response_format
    if wanted.kind is FormatKind.TEXT:
        return AnswerForm.TEXT
    if wanted.kind is FormatKind.JSON:
        return AnswerForm.TOLD
    _, schema = raw_json(wanted.schema_json, "the schema of the answer")
    if quirks.schemas and _is_plain(schema):
        return AnswerForm.SCHEMA
    is_object = isinstance(schema, dict) and schema.get("type") == "object"
    if is_object and quirks.forces_tools and not request.tools:
        return AnswerForm.TOOL
    return AnswerForm.TOLD


def _is_plain(schema: object) -> bool:
    """Whether structured outputs take a schema: closed objects, and no bounds on values."""
    if isinstance(schema, list):
        return all(_is_plain(item) for item in schema)
    if not isinstance(schema, dict):
        return True
    is_object = schema.get("type") == "object" or isinstance(schema.get("properties"), dict)
    if is_object and schema.get("additionalProperties") is not False:
        return False
    return _SCHEMA_WORDS.isdisjoint(schema) and all(_is_plain(item) for item in schema.values())


def _system(request: Request, quirks: Quirks, form: AnswerForm) -> Iterator[Json]:
    for message in request.messages:
        if message.role is Role.SYSTEM:
            check_places(message)
            for part in message.parts:
                if isinstance(part, Text):
                    yield from _text(part.text, cache_hint=part.cache_hint)
    if form is AnswerForm.TOLD:
        yield from _text(told_form(request.response_format))
    choice = request.tool_choice
    if request.tools and not quirks.forces_tools:
        if choice.mode is ToolMode.REQUIRED:
            yield from _text("Answer by calling at least one of the tools.")
        elif choice.mode is ToolMode.NAMED:
            yield from _text(f"Answer by calling the tool {choice.name}.")


def _turns(messages: Sequence[Message], owner: str) -> list[_Turn]:
    turns: list[_Turn] = []
    for message in messages:
        if message.role is Role.SYSTEM:
            continue
        check_places(message)
        if message.role is Role.ASSISTANT:
            turn = _Turn("assistant", list(_assistant(message.parts, owner)))
        else:
            turn = _Turn("user", [block for part in message.parts for block in _said(part)])
        if turns and turns[-1].role == turn.role:
            turns[-1].blocks.extend(turn.blocks)
        elif turn.blocks:
            turns.append(turn)
    for turn in turns:
        if turn.role == "user":
            # The results of tools must come first; the rest stays in order.
            turn.blocks.sort(key=lambda block: block["type"] != "tool_result")
    return turns


def _said(part: Part) -> Iterator[Json]:
    if isinstance(part, Text):
        yield from _text(part.text, cache_hint=part.cache_hint)
    elif isinstance(part, Image):
        data = base64.b64encode(part.data).decode()
        source = {"type": "base64", "media_type": part.media_type, "data": data}
        yield _marked({"type": "image", "source": source}, cache_hint=part.cache_hint)
    elif isinstance(part, ToolResult):
        result: Json = {"type": "tool_result", "tool_use_id": _call_id(part.call_id)}
        if part.text.strip():
            result["content"] = part.text
        if part.is_error:
            result["is_error"] = True
        yield _marked(result, cache_hint=part.cache_hint)


def _assistant(parts: Sequence[Part], owner: str) -> Iterator[Json]:
    """An earlier turn, with this model's own thinking where it stood."""
    calls = [_call(part) for part in parts if isinstance(part, ToolCall)]
    kept = _kept(parts, owner)
    if not kept:
        for part in parts:
            if isinstance(part, Text):
                yield from _text(part.text, cache_hint=part.cache_hint)
        yield from calls
        return
    text, chars, called = joined_text(parts), 0, 0
    for piece in kept:
        yield from _text(text[chars : piece.chars])
        yield from calls[called : piece.calls]
        yield msgspec.to_builtins(piece.block)
        chars, called = max(chars, piece.chars), max(called, piece.calls)
    hint = any(isinstance(part, Text) and part.cache_hint for part in parts)
    yield from _text(text[chars:], cache_hint=hint)
    yield from calls[called:]


def _kept(parts: Sequence[Part], owner: str) -> list[KeptBlock]:
    state = own_state(parts, DIALECT, owner, _STATE)
    return [] if state is None else state.blocks


def _has_own_thinking(messages: Sequence[Message], owner: str) -> bool:
    """Whether thinking by a budget may begin: a turn under way must have begun with its own."""
    has_results = False
    for message in reversed(messages):
        if message.role is Role.ASSISTANT:
            kept = _kept(message.parts, owner)
            began = bool(kept) and (kept[0].chars, kept[0].calls) == (0, 0)
            return began or not has_results
        has_results = has_results or any(isinstance(part, ToolResult) for part in message.parts)
    return True


def _text(text: str, *, cache_hint: bool = False) -> Iterator[Json]:
    """A block of text; blank ones are an error there, and say nothing."""
    if text.strip():
        yield _marked({"type": "text", "text": text}, cache_hint=cache_hint)


def _marked(block: Json, *, cache_hint: bool) -> Json:
    if cache_hint:
        block["cache_control"] = _MARK
    return block


def _limit_marks(blocks: Sequence[Json]) -> None:
    """Keep the last marks, which cache the most: more than the vendor takes are an error."""
    marked = [block for block in blocks if "cache_control" in block]
    for block in marked[:-_MARKS_MAX]:
        del block["cache_control"]


def _call(call: ToolCall) -> Json:
    arguments = json_object(call.arguments_json)
    return {"type": "tool_use", "id": _call_id(call.id), "name": call.name, "input": arguments}


def _call_id(given: str) -> str:
    return call_id(given, _CALL_ID, "toolu_")


def _tools(request: Request, form: AnswerForm) -> Iterator[Json]:
    if any(tool.name == ANSWER_TOOL for tool in request.tools):
        raise refuse(f"the name {ANSWER_TOOL} is taken")
    yield from (_tool(tool) for tool in request.tools)
    if not request.tools:
        # Calls of earlier turns are an error without tools, so they are named, and not offered.
        parts = (part for message in request.messages for part in message.parts)
        names = dict.fromkeys(part.name for part in parts if isinstance(part, ToolCall))
        for name in names:
            yield {"name": name, "input_schema": EMPTY_SCHEMA}
    if form is AnswerForm.TOOL:
        yield _answer_tool(request.response_format)


def _tool(tool: Tool) -> Json:
    schema = EMPTY_SCHEMA
    if tool.parameters_json:
        schema, _ = raw_json(tool.parameters_json, "the parameters of a tool")
    wire: Json = {"name": tool.name, "input_schema": schema}
    if tool.description:
        wire["description"] = tool.description
    return wire


def _answer_tool(wanted: ResponseFormat) -> Json:
    schema, _ = raw_json(wanted.schema_json, "the schema of the answer")
    return {
        "name": ANSWER_TOOL,
        "description": f"Gives the answer ({wanted.name or 'answer'}).",
        "input_schema": schema,
    }


def _tool_choice(request: Request, quirks: Quirks, form: AnswerForm) -> Json | None:
    if form is AnswerForm.TOOL:
        return {"type": "tool", "name": ANSWER_TOOL}
    if not request.tools or request.tool_choice.mode is ToolMode.NONE:
        return {"type": "none"}
    if request.tool_choice.mode is ToolMode.AUTO or not quirks.forces_tools:
        return None
    if request.tool_choice.mode is ToolMode.REQUIRED:
        return {"type": "any"}
    return {"type": "tool", "name": request.tool_choice.name}


def _thinking(
    effort: Effort | None, candidate: Candidate, quirks: Quirks, *, may_begin: bool
) -> Json | None:
    """How to think. It is shown where it can be: only so can silence be told from work (R24)."""
    if quirks.thinking is Thinking.ALWAYS:
        is_off = effort is Effort.NONE and quirks.off is not None
        return dict(quirks.off) if is_off and quirks.off else dict(_VISIBLE)
    if effort is None or effort is Effort.NONE or quirks.thinking is Thinking.NONE:
        return None
    if quirks.thinking is Thinking.ADAPTIVE:
        return dict(_VISIBLE)
    # Thinking is inside the output bound, so at least half of it is left for the answer.
    budget = min(_BUDGETS[effort], candidate.output_tokens_max // 2)
    if budget < THINKING_TOKENS_MIN or not may_begin:
        return None
    return {"type": "enabled", "budget_tokens": budget}


def _effort(effort: Effort | None, quirks: Quirks) -> str:
    if effort is None or not quirks.efforts:
        return ""
    if effort is Effort.NONE:
        # A model that cannot be kept from thinking can be asked for little.
        is_kept_on = quirks.thinking is Thinking.ALWAYS and quirks.off is None
        return "low" if is_kept_on else ""
    return str(effort.value)


def _sampling(sampling: Sampling, quirks: Quirks, thinking: Json | None) -> Json:
    """What of the sampling the dialect has; while it thinks, a model takes none."""
    fields: Json = {}
    if quirks.samples and thinking is None:
        if sampling.temperature is not None:
            fields["temperature"] = min(sampling.temperature, 1.0)
        if sampling.top_p is not None and (quirks.samples_both or not fields):
            fields["top_p"] = sampling.top_p
    stops = [stop for stop in sampling.stop if stop.strip()]
    return fields | ({"stop_sequences": stops} if stops else {})
