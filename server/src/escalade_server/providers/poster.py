"""Posts messages to other services than providers, over the one HTTP client."""

import asyncio

from escalade_server.engine.ports import PostFailedError
from escalade_server.providers.codec import WireRequest
from escalade_server.providers.http import HttpClient, TransportFailure


class HttpPoster:
    """``Poster`` over pooled connections that follow no redirect and trust no proxy variable."""

    def __init__(self, http: HttpClient) -> None:
        """Take the client, which somebody else opens and closes."""
        self._http = http

    async def post(
        self, url: str, headers: tuple[tuple[str, str], ...], body: bytes, timeout_ms: int
    ) -> int:
        """Send one message; its answer's body is of no interest, and is not read."""
        request = WireRequest("POST", url, headers, body, streamed=False)
        try:
            async with asyncio.timeout(timeout_ms / 1_000):
                response = await self._http.open(request)
        except TransportFailure as error:
            raise PostFailedError(f"{error}") from None
        except TimeoutError:
            raise PostFailedError(f"no answer within {timeout_ms / 1_000:g} s") from None
        status = response.status
        response.close(abort=True)
        return status
