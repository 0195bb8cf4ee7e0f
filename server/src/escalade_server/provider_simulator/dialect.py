"""The seam between a wire dialect and the rest: one module a dialect implements `Dialect`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from escalade_server.provider_simulator.answer import Answer, Question
from escalade_server.provider_simulator.scenario import FaultKind
from escalade_server.provider_simulator.vendors import Vendor


class BadRequestError(Exception):
    """The request is not what the vendor accepts."""

    def __init__(self, detail: str, param: str | None = None) -> None:
        """Takes the vendor's words, and the part of the request they are about."""
        super().__init__(detail)
        self.detail = detail
        self.param = param


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """What goes around an answer."""

    id: str
    created_s: int
    vendor: Vendor
    cost_pico: int
    usage_asked: bool
    fault: FaultKind | None = None


class Piece(NamedTuple):
    """A frame, and the bytes of answer in it: what a vendor bills when it is the last one sent."""

    frame: bytes
    size_bytes: int


class Told(NamedTuple):
    """A streamed answer: frames in three parts."""

    opening: bytes
    pieces: Sequence[Piece]
    ending: bytes


class Dialect(Protocol):
    """A wire dialect; stateless."""

    def question(self, path: str, body: bytes, vendor: Vendor) -> Question:
        """Reads a request; raises `BadRequestError`."""

    def whole(self, answer: Answer, envelope: Envelope) -> bytes:
        """The body of an answer that is not streamed."""

    def stream(self, answer: Answer, envelope: Envelope) -> Told:
        """The frames of a streamed answer."""

    def broken_frame(self, answer: Answer, envelope: Envelope) -> bytes:
        """The frames with which a vendor tells that its stream broke."""

    def garbage(self) -> bytes:
        """A frame whose data is no JSON."""

    def models(self, names: Sequence[str], owner: str) -> bytes:
        """The list of models."""
