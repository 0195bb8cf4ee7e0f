"""The seam between dialects and transport: what a codec is. Codecs are pure (style, rule 8)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from escalade_server.core.commands import Candidate
from escalade_server.core.events import ChunkArrived
from escalade_server.core.failure import Failure
from escalade_server.core.task import Request


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and how one account of a provider is called; ``api_key`` never leaves the headers."""

    provider: str
    account: str
    base_url: str
    api_key: str
    """Empty where the provider needs none."""
    connect_ms: int | None = None
    """How long a connection may take; None: as the registry says."""

    def __repr__(self) -> str:
        """Show everything but the key (D6)."""
        return f"Endpoint({self.provider}/{self.account} at {self.base_url})"


@dataclass(frozen=True, slots=True, repr=False)
class WireRequest:
    """One HTTP request, ready to send. No repr: headers hold the key, the body the prompt."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    streamed: bool


class Decoder(Protocol):
    """Turns the bytes of one answer into events, whatever way they are split.

    One instance for one answer. ``finished`` turns True when nothing more can matter, so that
    reading may stop before the connection ends (DESIGN 6, guarantee 6).
    """

    @property
    def finished(self) -> bool:
        """True after the dialect's own end of stream."""
        ...

    def feed(self, data: bytes) -> ChunkArrived | Failure | None:
        """Take one read; answer what it held, a failure, or None if nothing of substance."""
        ...

    def close(self) -> ChunkArrived | Failure | None:
        """Take the end of the body, or stop reading; call again until None.

        Leftovers come first, then the failure of a body that was cut short or held one.
        """
        ...


class Codec(Protocol):
    """One wire dialect: request to wire, bytes to events, error to failure class."""

    name: str

    def encode(self, request: Request, candidate: Candidate, endpoint: Endpoint) -> WireRequest:
        """Make the HTTP request; the output bound is always sent (R13)."""
        ...

    def decoder(
        self,
        candidate: Candidate,
        attempt: int,
        *,
        streamed: bool,
        content_type: str,
        now_ms: int,
    ) -> Decoder:
        """Make a decoder for a 2xx answer whose headers came at ``now_ms``.

        The instant is for resets that an error inside the answer names.
        """
        ...

    def classify(
        self,
        candidate: Candidate,
        status: int,
        headers: Mapping[str, str],
        body: bytes,
        now_ms: int,
    ) -> Failure:
        """Say what a non-2xx answer means. Total: unknown is UNKNOWN, never guessed.

        Names in ``headers`` are in lower case.
        """
        ...
