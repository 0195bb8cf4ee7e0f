"""The Anthropic Messages dialect as a codec."""

from typing import Final

from escalade_server.core.commands import Candidate
from escalade_server.core.task import Request
from escalade_server.providers import anthropic_encode
from escalade_server.providers.anthropic_decode import AnthropicDecoder
from escalade_server.providers.codec import Endpoint, WireRequest
from escalade_server.providers.json_codec import JsonCodec

VERSION: Final = "2023-06-01"


class AnthropicMessages(JsonCodec):
    """The codec; see `JsonCodec` for what is not the dialect's own."""

    name = anthropic_encode.DIALECT
    answers = AnthropicDecoder

    def encode(self, request: Request, candidate: Candidate, endpoint: Endpoint) -> WireRequest:
        """Make the HTTP request; see `JsonCodec.encode`."""
        # Both forms of the address are in use; the vendor's own has no version in it.
        base = endpoint.base_url.rstrip("/").removesuffix("/v1")
        return self.post(
            f"{base}/v1/messages",
            anthropic_encode.body(request, candidate),
            ("anthropic-version", VERSION),
            ("x-api-key", endpoint.api_key),
        )
