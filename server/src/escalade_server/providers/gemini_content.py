"""The Gemini dialect (generateContent, streamed) as a codec."""

from collections.abc import Mapping
from urllib.parse import quote

from escalade_server.core.commands import Candidate
from escalade_server.core.failure import Failure
from escalade_server.core.task import Request
from escalade_server.providers import error_body, gemini_encode, signals
from escalade_server.providers.codec import Endpoint, WireRequest
from escalade_server.providers.gemini_decode import GeminiDecoder, beside_the_window
from escalade_server.providers.signal_tables import vendor_of


class GeminiContent:
    """Implements `Codec`. Holds nothing, so one is enough for all endpoints."""

    name = gemini_encode.DIALECT

    def encode(self, request: Request, candidate: Candidate, endpoint: Endpoint) -> WireRequest:
        """Make the HTTP request. It is always streamed: only so can silence be told from work.

        The key goes into a header, never into the address, which ends up in logs.

        Raises:
            ProviderFailure: BAD_REQUEST, not sent: the request has no form in this dialect.
        """
        headers = [("content-type", "application/json"), ("accept", "text/event-stream")]
        if endpoint.api_key:
            headers.append(("x-goog-api-key", endpoint.api_key))
        model = candidate.model.wire_id
        path = quote(model if "/" in model else f"models/{model}", safe="/")
        return WireRequest(
            method="POST",
            url=f"{endpoint.base_url.rstrip('/')}/{path}:streamGenerateContent?alt=sse",
            headers=tuple(headers),
            body=gemini_encode.body(request, candidate),
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
    ) -> GeminiDecoder:
        """Make a decoder for a 2xx answer whose headers came at ``now_ms``."""
        return GeminiDecoder(
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
        evidence = beside_the_window(error_body.read(status, headers, body), candidate)
        return signals.judge(vendor_of(provider, self.name), evidence, now_ms)
