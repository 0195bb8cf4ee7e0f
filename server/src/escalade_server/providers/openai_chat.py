"""The OpenAI chat-completions dialect as a codec: of OpenAI and of everyone who speaks alike."""

from escalade_server.core.commands import Candidate
from escalade_server.core.task import Request
from escalade_server.providers import openai_encode
from escalade_server.providers.codec import Endpoint, WireRequest
from escalade_server.providers.json_codec import JsonCodec
from escalade_server.providers.openai_decode import OpenAIDecoder


class OpenAIChat(JsonCodec):
    """The codec; see `JsonCodec` for what is not the dialect's own."""

    name = openai_encode.DIALECT
    answers = OpenAIDecoder

    def encode(self, request: Request, candidate: Candidate, endpoint: Endpoint) -> WireRequest:
        """Make the HTTP request; see `JsonCodec.encode`."""
        return self.post(
            f"{endpoint.base_url.rstrip('/')}/chat/completions",
            openai_encode.body(request, candidate),
            ("authorization", endpoint.api_key and f"Bearer {endpoint.api_key}"),
        )
