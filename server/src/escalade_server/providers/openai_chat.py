"""The OpenAI chat-completions dialect as a codec: of OpenAI and of everyone who speaks alike."""

from collections.abc import Mapping

from escalade_server.core.commands import Candidate
from escalade_server.core.failure import Failure
from escalade_server.core.task import Request
from escalade_server.providers import error_body, openai_encode, signals
from escalade_server.providers.codec import Endpoint, WireRequest
from escalade_server.providers.openai_decode import OpenAIDecoder
from escalade_server.providers.signal_tables import vendor_of


class OpenAIChat:
    """Implements `Codec`. Holds nothing, so one is enough for all endpoints."""

    name = openai_encode.DIALECT

    def encode(self, request: Request, candidate: Candidate, endpoint: Endpoint) -> WireRequest:
        """Make the HTTP request. It is always streamed: only so can silence be told from work.

        Raises:
            ProviderFailure: BAD_REQUEST, not sent: the request has no form in this dialect.
        """
        headers = [("content-type", "application/json"), ("accept", "text/event-stream")]
        if endpoint.api_key:
            headers.append(("authorization", f"Bearer {endpoint.api_key}"))
        return WireRequest(
            method="POST",
            url=f"{endpoint.base_url.rstrip('/')}/chat/completions",
            headers=tuple(headers),
            body=openai_encode.body(request, candidate),
            streamed=True,
        )

    def decoder(
        self,
        candidate: Candidate,
        attempt: int,
        *,
        streamed: bool,
        content_type: str,
        now_ms: int,
    ) -> OpenAIDecoder:
        """Make a decoder for a 2xx answer whose headers came at ``now_ms``."""
        return OpenAIDecoder(
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
        provider = candidate.model.provider
        evidence = error_body.read(status, headers, body)
        return signals.judge(vendor_of(provider, self.name), evidence, now_ms)
