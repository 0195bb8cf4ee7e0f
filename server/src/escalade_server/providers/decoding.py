"""What the decoders of all dialects share: the form of a body, its bounds, and how it ends.

The form is seen from the first byte, whatever the headers say: vendors answer a stream request
with an error as JSON (U11), with a whole answer, or with a login page (U12).
"""

import re
from abc import ABC, abstractmethod
from enum import Enum
from typing import Final, TypeVar

import msgspec

from escalade_server.core.commands import Candidate
from escalade_server.core.events import ChunkArrived, Delta, Finish, ReasoningDelta, TextDelta
from escalade_server.core.failure import Failure, FailureClass
from escalade_server.core.task import FinishReason, Usage
from escalade_server.core.trace import Oddities
from escalade_server.providers import bounded_json, utf8
from escalade_server.providers.error_body import Evidence, examine, is_error
from escalade_server.providers.signal_tables import vendor_of
from escalade_server.providers.signals import judge
from escalade_server.providers.sse import SseDecoder

T = TypeVar("T")

BODY_BYTES_MAX: Final = 2 << 20
"""Of an answer that is one JSON text: it is held until it is whole, in every call at once."""
STATE_CHARS_MAX: Final = 1 << 20
"""Of what a vendor wants back: a longer state is not kept."""
NAME_CHARS_MAX: Final = 256
"""Of the answering model's name, which goes into records."""
CALLS_MAX: Final = 1_024
"""Of tools, in one answer."""
NULL: Final = msgspec.Raw(b"null")

_DONE: Final = b"[DONE]"
_WORD: Final = re.compile(r"[a-z_]{1,48}")


class Form(Enum):
    """What the first byte of the body says it is."""

    UNSEEN = "unseen"
    EVENTS = "events"
    WHOLE = "whole"


def finish_word(word: str) -> str:
    """A vendor's word as the detail of a finish, if it is one."""
    word = word.lower()
    return word if _WORD.fullmatch(word) else ""


def unknown_finish(word: str) -> Finish:
    """A word we do not know still says that the answer is whole (R26)."""
    return Finish(FinishReason.STOP, finish_word(word))


