"""The seam between a wire dialect and the rest: one module a dialect implements `Dialect`."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from escalade_server.provider_simulator.answer import Answer, Question
from escalade_server.provider_simulator.scenario import FaultKind
from escalade_server.provider_simulator.vendors import Vendor

SSE_TYPE = "text/event-stream"
BEARER = "bearer "


class BadRequestError(Exception):
    """The request is not what the vendor accepts."""

    def __init__(self, detail: str, param: str | None = None) -> None:
        """Takes the vendor's words, and the part of the request they are about."""
        super().__init__(detail)
        self.detail = detail
        self.param = param


class Asked(NamedTuple):
    """A request as it came in."""

    path: str
    """After the API's version."""
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What goes around an answer."""

    id: str
    created_s: int
    vendor: Vendor
    cost_pico: int
    question: Question
    fault: FaultKind | None = None
    reason: str | None = None
    """The vendor's own word, where the fault states one."""

    @property
    def usage_asked(self) -> bool:
        """Whether the caller wants usage at the end of a stream."""
        return self.question.usage_asked


class Piece(NamedTuple):
    """A frame, and the bytes of answer in it: what a vendor bills when it is the last one sent."""

    frame: bytes
    size_bytes: int


class Told(NamedTuple):
    """A streamed answer: frames in three parts."""

    opening: bytes
    pieces: Sequence[Piece]
    ending: bytes
    content_type: str = SSE_TYPE


class Dialect(Protocol):
    """A wire dialect; stateless."""

    def key(self, asked: Asked) -> str:
        """The caller's key, empty when there is none."""

    def question(self, asked: Asked, vendor: Vendor) -> Question:
        """Reads a request; raises `BadRequestError`."""

    def whole(self, answer: Answer, envelope: Envelope) -> bytes:
        """The body of an answer that is not streamed."""

    def stream(self, answer: Answer, envelope: Envelope) -> Told:
        """The frames of a streamed answer."""

    def broken_frame(self, answer: Answer, envelope: Envelope) -> bytes:
        """The frames with which a vendor tells that its stream broke."""

    def frame(self, data: bytes, envelope: Envelope) -> bytes:
        """A frame of the answer with this in place of its JSON."""

    def error_body(self, body: bytes, asked: Asked) -> bytes:
        """A refusal's JSON, as the form of the request has it."""

    def models(self, names: Sequence[str], owner: str) -> bytes:
        """The list of models."""


def bearer_key(headers: Mapping[str, str]) -> str:
    """The key in an `Authorization: Bearer` header, else nothing."""
    value = headers.get("authorization", "")
    return value[len(BEARER) :].strip() if value.lower().startswith(BEARER) else ""


def in_turns(lists: Iterable[Sequence[Piece]]) -> Iterator[Piece]:
    """One piece of each list after the other (U27)."""
    for row in itertools.zip_longest(*lists):
        yield from (piece for piece in row if piece is not None)
