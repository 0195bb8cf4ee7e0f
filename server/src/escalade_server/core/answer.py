"""A whole answer folded from deltas, and the one gate that always stands: not empty (R21)."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from escalade_server.core.events import (
    Delta,
    ReasoningDelta,
    StateDelta,
    TextDelta,
    ToolCallDelta,
)
from escalade_server.core.rules import Rules
from escalade_server.core.task import (
    DataDemand,
    Delivery,
    Part,
    ProviderState,
    Reasoning,
    Request,
    Text,
    ToolCall,
)


def is_kept(request: Request, rules: Rules) -> bool:
    """Tell whether the answer is to be told again to the same request id (R27)."""
    return (
        bool(request.content and rules.keep_answers_ms)
        and request.delivery is not Delivery.ROUTE
        and request.task.data_demand is not DataDemand.PRIVATE
    )


@dataclass(slots=True)
class Fold:
    """What has come of an answer so far. ``keep`` is off where only the figures are wanted."""

    keep: bool
    output_bytes: int = 0
    has_content: bool = False
    """Something but blank text and reasoning has come."""
    _text: list[str] = field(default_factory=list)
    _reasoning: list[str] = field(default_factory=list)
    _calls: dict[int, tuple[str, str, list[str]]] = field(default_factory=dict)
    _states: list[ProviderState] = field(default_factory=list)

    def add(self, deltas: Iterable[Delta]) -> None:
        """Take the deltas of one read."""
        for delta in deltas:
            match delta:
                case TextDelta(text):
                    self.output_bytes += len(text) if text.isascii() else len(text.encode())
                    self.has_content = self.has_content or (not text.isspace() and bool(text))
                    if self.keep:
                        self._text.append(text)
                case ReasoningDelta(text):
                    self.output_bytes += len(text) if text.isascii() else len(text.encode())
                    if self.keep:
                        self._reasoning.append(text)
                case ToolCallDelta(slot, call_id, name, arguments):
                    self.output_bytes += len(name) + len(arguments.encode())
                    self.has_content = True
                    if self.keep:
                        self._call(slot, call_id, name, arguments)
                case StateDelta(state):
                    if self.keep:
                        self._states.append(state)

    def _call(self, slot: int, call_id: str, name: str, arguments: str) -> None:
        """Put a tool call together by its slot; id and name are the first ones given (U27)."""
        known_id, known_name, pieces = self._calls.get(slot, ("", "", []))
        pieces.append(arguments)
        self._calls[slot] = (known_id or call_id, known_name or name, pieces)

    def parts(self) -> tuple[Part, ...]:
        """The answer's parts: reasoning, text, tool calls by slot, opaque state."""
        if not self.keep:
            return ()
        found: list[Part] = []
        if self._reasoning:
            found.append(Reasoning("".join(self._reasoning)))
        if self._text:
            found.append(Text("".join(self._text)))
        found.extend(
            ToolCall(call_id, name, "".join(pieces))
            for _, (call_id, name, pieces) in sorted(self._calls.items())
        )
        found.extend(self._states)
        return tuple(found)
