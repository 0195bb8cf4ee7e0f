"""From the messages of a request to the core's, with the rules of a conversation."""

from collections.abc import Mapping, Sequence

from escalade.v1 import completion_pb2
from escalade_server.api.findings import ID, NAME, TOOL_NAME, VISIBLE, Findings
from escalade_server.core.task import (
    Image,
    Message,
    Part,
    ProviderState,
    Reasoning,
    Role,
    Text,
    ToolCall,
    ToolResult,
)

MESSAGES_MAX = 10_000
PARTS_MAX = 1_000
IMAGE_BYTES_MAX = 5 * 1_048_576
"""The smallest limit among vendors, so that a task can escalate from one to another."""
IMAGE_TYPES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
STATE_BYTES_MAX = 1_048_576

_ROLES: Mapping[int, Role] = {
    completion_pb2.ROLE_SYSTEM: Role.SYSTEM,
    completion_pb2.ROLE_USER: Role.USER,
    completion_pb2.ROLE_ASSISTANT: Role.ASSISTANT,
    completion_pb2.ROLE_TOOL: Role.TOOL,
}
_KINDS: Mapping[Role, frozenset[str]] = {
    Role.SYSTEM: frozenset({"text"}),
    Role.USER: frozenset({"text", "image"}),
    Role.ASSISTANT: frozenset({"text", "tool_call", "reasoning", "provider_state"}),
    Role.TOOL: frozenset({"tool_result"}),
}
_HINTED = frozenset({"text", "image", "tool_result"})


def messages_from_proto(
    wire: Sequence[completion_pb2.Message], found: Findings
) -> tuple[Message, ...]:
    """Convert a conversation; what breaks a rule is noted in ``found``."""
    if not wire:
        found.wrong("messages", "is empty; say what is wanted")
    if len(wire) > MESSAGES_MAX:
        found.listed("messages", len(wire), MESSAGES_MAX)
        return ()
    called: set[str] = set()
    return tuple(_message(f"messages[{at}]", m, called, found) for at, m in enumerate(wire))


def _message(path: str, wire: completion_pb2.Message, called: set[str], found: Findings) -> Message:
    role = _ROLES.get(wire.role)
    if role is None:
        if wire.role == completion_pb2.ROLE_UNSPECIFIED:
            found.wrong(f"{path}.role", "is not set")
        else:
            found.unbuilt(f"{path}.role = {wire.role}")
        return Message(Role.USER, ())
    if not wire.parts:
        found.wrong(f"{path}.parts", "is empty")
    found.listed(f"{path}.parts", len(wire.parts), PARTS_MAX)
    parts: list[Part] = []
    says_something = False
    for at, piece in enumerate(wire.parts[:PARTS_MAX]):
        kind = piece.WhichOneof("kind")
        where = f"{path}.parts[{at}]"
        if kind is None:
            found.wrong(where, "holds no content")
        elif kind not in _KINDS[role]:
            allowed = ", ".join(sorted(_KINDS[role]))
            found.wrong(where, f"is {kind}; a message of this role holds {allowed}")
        else:
            says_something = says_something or kind != "text" or bool(piece.text)
            if piece.cache_hint and kind not in _HINTED:
                found.unbuilt(f"{where}.cache_hint")
            parts.append(_part(where, kind, piece, called, found))
    if wire.parts and len(parts) == len(wire.parts) and not says_something:
        found.wrong(f"{path}.parts", "says nothing: its texts are empty")
    return Message(role, tuple(parts))


def _part(
    path: str, kind: str, wire: completion_pb2.Part, called: set[str], found: Findings
) -> Part:
    match kind:
        case "text":
            return Text(wire.text, wire.cache_hint)
        case "image":
            image = wire.image
            if image.media_type not in IMAGE_TYPES:
                listed = ", ".join(sorted(IMAGE_TYPES))
                found.wrong(f"{path}.image.media_type", f"is none of {listed}")
            found.whole(f"{path}.image.data", len(image.data), 1, IMAGE_BYTES_MAX)
            return Image(image.media_type, image.data, wire.cache_hint)
        case "tool_call":
            call = wire.tool_call
            found.matches(f"{path}.tool_call.id", call.id, VISIBLE)
            found.matches(f"{path}.tool_call.name", call.name, TOOL_NAME)
            called.add(call.id)
            return ToolCall(call.id, call.name, call.arguments_json)
        case "tool_result":
            result = wire.tool_result
            if result.tool_call_id not in called:
                found.wrong(f"{path}.tool_result.tool_call_id", "answers no call before it")
            return ToolResult(result.tool_call_id, result.text, result.is_error, wire.cache_hint)
        case "reasoning":
            return Reasoning(wire.reasoning.text)
        case _:
            state = wire.provider_state
            found.matches(f"{path}.provider_state.dialect", state.dialect, ID)
            found.matches(f"{path}.provider_state.model", state.model, NAME)
            found.whole(f"{path}.provider_state.data", len(state.data), 1, STATE_BYTES_MAX)
            return ProviderState(state.dialect, state.model, state.data)
