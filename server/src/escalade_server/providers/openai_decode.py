"""An OpenAI chat completion, streamed or whole, as events: bytes in, `ChunkArrived` out."""

from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw, Struct

from escalade_server.core.commands import Candidate
from escalade_server.core.events import Finish, StateDelta, ToolCallDelta
from escalade_server.core.task import FinishReason, ProviderState
from escalade_server.providers import bounded_json, decoding
from escalade_server.providers.decoding import NULL, AnswerDecoder, unknown_finish
from escalade_server.providers.encoding import state_owner
from escalade_server.providers.error_body import Evidence
from escalade_server.providers.openai_encode import DIALECT, KeptState
from escalade_server.providers.openai_quirks import quirks_of
from escalade_server.providers.openai_usage import read_cost_nanos, read_usage

_R = FinishReason
_FINISHES: Final = {
    "stop": _R.STOP,
    "length": _R.LENGTH,
    "tool_calls": _R.TOOL_CALLS,
    "function_call": _R.TOOL_CALLS,
    "content_filter": _R.CONTENT_FILTER,
}
# Finish reasons that are failures, with the code under which the signal tables know them.
_BREAKS: Final = {
    "error": "finish_error",
    "insufficient_system_resource": "insufficient_system_resource",
}


class _Function(Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(Struct, gc=False):
    index: Annotated[int, Meta(ge=0, le=1_023)] | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Choice(Struct, gc=False):
    delta: _Delta | None = None
    finish_reason: str | None = None
    error: Raw = NULL
    index: int = 0


class _Chunk(Struct, gc=False):
    choices: list[_Choice] | None = None
    model: str | None = None
    usage: Raw = NULL
    error: Raw = NULL


class _WholeChoice(Struct, gc=False):
    message: _Delta | None = None
    finish_reason: str | None = None
    error: Raw = NULL
    index: int = 0


class _Whole(Struct, gc=False):
    choices: list[_WholeChoice] | None = None
    model: str | None = None
    usage: Raw = NULL
    error: Raw = NULL


_CHUNK: Final = msgspec.json.Decoder(_Chunk)
_WHOLE: Final = msgspec.json.Decoder(_Whole)


@dataclass(slots=True)
class _Call:
    """A tool call under way: its slot, and what of it has been told."""

    slot: int
    id: str = ""
    name: str = ""


class OpenAIDecoder(AnswerDecoder):
    """Implements `Decoder` for chat completions."""

    def __init__(
        self, candidate: Candidate, attempt: int, *, streamed: bool, content_type: str, now_ms: int
    ) -> None:
        """Begin an answer whose headers came at ``now_ms``."""
        super().__init__(
            candidate, attempt, streamed=streamed, content_type=content_type, now_ms=now_ms
        )
        model = candidate.model
        self._quirks = quirks_of(model.provider, model.wire_id)
        self._calls: dict[int, _Call] = {}
        self._slots: set[int] = set()
        self._broken: Evidence | None = None
        self._refused = False
        self._reasoning: list[str] = []
        self._reasoning_chars = 0

    def _frame(self, frame: bytes) -> None:
        """Take the data of one event."""
        try:
            chunk = self._decode(_CHUNK, frame)
        except ValueError:
            self._break_json()
            return
        choices = chunk.choices
        for choice in choices or ():
            # We ask for one answer; of several, none may be spliced into it (U28).
            if choice.index == 0 and not self._is_whole:
                if choice.delta is not None:
                    self._said(choice.delta)
                if choice.finish_reason is not None or choice.error != NULL:
                    self._ends(choice.finish_reason, choice.error)
        if (
            chunk.model != self._answering
            or not choices
            or chunk.usage != NULL
            or chunk.error != NULL
            or self._broken is not None
        ):
            self._rest(chunk, frame)

    def _whole(self, body: bytes) -> None:
        """Take a body that is one JSON text."""
        try:
            answer = bounded_json.decode_as(_WHOLE, body if body.startswith(b"{") else b"{}")
        except ValueError:
            self._break_json()
            return
        for choice in (answer.choices or ())[:1]:
            if choice.message is not None:
                for number, call in enumerate(choice.message.tool_calls or ()):
                    call.index = number
                self._said(choice.message)
            if choice.finish_reason is not None or choice.error != NULL:
                self._ends(choice.finish_reason, choice.error)
        self._rest(answer, body)
        if not answer.choices and self._failure is None:
            self._break("no answer in the body", "empty_response")

    def _rest(self, told: _Chunk | _Whole, text: bytes) -> None:
        """Take what stands beside the choices: error, usage, the answering model."""
        if told.error != NULL or not told.choices:
            # Rare, so a second look at the text costs nothing that counts.
            self._fail(text)
            self._unknown += told.choices is None and told.usage == NULL
        if self._broken is not None and self._failure is None:
            self._judge(self._broken)
        self._answers(told.model)
        if told.usage != NULL:
            usage = read_usage(told.usage, self._candidate)
            self._used(usage)
            if usage is not None and self._quirks.costs:
                self._cost_nanos = read_cost_nanos(told.usage)
            # Usage that is beyond belief ends the waiting for it, too.
            self.finished = self.finished or self._is_whole

    def _said(self, delta: _Delta) -> None:
        """Take the substance of one delta; neighbours of one kind become one."""
        thought = delta.reasoning_content or delta.reasoning
        if thought:
            self._thought(thought)
        # The words of a refusal are the answer's text; that it is one, the finish says.
        text = delta.content or delta.refusal
        if text:
            self._wrote(text)
        if delta.refusal:
            self._refused = True
        if delta.tool_calls:
            for call in delta.tool_calls:
                self._called(call)

    def _thought(self, text: str) -> None:
        super()._thought(text)
        if self._quirks.returns_reasoning and self._reasoning_chars <= decoding.STATE_CHARS_MAX:
            self._reasoning_chars += len(text)
            self._reasoning.append(text)

    def _called(self, piece: _ToolCall) -> None:
        """Pass a piece of a tool call on: arguments verbatim, id and name once (U27)."""
        function = piece.function or _Function()
        index = self._index(piece)
        call = self._calls.get(index)
        # Another id under the same index is another call: some servers number them all 0.
        if call is None or (piece.id and call.id and piece.id != call.id):
            if not self._has_room(len(self._slots)):
                return
            slot = max(self._slots) + 1 if index in self._slots else index
            self._slots.add(slot)
            call = self._calls[index] = _Call(slot)
        told_id = "" if call.id else piece.id or ""
        told_name = "" if call.name else function.name or ""
        call.id = call.id or told_id
        call.name = call.name or told_name
        if told_id or told_name or function.arguments:
            arguments = function.arguments or ""
            self._deltas.append(ToolCallDelta(call.slot, told_id, told_name, arguments))

    def _index(self, piece: _ToolCall) -> int:
        """The index a piece goes by; servers that leave it out go by the id, else by order."""
        if piece.index is not None:
            return piece.index
        last = max(self._calls, default=-1)
        if piece.id:
            known = (index for index, call in self._calls.items() if call.id == piece.id)
            return next(known, last + 1)
        return max(last, 0)

    def _ends(self, reason: str | None, error: Raw) -> None:
        """Take a finish reason, or the error of a choice, unless what came with it broke it."""
        if self._failure is not None:
            return
        if error != NULL:
            self._fail(b'{"error":' + bytes(error) + b"}")
        elif reason in _BREAKS:
            # The chunk's own error, if it has one, says more: `_rest` looks for it.
            self._broken = Evidence(0, codes=frozenset({_BREAKS[reason]}))
        elif reason:
            self._is_whole = True
            self._finish = self._finish_of(reason)
            if self._reasoning and self._reasoning_chars <= decoding.STATE_CHARS_MAX:
                state = msgspec.json.encode(KeptState("".join(self._reasoning)))
                owner = state_owner(self._candidate)
                self._deltas.append(StateDelta(ProviderState(DIALECT, owner, state)))

    def _finish_of(self, word: str) -> Finish:
        reason = _FINISHES.get(word)
        if reason is None:
            return unknown_finish(word)
        if reason is _R.STOP and self._refused:
            return Finish(_R.REFUSAL)
        if reason is _R.STOP and self._calls:
            # A forced call ends with "stop" at OpenAI, any call at some servers.
            return Finish(_R.TOOL_CALLS)
        return Finish(reason)
