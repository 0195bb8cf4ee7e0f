"""An Anthropic message, streamed or whole, as events: bytes in, `ChunkArrived` out."""

from dataclasses import dataclass, field
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Raw, Struct

from escalade_server.core.commands import Candidate
from escalade_server.core.events import Finish, StateDelta, ToolCallDelta
from escalade_server.core.task import FinishReason, ProviderState, Usage
from escalade_server.providers import bounded_json, decoding
from escalade_server.providers.anthropic_encode import (
    ANSWER_TOOL,
    DIALECT,
    KeptBlock,
    KeptRedacted,
    KeptState,
    KeptThinking,
)
from escalade_server.providers.believed_usage import believed
from escalade_server.providers.decoding import (
    NULL,
    AnswerDecoder,
    finish_word,
    unknown_finish,
)
from escalade_server.providers.encoding import state_owner
from escalade_server.providers.error_body import Evidence

_R = FinishReason
_FINISHES: Final = {
    "end_turn": _R.STOP,
    "stop_sequence": _R.STOP,
    "max_tokens": _R.LENGTH,
    "tool_use": _R.TOOL_CALLS,
    "refusal": _R.REFUSAL,
    # The vendor's own tools may pause a turn. We send none, so it is an answer cut short.
    "pause_turn": _R.LENGTH,
}
# Stop reasons that are failures; the signal tables know them by the same word.
_BREAKS: Final = frozenset({"model_context_window_exceeded"})
_TOLD: Final = frozenset({"pause_turn"})
# After the stop reason only counts and the end are taken: nothing is spliced onto a whole answer.
_CONTENT: Final = frozenset(
    {"content_block_delta", "content_block_start", "content_block_stop", "message_start"}
)
_NO_INPUT: Final = frozenset({b"null", b"{}", b""})

_Index = Annotated[int, Meta(ge=0, le=1_023)]


class _Block(Struct, gc=False):
    type: str = ""
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: Raw = NULL


class _Details(Struct, gc=False):
    category: str | None = None


class _Delta(Struct, gc=False):
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None
    stop_details: _Details | None = None


class _Count(Struct, gc=False):
    thinking_tokens: int | None = None


class _Usage(Struct, gc=False):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    output_tokens_details: _Count | None = None


class _Message(Struct, gc=False):
    model: str | None = None
    content: list[_Block] | None = None
    usage: Raw = NULL
    stop_reason: str | None = None
    stop_details: _Details | None = None
    type: str = ""


class _Event(Struct, gc=False):
    type: str = ""
    index: _Index = 0
    delta: _Delta | None = None
    content_block: _Block | None = None
    message: _Message | None = None
    usage: Raw = NULL
    error: Raw = NULL


_EVENT: Final = msgspec.json.Decoder(_Event)
_WHOLE: Final = msgspec.json.Decoder(_Message)
_USAGE: Final = msgspec.json.Decoder(_Usage)


@dataclass(slots=True)
class _Open:
    """A block under way: what kind it is, where it began, and what is kept of it."""

    type: str
    chars: int
    calls: int
    slot: int = 0
    is_answer: bool = False
    input: bytes = b""
    has_arguments: bool = False
    signature: str = ""
    thinking: list[str] = field(default_factory=list)


