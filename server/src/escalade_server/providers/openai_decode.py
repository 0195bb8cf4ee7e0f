"""An OpenAI chat completion, streamed or whole, as events: bytes in, `ChunkArrived` out.

The form is seen from the first byte, whatever the headers say: vendors answer a stream request
with an error as JSON (U11), with a whole answer, or with a login page (U12).
"""

import re
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw, Struct

from escalade_server.core.commands import Candidate
from escalade_server.core.events import (
    ChunkArrived,
    Delta,
    Finish,
    ReasoningDelta,
    StateDelta,
    TextDelta,
    ToolCallDelta,
)
from escalade_server.core.failure import Failure, FailureClass
from escalade_server.core.task import FinishReason, ProviderState, Usage
from escalade_server.providers import bounded_json
from escalade_server.providers.error_body import Evidence, examine, is_error
from escalade_server.providers.openai_encode import DIALECT, KeptState, state_owner
from escalade_server.providers.openai_quirks import quirks_of
from escalade_server.providers.openai_usage import read_cost_nanos, read_usage
from escalade_server.providers.signal_tables import vendor_of
from escalade_server.providers.signals import judge
from escalade_server.providers.sse import SseDecoder

BODY_BYTES_MAX: Final = 16 << 20
STATE_CHARS_MAX: Final = 1 << 20

_DONE: Final = b"[DONE]"
_BOM: Final = b"\xef\xbb\xbf"
_NULL: Final = Raw(b"null")
_WORD: Final = re.compile(r"[a-z_]{1,32}")
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
    error: Raw = _NULL
    index: int = 0


class _Chunk(Struct, gc=False):
    choices: list[_Choice] | None = None
    model: str | None = None
    usage: Raw = _NULL
    error: Raw = _NULL


class _WholeChoice(Struct, gc=False):
    message: _Delta | None = None
    finish_reason: str | None = None
    error: Raw = _NULL
    index: int = 0


class _Whole(Struct, gc=False):
    choices: list[_WholeChoice] | None = None
    model: str | None = None
    usage: Raw = _NULL
    error: Raw = _NULL


_CHUNK: Final = msgspec.json.Decoder(_Chunk)
_WHOLE: Final = msgspec.json.Decoder(_Whole)


class _Form(Enum):
    """What the first byte of the body says it is."""

    UNSEEN = "unseen"
    EVENTS = "events"
    WHOLE = "whole"


@dataclass(slots=True)
class _Call:
    """A tool call under way: its slot, and what of it has been told."""

    slot: int
    id: str = ""
    name: str = ""


