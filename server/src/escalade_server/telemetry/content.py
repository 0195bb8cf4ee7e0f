"""Messages as the conventions of GenAI have them; only of agents that an operator names.

Off unless asked for, cut to a size, and never in what ``escalade trace`` keeps.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import msgspec

from escalade_server.core.task import (
    Image,
    Message,
    Part,
    Reasoning,
    Role,
    Text,
    ToolCall,
    ToolResult,
)

EVERYBODY = "*"
CHARS = 4_096


@dataclass(frozen=True, slots=True)
class Capture:
    """Whose words are told, and how many of them: characters of one attribute."""

    agents: frozenset[str] = frozenset()
    chars: int = CHARS

    def of(self, agent: str) -> bool:
        """Tell whether the words of an agent's tasks are told."""
        return EVERYBODY in self.agents or agent in self.agents


NO_CAPTURE = Capture()


def told(messages: Iterable[Message], capture: Capture, redact: Callable[[str], str]) -> str:
    """Write messages as JSON; when they have more text than may be told, the first are left out.

    The last message is cut instead, so that something of the question is always there.
    """
    left = capture.chars
    kept: list[dict[str, str | list[dict[str, str]]]] = []
    for message in reversed(tuple(messages)):
        parts = [_part(part, redact) for part in message.parts]
        size = sum(len(text) for part in parts for text in part.values())
        if size > left:
            parts = [] if kept else list(_cut(parts, left))
        if parts:
            kept.append({"role": message.role.value, "parts": parts})
        left -= size
        if left <= 0:
            break
    kept.reverse()
    return msgspec.json.encode(kept).decode()


def answered(parts: tuple[Part, ...], capture: Capture, redact: Callable[[str], str]) -> str:
    """Write an answer the same way."""
    return told((Message(Role.ASSISTANT, parts),), capture, redact)


def _part(part: Part, redact: Callable[[str], str]) -> dict[str, str]:
    match part:
        case Text():
            found = {"type": "text", "content": part.text}
        case Reasoning():
            found = {"type": "reasoning", "content": part.text}
        case ToolCall():
            found = {"type": "tool_call", "id": part.id, "name": part.name,
                     "arguments": part.arguments_json}  # fmt: skip
        case ToolResult():
            found = {"type": "tool_call_response", "id": part.call_id, "response": part.text}
        case Image():
            found = {"type": "blob", "mime_type": part.media_type}
        case _:
            found = {"type": "opaque"}
    return {key: _clean(redact(text)) for key, text in found.items()}


def _cut(parts: Iterable[Mapping[str, str]], left: int) -> Iterable[dict[str, str]]:
    for part in parts:
        cut = {}
        for key, text in part.items():
            cut[key] = text if key == "type" else text[: max(left, 0)]
            left -= len(text)
        yield cut
        if left <= 0:
            return


def _clean(text: str) -> str:
    return text if text.isascii() else text.encode(errors="replace").decode()