class AnthropicDecoder(AnswerDecoder):
    """Implements `Decoder` for messages."""

    def __init__(
        self, candidate: Candidate, attempt: int, *, streamed: bool, content_type: str, now_ms: int
    ) -> None:
        """Begin an answer whose headers came at ``now_ms``."""
        super().__init__(
            candidate, attempt, streamed=streamed, content_type=content_type, now_ms=now_ms
        )
        self._open: dict[int, _Open] = {}
        self._chars = 0
        self._slots = 0
        self._answered = False
        self._counts = _Usage()
        self._kept: list[KeptBlock] = []
        self._kept_chars = 0

    def _frame(self, frame: bytes) -> None:
        """Take the data of one event."""
        try:
            event = self._decode(_EVENT, frame)
        except ValueError:
            self._break_json()
            return
        if self._is_whole and event.type in _CONTENT:
            return
        match event.type:
            case "content_block_delta":
                if event.delta is not None:
                    self._piece(event.index, event.delta)
            case "content_block_start":
                if event.content_block is not None:
                    self._begin(event.index, event.content_block)
            case "content_block_stop":
                self._stop(event.index)
            case "message_start":
                if event.message is not None:
                    self._answers(event.message.model)
                    self._count(event.message.usage)
                    # A count of what was made before it is made; the one that holds comes last.
                    self._counts.output_tokens = None
            case "message_delta":
                self._count(event.usage)
                if event.delta is not None and event.delta.stop_reason and not self._is_whole:
                    self._ends(event.delta.stop_reason, event.delta.stop_details)
                self._told(event.usage)
            case "message_stop":
                self.finished = True
            case _:
                # A ping, an error, or an event that is new (U29).
                if event.type == "error" or event.error != NULL:
                    self._fail(frame)
                elif event.type != "ping":
                    self._unknown += 1

    def _whole(self, body: bytes) -> None:
        """Take a body that is one JSON text."""
        try:
            message = bounded_json.decode_as(_WHOLE, body if body.startswith(b"{") else b"{}")
        except ValueError:
            self._break_json()
            return
        if message.type != "message":
            self._fail(body)
            if self._failure is None:
                self._break("no answer in the body", "empty_response")
            return
        self._answers(message.model)
        for index, block in enumerate(message.content or ()):
            self._begin(index, block)
            self._stop(index)
        self._count(message.usage)
        if message.stop_reason:
            self._ends(message.stop_reason, message.stop_details)
        self._told(message.usage)

    def _begin(self, index: int, block: _Block) -> None:
        """Take the beginning of a block, with what it already holds."""
        self._stop(index)
        is_call = block.type == "tool_use" and block.name != ANSWER_TOOL
        if is_call and not self._has_room(self._slots):
            return
        opened = self._open[index] = _Open(block.type, self._chars, self._slots)
        if block.type == "tool_use":
            opened.input = bytes(block.input)
            if not is_call:
                opened.is_answer = self._answered = True
            else:
                opened.slot = self._slots
                self._slots += 1
                delta = ToolCallDelta(opened.slot, block.id or "", block.name or "", "")
                self._deltas.append(delta)
        elif block.type == "redacted_thinking" and block.data:
            self._keep(opened, KeptRedacted(block.data), len(block.data))
        else:
            self._piece(
                index,
                _Delta(text=block.text, thinking=block.thinking, signature=block.signature),
            )

    def _piece(self, index: int, delta: _Delta) -> None:
        """Take a piece of a block. What it is, its own field says: blocks are not always begun."""
        if delta.text:
            self._chars += len(delta.text)
            self._wrote(delta.text)
        elif delta.thinking:
            self._thought(delta.thinking)
            opened = self._open.get(index)
            if opened is not None and self._kept_chars <= decoding.STATE_CHARS_MAX:
                self._kept_chars += len(delta.thinking)
                opened.thinking.append(delta.thinking)
        elif delta.partial_json:
            opened = self._open.get(index)
            if opened is not None and opened.type == "tool_use":
                self._argument(opened, delta.partial_json)
        if delta.signature:
            opened = self._open.get(index)
            if opened is not None:
                opened.signature = delta.signature

    def _argument(self, opened: _Open, piece: str) -> None:
        opened.has_arguments = True
        if opened.is_answer:
            self._wrote(piece)
        else:
            self._deltas.append(ToolCallDelta(opened.slot, "", "", piece))

    def _stop(self, index: int) -> None:
        """Take the end of a block: of a call without pieces, its input came at once or is empty."""
        opened = self._open.pop(index, None)
        if opened is None:
            return
        if opened.type == "tool_use" and not opened.has_arguments:
            whole = "{}" if opened.input in _NO_INPUT else opened.input.decode()
            self._argument(opened, whole)
        elif opened.signature:
            thinking = KeptThinking("".join(opened.thinking), opened.signature)
            self._keep(opened, thinking, len(opened.signature))

    def _keep(self, opened: _Open, block: KeptThinking | KeptRedacted, chars: int) -> None:
        self._kept_chars += chars
        if self._kept_chars <= decoding.STATE_CHARS_MAX:
            self._kept.append(KeptBlock(opened.chars, opened.calls, block))

    def _ends(self, word: str, details: _Details | None) -> None:
        """Take the stop reason, unless what came before it broke the answer."""
        if self._failure is not None:
            return
        for index in list(self._open):
            self._stop(index)
        if word in _BREAKS:
            self._judge(Evidence(0, codes=frozenset({word})))
            return
        self._is_whole = True
        self._finish = self._finish_of(word, (details and details.category) or "")
        if self._kept and self._kept_chars <= decoding.STATE_CHARS_MAX:
            state = msgspec.json.encode(KeptState(self._kept))
            owner = state_owner(self._candidate)
            self._deltas.append(StateDelta(ProviderState(DIALECT, owner, state)))

    def _finish_of(self, word: str, category: str) -> Finish:
        reason = _FINISHES.get(word)
        if reason is None:
            return unknown_finish(word)
        if reason is _R.TOOL_CALLS and self._answered and not self._slots:
            return Finish(_R.STOP)
        if reason is _R.STOP and self._slots:
            return Finish(_R.TOOL_CALLS)
        if reason is _R.REFUSAL:
            return Finish(reason, finish_word(category))
        return Finish(reason, word if word in _TOLD else "")

    def _count(self, raw: Raw) -> None:
        """Lay counts over those told before: they are totals, and the last ones hold (U26)."""
        try:
            told = _USAGE.decode(raw) if raw != NULL else _Usage()
        except ValueError:
            self._counts = _Usage()
            return
        for name in _Usage.__struct_fields__:
            value = getattr(told, name)
            if value is not None:
                setattr(self._counts, name, value)

    def _told(self, raw: Raw) -> None:
        """Hand over the usage with the ending; before it, output is not counted yet."""
        if raw == NULL:
            return
        self._used(self._read_usage())
        self.finished = self.finished or self._is_whole

    def _read_usage(self) -> Usage | None:
        """Usage as we count it: input with what was cached, which stands beside it there."""
        counts = self._counts
        if counts.input_tokens is None or counts.output_tokens is None:
            return None
        cached = counts.cache_read_input_tokens or 0
        written = counts.cache_creation_input_tokens or 0
        if min(counts.input_tokens, cached, written) < 0:
            return None
        details = counts.output_tokens_details or _Count()
        return believed(
            self._candidate,
            inputs=counts.input_tokens + cached + written,
            outputs=counts.output_tokens,
            cached=cached,
            cache_write=written,
            reasoning=details.thinking_tokens,
        )
