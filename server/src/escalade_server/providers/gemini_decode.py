"""Gemini's generated content, streamed or whole, as events: bytes in, `ChunkArrived` out."""

import dataclasses
import hashlib
from typing import Final

import msgspec
from msgspec import Raw, Struct

from escalade_server.core.commands import Candidate
from escalade_server.core.events import Finish, StateDelta, ToolCallDelta
from escalade_server.core.task import FinishReason, ProviderState, Usage
from escalade_server.providers import bounded_json, decoding
from escalade_server.providers.believed_usage import believed
from escalade_server.providers.decoding import (
    NULL,
    AnswerDecoder,
    finish_word,
    unknown_finish,
)
from escalade_server.providers.encoding import state_owner
from escalade_server.providers.error_body import Evidence
from escalade_server.providers.gemini_encode import (
    DIALECT,
    KeptState,
    SignedCall,
    SignedText,
)

_R = FinishReason
_F = _R.CONTENT_FILTER
_FINISHES: Final = {
    "STOP": _R.STOP,
    "MAX_TOKENS": _R.LENGTH,
    "SAFETY": _F,
    "RECITATION": _F,
    "LANGUAGE": _F,
    "BLOCKLIST": _F,
    "PROHIBITED_CONTENT": _F,
    "SPII": _F,
    "IMAGE_SAFETY": _F,
    "IMAGE_PROHIBITED_CONTENT": _F,
    "IMAGE_RECITATION": _F,
    "IMAGE_OTHER": _F,
    "MODEL_ARMOR": _F,
    "ESCALATION": _F,
}
# Finish reasons that are failures; the signal tables know them by the same word.
_BREAKS: Final = frozenset(
    {
        "MALFORMED_FUNCTION_CALL",
        "UNEXPECTED_TOOL_CALL",
        "TOO_MANY_TOOL_CALLS",
        "MISSING_THOUGHT_SIGNATURE",
        "MALFORMED_RESPONSE",
        "PUP_LIMITED_DISABLED",
    }
)
_NO_REASON: Final = "FINISH_REASON_UNSPECIFIED"


class _Call(Struct, gc=False):
    name: str = ""
    id: str | None = None
    args: Raw = NULL


class _Part(Struct, gc=False, rename="camel"):
    text: str | None = None
    thought: bool | None = None
    thought_signature: str | None = None
    function_call: _Call | None = None


class _Content(Struct, gc=False):
    parts: list[_Part] | None = None


class _Candidate(Struct, gc=False, rename="camel"):
    content: _Content | None = None
    finish_reason: str | None = None
    index: int = 0


class _Feedback(Struct, gc=False, rename="camel"):
    block_reason: str | None = None


class _Chunk(Struct, gc=False, rename="camel"):
    candidates: list[_Candidate] | None = None
    prompt_feedback: _Feedback | None = None
    usage_metadata: Raw = NULL
    model_version: str | None = None
    response_id: str | None = None
    error: Raw = NULL


class _Usage(Struct, gc=False, rename="camel"):
    prompt_token_count: int
    # A count of zero is left out.
    candidates_token_count: int = 0
    thoughts_token_count: int = 0
    tool_use_prompt_token_count: int = 0
    cached_content_token_count: int = 0


_CHUNK: Final = msgspec.json.Decoder(_Chunk)
_ARRAY: Final = msgspec.json.Decoder(list[Raw])
_USAGE: Final = msgspec.json.Decoder(_Usage)


def beside_the_window(evidence: Evidence, candidate: Candidate) -> Evidence:
    """Note that the input fills more than 80 % of the window, which a server error may be about.

    The estimate of a call's tokens is its input and a quarter, so it is then above the window.
    """
    window = candidate.model.context_tokens
    if window is None or candidate.tokens <= window:
        return evidence
    return dataclasses.replace(evidence, codes=evidence.codes | {"input_near_window"})


def read_usage(raw: Raw, candidate: Candidate) -> Usage | None:
    """Usage as we count it: output with reasoning, which stands beside it there."""
    try:
        told = _USAGE.decode(raw)
    except ValueError:
        return None
    counts = (told.prompt_token_count, told.tool_use_prompt_token_count)
    made = (told.candidates_token_count, told.thoughts_token_count)
    if min(*counts, *made) < 0:
        return None
    return believed(
        candidate,
        inputs=sum(counts),
        outputs=sum(made),
        cached=told.cached_content_token_count,
        reasoning=told.thoughts_token_count,
    )


