"""Golden cases: a request in neutral terms and on the wire, an answer on the wire and as events."""

import base64
import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from escalade_server.core.events import (
    ChunkArrived,
    Finish,
    ReasoningDelta,
    StateDelta,
    TextDelta,
    ToolCallDelta,
)
from escalade_server.core.failure import Failure
from escalade_server.core.task import (
    Effort,
    FormatKind,
    Image,
    Message,
    Part,
    ProviderState,
    Reasoning,
    Request,
    ResponseFormat,
    Role,
    Sampling,
    Task,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolMode,
    ToolResult,
    Usage,
)
from escalade_server.providers.codec import Decoder

Json = dict[str, Any]
GOLDEN = Path(__file__).parent / "golden"


def folders(dialect: str, holding: str) -> list[Path]:
    """The cases that hold a file."""
    return sorted(path.parent for path in (GOLDEN / dialect).glob(f"*/{holding}"))


def load(path: Path) -> Json:
    """A file of a case."""
    loaded: Json = json.loads(path.read_text())
    return loaded


def part(told: Json) -> Part:
    """One part of a message."""
    match told:
        case {"text": text}:
            return Text(text, cache_hint=told.get("cache", False))
        case {"image": [media_type, data]}:
            decoded = base64.b64decode(data)
            return Image(media_type, decoded, cache_hint=told.get("cache", False))
        case {"call": [call_id, name, arguments]}:
            return ToolCall(call_id, name, arguments)
        case {"result": [call_id, text]}:
            error, cache = told.get("error", False), told.get("cache", False)
            return ToolResult(call_id, text, is_error=error, cache_hint=cache)
        case {"reasoning": text}:
            return Reasoning(text)
        case {"state": [dialect, model, data]}:
            return ProviderState(dialect, model, base64.b64decode(data))
    raise ValueError(told)


def request(told: Json) -> Request:
    """A request in neutral terms."""
    kind, name, schema = [*told.get("format", ["text"]), "", ""][:3]
    mode, tool_name = told.get("tool_choice", ["auto", ""])
    sampling = told.get("sampling", {})
    tools = (
        Tool(tool["name"], tool.get("description", ""), tool.get("parameters_json", ""))
        for tool in told.get("tools", [])
    )
    messages = (
        Message(Role(message["role"]), tuple(part(each) for each in message["parts"]))
        for message in told["messages"]
    )
    return Request(
        id="r1",
        task=Task(),
        messages=tuple(messages),
        tools=tuple(tools),
        tool_choice=ToolChoice(ToolMode(mode), tool_name),
        response_format=ResponseFormat(FormatKind(kind), name, schema),
        sampling=Sampling(**{**sampling, "stop": tuple(sampling.get("stop", ()))}),
        effort=Effort(told["effort"]) if "effort" in told else None,
    )


def decode(decoder: Decoder, pieces: Iterable[bytes]) -> list[ChunkArrived | Failure]:
    """Feed pieces as an engine does: until it is finished, then close until None."""
    told = []
    for piece in pieces:
        event = decoder.feed(piece)
        if event is not None:
            told.append(event)
        if decoder.finished:
            break
    while (event := decoder.close()) is not None:
        told.append(event)
    return told


def usage(told: Usage | None) -> Json | None:
    """Usage by its names."""
    return None if told is None else dataclasses.asdict(told)


def finish(told: Finish | None) -> list[str] | None:
    """A finish reason and its detail."""
    return told and [told.reason.value, told.detail]


def merged(events: Iterable[ChunkArrived | Failure]) -> Json:
    """What a reader has at the end: the same for every split of the bytes."""
    deltas: list[Json] = []
    calls: dict[int, list[Any]] = {}
    failure: Json | None = None
    told: Json = {"finish": None, "usage": None, "model": "", "cost_nanos": None}
    for event in events:
        assert failure is None, "nothing follows a failure"
        if isinstance(event, Failure):
            failure = {"class": event.cls.value, "code": event.code}
            if event.reset_at_ms is not None:
                failure["reset_at_ms"] = event.reset_at_ms
            continue
        for delta in event.deltas:
            assert told["finish"] is None, "no text follows a finish reason"
            match delta:
                case TextDelta(text) | ReasoningDelta(text):
                    kind = "text" if isinstance(delta, TextDelta) else "reasoning"
                    if deltas and kind in deltas[-1]:
                        deltas[-1][kind] += text
                    else:
                        deltas.append({kind: text})
                case ToolCallDelta(slot, call_id, name, arguments):
                    if slot not in calls:
                        calls[slot] = [slot, "", "", ""]
                        deltas.append({"tool": calls[slot]})
                    for place, piece in enumerate((call_id, name, arguments), start=1):
                        calls[slot][place] += piece
                case StateDelta(state):
                    deltas.append({"state": [state.model, state.data.decode()]})
        told["finish"] = finish(event.finish) or told["finish"]
        if event.oddities is not None and event.oddities.unbelievable:
            told["usage"] = None
        told["usage"] = usage(event.usage) or told["usage"]
        told["model"] = event.model or told["model"]
        told["cost_nanos"] = event.cost_nanos or told["cost_nanos"]
    return {"deltas": deltas, **told, "failure": failure}
