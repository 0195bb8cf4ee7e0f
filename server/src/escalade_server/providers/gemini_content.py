"""The Gemini dialect (generateContent, streamed) as a codec."""

from urllib.parse import quote

from escalade_server.core.commands import Candidate
from escalade_server.core.task import Request
from escalade_server.providers import gemini_encode
from escalade_server.providers.codec import Endpoint, WireRequest
from escalade_server.providers.error_body import Evidence
from escalade_server.providers.gemini_decode import GeminiDecoder, beside_the_window
from escalade_server.providers.json_codec import JsonCodec


class GeminiContent(JsonCodec):
    """The codec; see `JsonCodec` for what is not the dialect's own."""

    name = gemini_encode.DIALECT
    answers = GeminiDecoder

    def encode(self, request: Request, candidate: Candidate, endpoint: Endpoint) -> WireRequest:
        """Make the HTTP request; see `JsonCodec.encode`.

        The key goes into a header, never into the address, which ends up in logs.
        """
        model = candidate.model.wire_id
        path = quote(model if "/" in model else f"models/{model}", safe="/")
        return self.post(
            f"{endpoint.base_url.rstrip('/')}/{path}:streamGenerateContent?alt=sse",
            gemini_encode.body(request, candidate),
            ("x-goog-api-key", endpoint.api_key),
        )

    def look(self, evidence: Evidence, candidate: Candidate) -> Evidence:
        """Set an internal error beside the window: it may mean that the input was too long."""
        return beside_the_window(evidence, candidate)
