"""The Anthropic Messages dialect as a codec."""

from collections.abc import Mapping
from typing import Final

from escalade_server.core.commands import Candidate
from escalade_server.core.failure import Failure
from escalade_server.core.task import Request
from escalade_server.providers import anthropic_encode, error_body, signals
from escalade_server.providers.anthropic_decode import AnthropicDecoder
from escalade_server.providers.codec import Endpoint, WireRequest
from escalade_server.providers.signal_tables import vendor_of

VERSION: Final = "2023-06-01"


class AnthropicMessages:
    """Implements `Codec`. Holds nothing, so one is enough for all endpoints."""

    name = anthropic_encode.DIALECT

    def encode(self, request: Request, candidate: Candidate, endpoint: Endpoint) -> WireRequest:
        """Make the HTTP request. It is always streamed: only so can silence be told from work.

        Raises:
            ProviderFailure: BAD_REQUEST, not sent: the request has no form in this dialect.
        """
        headers = [
            ("content-type", "application/json"),
            ("accept", "text/event-stream"),
            ("anthropic-version", VERSION),
        ]
        if endpoint.api_key:
            headers.append(("x-api-key", endpoint.api_key))
        # Both forms of the address are in use; the vendor's own has no version in it.
        base = endpoint.base_url.rstrip("/").removesuffix("/v1")
        return WireRequest(
            method="POST",
            url=f"{base}/v1/messages",
            headers=tuple(headers),
            body=anthropic_encode.body(request, candidate),
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
    ) -> AnthropicDecoder:
        """Make a decoder for a 2xx answer whose headers came at ``now_ms``."""
        return AnthropicDecoder(
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
