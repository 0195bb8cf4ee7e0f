"""The fold of a stream's events into an answer. No I/O: both clients and every test use it.

Rules: a Delta belongs to its attempt; Retracted voids an attempt, also what may still come of it;
texts of two attempts never mix; a tool call is void until Finished; a stream ends with exactly
one Finished or one Failed and nothing after it. A stream that breaks a rule is not believed.
"""

from dataclasses import dataclass, field

from escalade._convert import part_from_proto
from escalade._errors import Facts, ProtocolViolation
from escalade._events import (
    Answer,
    Escalated,
    Event,
    Failed,
    Finished,
    ReasoningDelta,
    Retracted,
    TextDelta,
    announcement_from_proto,
)
from escalade._proto import name_of
from escalade._types import Message, Part, ProviderState, Reasoning, Text, ToolCall
from escalade.v1 import completion_pb2, escalation_pb2


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What stands of the answer now; retracted text is gone from it.

    Attributes:
        attempt: The attempt that it is of; 0 before the first delta.
        text: The text so far.
        reasoning: The visible reasoning so far.
        tool_calls: Empty until the answer is finished.
        finished: The answer is whole, and its settlement durable.
    """

    attempt: int = 0
    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finished: bool = False


@dataclass(slots=True)
class _Growing:
    """A part that grows piece by piece, joined when someone looks: linear however long it gets."""

    made: Text | Reasoning | ToolCall | ProviderState
    pieces: list[str] = field(default_factory=list)

    def part(self) -> Part:
        grown = "".join(self.pieces)
        match self.made:
            case Text():
                return Text(grown)
            case Reasoning():
                return Reasoning(grown)
            case ToolCall(call_id, name):
                return ToolCall(call_id, name, grown)
            case ProviderState():
                return self.made


class Accumulator:
    """Folds the events of one stream, one at a time, in order."""

    def __init__(self, request_id: str, *, may_restart: bool) -> None:
        self.request_id = request_id
        self.begun = False  # a piece of the answer came
        self.failed: Failed | None = None
        self.answer: Answer | None = None
        self._may_restart = may_restart
        self._finished: escalation_pb2.Finished | None = None
        self._attempt = 0
        self._void: set[int] = set()
        self._parts: list[_Growing] = []
        self._calls: dict[int, _Growing] = {}
        self._escalations: list[Escalated] = []

    @property
    def snapshot(self) -> Snapshot:
        """What stands of the answer now."""
        if self.answer is not None:
            answer = self.answer
            return Snapshot(
                self._attempt, answer.text, answer.reasoning, answer.tool_calls, finished=True
            )
        so_far = self._message()
        return Snapshot(
            attempt=self._attempt,
            text=so_far.text,
            reasoning="".join(p.text for p in so_far.parts if isinstance(p, Reasoning)),
        )

    def add(self, event: escalation_pb2.Event) -> Event | None:
        """Fold one event; what the caller is told of it now, if anything.

        Raises:
            ProtocolViolation: The event cannot be, after those before it.
        """
        if self._finished is not None or self.failed is not None:
            raise self._violation("an event came after the last one")
        if event.HasField("delta"):
            return self._add_delta(event.delta)
        if event.HasField("finished"):
            self._finished = event.finished  # told by end(), when the status says it is settled
            return None
        told = announcement_from_proto(event)
        if isinstance(told, Retracted):
            self._retract(told.attempt)
        elif isinstance(told, Escalated):
            self._escalations.append(told)
        elif isinstance(told, Failed):
            self.failed = told
        return told

    def end(self) -> tuple[Event, ...]:
        """End with status OK: the answer, before it its text unless that was streamed.

        Raises:
            ProtocolViolation: There is no answer.
        """
        finished = self._finished
        if finished is None:
            raise self._violation("the stream ended without Finished or Failed")
        message = self._message()
        streamed = bool(message.parts)
        if finished.HasField("answer"):
            parts = (part_from_proto(part) for part in finished.answer.parts)
            message = Message("assistant", tuple(part for part in parts if part is not None))
        self.answer = Answer(
            message=message,
            finish_reason=name_of(completion_pb2.FinishReason.DESCRIPTOR, finished.finish_reason),
            finish_detail=finished.finish_detail,
            quality=name_of(escalation_pb2.Quality.DESCRIPTOR, finished.quality),
            replayed=finished.replayed,
            escalations=tuple(self._escalations),
            report=finished.report,
        )
        last = Finished(self.answer)
        if streamed or not message.text:
            return (last,)
        return (TextDelta(len(finished.report.attempts), message.text), last)

    def _add_delta(self, delta: completion_pb2.Delta) -> Event | None:
        self.begun = True
        if delta.attempt in self._void:
            return None
        if self._parts and delta.attempt != self._attempt:
            raise self._violation(f"text of attempts {self._attempt} and {delta.attempt} mixed")
        self._attempt = delta.attempt
        match delta.WhichOneof("kind"):
            case "text":
                self._grow(Text("")).append(delta.text)
                return TextDelta(delta.attempt, delta.text)
            case "reasoning":
                self._grow(Reasoning("")).append(delta.reasoning)
                return ReasoningDelta(delta.attempt, delta.reasoning)
            case "tool_call":
                self._grow_call(delta.tool_call)
            case "provider_state":
                state = delta.provider_state
                self._parts.append(_Growing(ProviderState(state.dialect, state.model, state.data)))
            case _:
                pass  # a kind of a newer server
        return None

    def _grow(self, kind: Text | Reasoning) -> list[str]:
        if not self._parts or type(self._parts[-1].made) is not type(kind):
            self._parts.append(_Growing(kind))
        return self._parts[-1].pieces

    def _grow_call(self, delta: completion_pb2.ToolCallDelta) -> None:
        call = self._calls.get(delta.index)
        if call is None:
            call = _Growing(ToolCall(delta.id, delta.name, ""))
            self._calls[delta.index] = call
            self._parts.append(call)
        call.pieces.append(delta.arguments_json_fragment)

    def _retract(self, attempt: int) -> None:
        self._void.add(attempt)
        if self._parts and attempt == self._attempt:
            if not self._may_restart:
                raise self._violation("the answer started over, although failure was asked for")
            self._parts, self._calls = [], {}

    def _message(self) -> Message:
        return Message("assistant", tuple(part.part() for part in self._parts))

    def _violation(self, what: str) -> ProtocolViolation:
        return ProtocolViolation(what, Facts(request_id=self.request_id))