class GeminiDecoder(AnswerDecoder):
    """Implements `Decoder` for generated content."""

    def __init__(
        self, candidate: Candidate, attempt: int, *, streamed: bool, content_type: str, now_ms: int
    ) -> None:
        """Begin an answer whose headers came at ``now_ms``."""
        super().__init__(
            candidate, attempt, streamed=streamed, content_type=content_type, now_ms=now_ms
        )
        self._response_id = ""
        self._chars = 0
        self._calls = 0
        self._signed: list[SignedText | SignedCall] = []
        self._signed_chars = 0
        self._latest: Raw = NULL

    def _frame(self, frame: bytes) -> None:
        """Take the data of one event: a chunk of the answer."""
        try:
            chunk = self._decode(_CHUNK, frame)
        except ValueError:
            self._break_json()
            return
        self._response_id = self._response_id or chunk.response_id or ""
        self._answers(chunk.model_version)
        for candidate in chunk.candidates or ():
            # We ask for one answer; of several, none may be spliced into it (U28).
            if candidate.index == 0 and not self._is_whole:
                for part in (candidate.content and candidate.content.parts) or ():
                    self._part(part)
                if candidate.finish_reason and candidate.finish_reason != _NO_REASON:
                    self._ends(candidate.finish_reason)
        feedback = chunk.prompt_feedback
        blocked = feedback.block_reason if feedback is not None else None
        if blocked and not chunk.candidates and not self._is_whole:
            self._is_whole = True
            self._finish = Finish(_F, finish_word(blocked))
        if chunk.error != NULL or not (
            chunk.candidates or feedback or chunk.usage_metadata != NULL
        ):
            self._fail(frame)
            self._unknown += 1
        self._count(chunk.usage_metadata)

    def _whole(self, body: bytes) -> None:
        """Take a body that is one JSON text: a chunk, or an array of them."""
        try:
            chunks = bounded_json.decode_as(_ARRAY, body) if body.startswith(b"[") else [Raw(body)]
        except ValueError:
            self._break_json()
            return
        for chunk in chunks:
            if self._failure is None:
                self._frame(bytes(chunk))
        if not self._is_whole and self._failure is None:
            if self._chars or self._calls:
                self._break("the answer ended before its end", "cut")
            else:
                self._break("no answer in the body", "empty_response")

    def _part(self, part: _Part) -> None:
        """Take one part; what signs it stays with it."""
        call, start = part.function_call, self._chars
        if call is not None:
            self._called(call)
        elif part.text and part.thought:
            self._thought(part.text)
        elif part.text:
            self._chars += len(part.text)
            self._wrote(part.text)
        signature = part.thought_signature
        if signature:
            self._signed_chars += len(signature)
            if self._signed_chars <= decoding.STATE_CHARS_MAX:
                self._signed.append(
                    SignedText(signature, start, self._chars)
                    if call is None
                    else SignedCall(signature, self._calls - 1)
                )

    def _called(self, call: _Call) -> None:
        """Take a call, which comes whole; without an id it gets one of its own.

        It must be known again among the calls of all turns, so it is made of the answer's id.
        """
        slot = self._calls
        if not self._has_room(slot):
            return
        self._calls += 1
        seed = f"{self._response_id}/{self._now_ms}/{slot}"
        given = call.id or f"call_{hashlib.sha256(seed.encode()).hexdigest()[:24]}"
        arguments = "{}" if call.args == NULL else bytes(call.args).decode()
        self._deltas.append(ToolCallDelta(slot, given, call.name, arguments))

    def _ends(self, word: str) -> None:
        """Take the finish reason, unless what came with it broke the answer."""
        if self._failure is not None:
            return
        if word in _BREAKS:
            self._judge(Evidence(0, codes=frozenset({word.lower()})))
            return
        self._is_whole = True
        self._finish = self._finish_of(word)
        if self._signed and self._signed_chars <= decoding.STATE_CHARS_MAX:
            state = msgspec.json.encode(KeptState(self._signed))
            owner = state_owner(self._candidate)
            self._deltas.append(StateDelta(ProviderState(DIALECT, owner, state)))

    def _finish_of(self, word: str) -> Finish:
        reason = _FINISHES.get(word)
        if reason is None:
            return unknown_finish(word)
        if reason is _R.STOP and self._calls:
            return Finish(_R.TOOL_CALLS)
        return Finish(reason, finish_word(word) if reason is _F else "")

    def _judge(self, evidence: Evidence) -> None:
        super()._judge(beside_the_window(evidence, self._candidate))

    def _count(self, raw: Raw) -> None:
        """Hand over usage with the ending: until then each chunk counts what came so far."""
        if raw != NULL:
            self._latest = raw
        if self._latest != NULL and (self._is_whole or self._failure is not None):
            self._used(read_usage(self._latest, self._candidate))
            self.finished = self.finished or (self._is_whole and raw != NULL)