class AnswerDecoder(ABC):
    """Implements `Decoder` but for what stands in a frame or a whole body.

    After the finish reason nothing can break the answer any more (R26). What arrives with a
    failure is given first; the failure is the answer of a later ``close``.
    """

    def __init__(
        self, candidate: Candidate, attempt: int, *, streamed: bool, content_type: str, now_ms: int
    ) -> None:
        """Begin an answer whose headers came at ``now_ms``."""
        self.finished = False
        self._candidate = candidate
        self._attempt = attempt
        self._may_stream = streamed and "html" not in content_type.lower()
        self._now_ms = now_ms
        self._form = Form.UNSEEN
        self._sse = SseDecoder()
        self._alike = bounded_json.Alike()
        self._body = bytearray()
        # Of the chunk under way, taken by `_take`.
        self._deltas: list[Delta] = []
        self._finish: Finish | None = None
        self._usage: Usage | None = None
        self._cost_nanos: int | None = None
        self._model = ""
        self._is_odd = False
        # Of the whole answer.
        self._unknown = 0  # events that are new, or say nothing (U29)
        self._unbelievable = False
        self._failure: Failure | None = None
        self._answering = ""
        self._is_whole = False
        self._anything = False

    @abstractmethod
    def _frame(self, frame: bytes) -> None:
        """Take the data of one event."""

    @abstractmethod
    def _whole(self, body: bytes) -> None:
        """Take a body that is one JSON text."""

    def feed(self, data: bytes) -> ChunkArrived | None:
        """Take one read; answer what it held."""
        if self.finished:
            return None
        if self._form is not Form.EVENTS:
            data = self._see(data)
            if not data:
                return None
        for frame in self._sse.feed(data):
            if frame == _DONE:
                self.finished = True
            else:
                self._anything = True
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
            if self._form is Form.WHOLE:
                body, replaced = utf8.mended(bytes(self._body))
                self._body.clear()
                self._sse.replaced += replaced
                self._whole(body)
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

    def _decode(self, decoder: msgspec.json.Decoder[T], frame: bytes) -> T:
        """Decode a frame; most are like the one before, and cheap to check.

        Raises:
            ValueError: as of ``bounded_json.decode_as``.
        """
        if self._alike.is_sound(frame):
            return decoder.decode(frame)
        raise ValueError(bounded_json.UNSOUND)

    def _see(self, data: bytes) -> bytes:
        """Find the form and keep the body; answer what of it an event stream has to take."""
        if self._form is Form.UNSEEN:
            # Blank lines before an answer mean that it is queued; nothing of them is kept.
            data = (bytes(self._body) + data).lstrip()
            self._body.clear()
            bare = data.removeprefix(utf8.BOM).lstrip()
            if not bare or (len(data) < len(utf8.BOM) and utf8.BOM.startswith(data)):
                # Nothing but a mark or the beginning of one; a second mark is not one (U17).
                self._body += data[: len(utf8.BOM)]
                return b""
            data = bare
            if data.startswith((b"{", b"[")):
                self._form = Form.WHOLE
            elif self._may_stream and not data.startswith(b"<"):
                self._form = Form.EVENTS
                return utf8.BOM + data  # its own mark is off, and this one goes in its place
            else:
                self._break("a page or text instead of an answer", "not_an_answer")
        if self._form is Form.WHOLE:
            self._body += data
            if len(self._body) > BODY_BYTES_MAX:
                self._body.clear()
                self._break("the body is beyond its bounds", "body_too_long")
        return b""

    def _take(self) -> ChunkArrived | None:
        """Hand over what has gathered since the last time."""
        deltas = tuple(self._deltas)
        self._deltas.clear()
        if not (self._finish or self._usage or self._model or self._is_odd):
            return ChunkArrived(self._attempt, deltas) if deltas else None
        unknown = self._sse.unknown + self._unknown
        odd = Oddities(self._sse.replaced, unknown, self._unbelievable)
        chunk = ChunkArrived(
            self._attempt,
            deltas,
            self._finish,
            self._usage,
            self._model,
            self._cost_nanos,
            odd if any(odd) else None,
        )
        self._finish = self._usage = self._cost_nanos = None
        self._model = ""
        self._is_odd = False
        return chunk

    def _wrote(self, text: str) -> None:
        """Take a piece of the answer's text; neighbours of one kind become one."""
        deltas = self._deltas
        last = deltas[-1] if deltas else None
        if type(last) is TextDelta:
            deltas[-1] = TextDelta(last.text + text)
        else:
            deltas.append(TextDelta(text))

    def _thought(self, text: str) -> None:
        """Take a piece of visible reasoning."""
        deltas = self._deltas
        last = deltas[-1] if deltas else None
        if type(last) is ReasoningDelta:
            deltas[-1] = ReasoningDelta(last.text + text)
        else:
            deltas.append(ReasoningDelta(text))

    def _has_room(self, calls: int) -> bool:
        """Whether an answer of so many calls may hold one more; it ends here if not."""
        if calls < CALLS_MAX:
            return True
        self._break("more calls than an answer may hold", "too_many_calls")
        return False

    def _answers(self, model: str | None) -> None:
        """Take the name of the model that answers; it is told when it changes (U30)."""
        name = (model or "")[:NAME_CHARS_MAX]
        if name and name != self._answering:
            self._answering = self._model = name

    def _used(self, usage: Usage | None) -> None:
        """Take usage as it was told, None if it is not to be believed; the last one holds (U26)."""
        self._usage = usage
        self._unbelievable = self._is_odd = usage is None

    def _fail(self, text: bytes) -> None:
        """Look whether a JSON text is an error, and if so end with it."""
        try:
            value = bounded_json.decode(text)
        except ValueError:
            self._break_json()
            return
        if is_error(value):
            self._judge(examine(0, {}, value))

    def _judge(self, evidence: Evidence) -> None:
        model = self._candidate.model
        vendor = vendor_of(model.provider, model.dialect)
        self._end(judge(vendor, evidence, self._now_ms))

    def _break_json(self) -> None:
        self._break("JSON that is not as agreed", "invalid_json")

    def _break(self, what: str, code: str) -> None:
        self._end(Failure(FailureClass.PROTOCOL, f"{what} ({code})", code=code))

    def _end(self, failure: Failure) -> None:
        self.finished = True
        if not self._is_whole and self._failure is None:
            self._failure = failure