class OpenAIDecoder:
    """Implements `Decoder`. After the finish reason nothing can break the answer any more (R26).

    What arrives with a failure is given first; the failure is the answer of a later ``close``.
    """

    def __init__(
        self, candidate: Candidate, attempt: int, *, streamed: bool, content_type: str, now_ms: int
    ) -> None:
        """Begin an answer whose headers came at ``now_ms``."""
        model = candidate.model
        self.finished = False
        self._candidate = candidate
        self._attempt = attempt
        self._may_stream = streamed and "html" not in content_type.lower()
        self._now_ms = now_ms
        self._quirks = quirks_of(model.provider, model.wire_id)
        self._form = _Form.UNSEEN
        self._sse = SseDecoder()
        self._body = bytearray()
        # Of the chunk under way, taken by `_take`.
        self._deltas: list[Delta] = []
        self._finish: Finish | None = None
        self._usage: Usage | None = None
        self._cost_nanos: int | None = None
        self._model = ""
        # Of the whole answer.
        self._failure: Failure | None = None
        self._answering = ""
        self._is_whole = False
        self._calls: dict[int, _Call] = {}
        self._slots: set[int] = set()
        self._broken: Evidence | None = None
        self._refused = False
        self._reasoning: list[str] = []
        self._reasoning_chars = 0
        self._anything = False

    def feed(self, data: bytes) -> ChunkArrived | None:
        """Take one read; answer what it held."""
        if self.finished:
            return None
        if self._form is not _Form.EVENTS:
            data = self._see(data)
            if not data:
                return None
        for frame in self._sse.feed(data):
            if frame == _DONE:
                self.finished = True
            else:
                self._frame(frame)
            if self.finished:
                break
        if self._sse.violation is not None and not self.finished:
            self._break("the stream is beyond its bounds", self._sse.violation.value)
        return self._take()

    def close(self) -> ChunkArrived | Failure | None:
        """Take the end of the body; call again until None: leftovers come before a failure."""
        if not self.finished:
            self.finished = True
            if self._form is _Form.WHOLE:
                self._whole(bytes(self._body))
                self._body.clear()
            else:
                self._sse.close()
                if self._anything or self._sse.truncated:
                    self._break("the stream ended before its end", "cut")
                else:
                    self._break("an empty answer", "empty_response")
        chunk = self._take()
        if chunk is not None:
            return chunk
        failure, self._failure = self._failure, None
        return failure

    def _see(self, data: bytes) -> bytes:
        """Find the form and keep the body; answer what of it an event stream has to take."""
        if self._form is _Form.UNSEEN:
            # Blank lines before an answer mean that it is queued; nothing of them is kept.
            data = (bytes(self._body) + data).lstrip()
            self._body.clear()
            if len(data) < len(_BOM) and _BOM.startswith(data):
                self._body += data
                return b""
            data = data.removeprefix(_BOM).lstrip()
            if data.startswith((b"{", b"[")):
                self._form = _Form.WHOLE
            elif data and self._may_stream and not data.startswith(b"<"):
                self._form = _Form.EVENTS
                return data
            elif data:
                self._break("a page or text instead of an answer", "not_an_answer")
        if self._form is _Form.WHOLE:
            self._body += data
            if len(self._body) > BODY_BYTES_MAX:
                self._body.clear()
                self._break("the body is beyond its bounds", "body_too_long")
        return b""

    def _take(self) -> ChunkArrived | None:
        """Hand over what has gathered since the last time."""
        deltas = tuple(self._deltas)
        self._deltas.clear()
        if not (self._finish or self._usage or self._model):
            return ChunkArrived(self._attempt, deltas) if deltas else None
        chunk = ChunkArrived(
            self._attempt, deltas, self._finish, self._usage, self._model, self._cost_nanos
        )
        self._finish = self._usage = self._cost_nanos = None
        self._model = ""
        return chunk

    def _frame(self, frame: bytes) -> None:
        """Take the data of one event."""
        self._anything = True
        try:
            # Few brackets cannot nest deeply: the check of `decode_as`, without its calls.
            few = frame.count(b"{") + frame.count(b"[") <= bounded_json.DEPTH_MAX
            chunk = _CHUNK.decode(frame) if few else bounded_json.decode_as(_CHUNK, frame)
        except ValueError:
            self._break("an event that is not JSON as agreed", "invalid_json")
            return
        choices = chunk.choices
        for choice in choices or ():
            # We ask for one answer; of several, none may be spliced into it (U28).
            if choice.index == 0 and not self._is_whole:
                if choice.delta is not None:
                    self._said(choice.delta)
                if choice.finish_reason is not None or choice.error != _NULL:
                    self._ends(choice.finish_reason, choice.error)
        if (
            chunk.model != self._answering
            or not choices
            or chunk.usage != _NULL
            or chunk.error != _NULL
            or self._broken is not None
        ):
            self._rest(chunk, frame)

    def _whole(self, body: bytes) -> None:
        """Take a body that is one JSON text."""
        try:
            answer = bounded_json.decode_as(_WHOLE, body if body.startswith(b"{") else b"{}")
        except ValueError:
            self._break("a body that is not JSON as agreed", "invalid_json")
            return
        for choice in (answer.choices or ())[:1]:
            if choice.message is not None:
                for number, call in enumerate(choice.message.tool_calls or ()):
                    call.index = number
                self._said(choice.message)
            if choice.finish_reason is not None or choice.error != _NULL:
                self._ends(choice.finish_reason, choice.error)
        self._rest(answer, body)
        if not answer.choices and self._failure is None:
            self._break("no answer in the body", "empty_response")

    def _rest(self, told: _Chunk | _Whole, text: bytes) -> None:
        """Take what stands beside the choices: error, usage, the answering model."""
        if told.error != _NULL or not told.choices:
            # Rare, so a second look at the text costs nothing that counts.
            self._fail(text)
        if self._broken is not None and self._failure is None:
            self._judge(self._broken)
        if told.model and told.model != self._answering:
            self._answering = self._model = told.model
        if told.usage != _NULL:
            usage = read_usage(told.usage, self._candidate)
            if usage is not None:
                self._usage = usage
                if self._quirks.costs:
                    self._cost_nanos = read_cost_nanos(told.usage)
            # Usage that is beyond belief ends the waiting for it, too.
            self.finished = self.finished or self._is_whole

    def _said(self, delta: _Delta) -> None:
        """Take the substance of one delta; neighbours of one kind become one."""
        deltas = self._deltas
        thought = delta.reasoning_content or delta.reasoning
        if thought:
            self._thought(thought)
        # The words of a refusal are the answer's text; that it is one, the finish says.
        text = delta.content or delta.refusal
        if text:
            last = deltas[-1] if deltas else None
            if type(last) is TextDelta:
                deltas[-1] = TextDelta(last.text + text)
            else:
                deltas.append(TextDelta(text))
        if delta.refusal:
            self._refused = True
        if delta.tool_calls:
            for call in delta.tool_calls:
                self._called(call)

    def _thought(self, text: str) -> None:
        deltas = self._deltas
        last = deltas[-1] if deltas else None
        if type(last) is ReasoningDelta:
            deltas[-1] = ReasoningDelta(last.text + text)
        else:
            deltas.append(ReasoningDelta(text))
        if self._quirks.returns_reasoning and self._reasoning_chars <= STATE_CHARS_MAX:
            self._reasoning_chars += len(text)
            self._reasoning.append(text)

    def _called(self, piece: _ToolCall) -> None:
        """Pass a piece of a tool call on: arguments verbatim, id and name once (U27)."""
        function = piece.function or _Function()
        index = self._index(piece)
        call = self._calls.get(index)
        # Another id under the same index is another call: some servers number them all 0.
        if call is None or (piece.id and call.id and piece.id != call.id):
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
        """Take a finish reason, or the error of a choice."""
        if error != _NULL:
            self._fail(b'{"error":' + bytes(error) + b"}")
        elif reason in _BREAKS:
            # The chunk's own error, if it has one, says more: `_rest` looks for it.
            self._broken = Evidence(0, codes=frozenset({_BREAKS[reason]}))
        elif reason:
            self._is_whole = True
            self._finish = self._finish_of(reason)
            if self._reasoning and self._reasoning_chars <= STATE_CHARS_MAX:
                state = msgspec.json.encode(KeptState("".join(self._reasoning)))
                owner = state_owner(self._candidate)
                self._deltas.append(StateDelta(ProviderState(DIALECT, owner, state)))

    def _finish_of(self, word: str) -> Finish:
        reason = _FINISHES.get(word)
        if reason is None:
            # A word we do not know still says that the answer is whole (R26).
            return Finish(_R.STOP, word if _WORD.fullmatch(word) else "")
        if reason is _R.STOP and self._refused:
            return Finish(_R.REFUSAL)
        if reason is _R.STOP and self._calls:
            # A forced call ends with "stop" at OpenAI, any call at some servers.
            return Finish(_R.TOOL_CALLS)
        return Finish(reason)

    def _fail(self, text: bytes) -> None:
        """Look whether a JSON text is an error, and if so end with it."""
        try:
            value = bounded_json.decode(text)
        except ValueError:
            self._break("an event that is not JSON as agreed", "invalid_json")
            return
        if is_error(value):
            self._judge(examine(0, {}, value))

    def _judge(self, evidence: Evidence) -> None:
        provider = self._candidate.model.provider
        self._end(judge(vendor_of(provider), provider, evidence, self._now_ms))

    def _break(self, what: str, code: str) -> None:
        provider = self._candidate.model.provider
        detail = f"{provider}: {what} ({code})"
        self._end(Failure(FailureClass.PROTOCOL, detail, code=code))

    def _end(self, failure: Failure) -> None:
        self.finished = True
        if not self._is_whole and self._failure is None:
            self._failure = failure
