"""Which provider serves a model: one per account, found by the account's key."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, Self

from escalade_server.core.catalog import Model
from escalade_server.engine.ports import Clock, Provider
from escalade_server.providers.anthropic_messages import AnthropicMessages
from escalade_server.providers.codec import Codec, Endpoint
from escalade_server.providers.dialect import DialectProvider, Heed, Witness, ignore
from escalade_server.providers.gemini_content import GeminiContent
from escalade_server.providers.http import CONNECT_TIMEOUT_MS, HttpClient
from escalade_server.providers.openai_chat import OpenAIChat

CODECS: Final[Mapping[str, Codec]] = MappingProxyType(
    {
        OpenAIChat.name: OpenAIChat(),
        AnthropicMessages.name: AnthropicMessages(),
        GeminiContent.name: GeminiContent(),
    }
)
"""The dialects that are built, by the name that a strategy gives them."""


class ProviderRegistry:
    """Implements `Providers`."""

    def __init__(self, providers: Mapping[str, Provider]) -> None:
        """Take providers by account key."""
        self._providers = dict(providers)

    @classmethod
    def over_http(
        cls,
        endpoints: Iterable[tuple[str, Endpoint]],
        http: HttpClient,
        clock: Clock,
        connect_timeout_ms: int = CONNECT_TIMEOUT_MS,
        *,
        heed: Heed = ignore,
        witness: Witness = ignore,
    ) -> Self:
        """Make a provider of each endpoint, which comes with its dialect.

        ``heed`` is told what good answers say is used up, ``witness`` the time of each answer.

        Raises:
            KeyError: a dialect that is not built.
        """
        return cls(
            {
                f"{endpoint.provider}/{endpoint.account}": DialectProvider(
                    CODECS[dialect], endpoint, http, clock, connect_timeout_ms, heed, witness
                )
                for dialect, endpoint in endpoints
            }
        )

    def of(self, model: Model) -> Provider:
        """Answer the provider of a model's account."""
        return self._providers[model.account_key]
