"""What the codecs of all dialects share: JSON posted, events read, failures judged by tables."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from escalade_server.core.commands import Candidate
from escalade_server.core.failure import Failure
from escalade_server.core.task import Request
from escalade_server.providers import error_body, signals
from escalade_server.providers.codec import Endpoint, WireRequest
from escalade_server.providers.decoding import AnswerDecoder
from escalade_server.providers.error_body import Evidence
from escalade_server.providers.signal_tables import vendor_of


class JsonCodec(ABC):
    """Implements `Codec` but for the request. Holds nothing: one is enough for all endpoints."""

    name: str
    answers: ClassVar[type[AnswerDecoder]]
    """What decodes an answer of this dialect."""

    @abstractmethod
    def encode(self, request: Request, candidate: Candidate, endpoint: Endpoint) -> WireRequest:
        """Make the HTTP request. It is always streamed: only so can silence be told from work.

        Raises:
            ProviderFailure: BAD_REQUEST, not sent: the request has no form in this dialect.
        """

    @staticmethod
    def post(url: str, body: bytes, *headers: tuple[str, str]) -> WireRequest:
        """Make the POST of a streamed answer; headers without a value are left out."""
        common = (("content-type", "application/json"), ("accept", "text/event-stream"))
        own = tuple((name, value) for name, value in headers if value)
        return WireRequest("POST", url, common + own, body, streamed=True)

    def decoder(
        self,
        candidate: Candidate,
        attempt: int,
        *,
        streamed: bool,
        content_type: str,
        now_ms: int,
    ) -> AnswerDecoder:
        """Make a decoder for a 2xx answer whose headers came at ``now_ms``."""
        return self.answers(
            candidate, attempt, streamed=streamed, content_type=content_type, now_ms=now_ms
        )

    def classify(
        self,
        candidate: Candidate,
        status: int,
        headers: Mapping[str, str],
        body: bytes,
        now_ms: int,
    ) -> Failure:
        """Say what a non-2xx answer means; ``headers`` have lower-case names."""
        evidence = self.look(error_body.read(status, headers, body), candidate)
        return signals.judge(vendor_of(candidate.model.provider, self.name), evidence, now_ms)

    def look(self, evidence: Evidence, candidate: Candidate) -> Evidence:
        """Add what only the request can tell; most dialects need nothing."""
        del candidate
        return evidence
