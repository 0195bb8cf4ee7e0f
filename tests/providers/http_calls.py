"""Calls as the tests of the HTTP client make them, with a key and a prompt to look out for."""

import traceback

import pytest

from escalade_server.providers.codec import WireRequest
from escalade_server.providers.http import HttpClient, TransportFailure
from tests.providers.raw_server import Peer

SECRET = "sk-canary-0123456789"
PROMPT = b'{"prompt": "canary-prompt"}'
NOTICED_S = 10.0
"""What never comes fails by then; what an idle connection is closed by takes longer."""


def post(url: str, body: bytes = PROMPT, key: str = SECRET) -> WireRequest:
    headers = (("Content-Type", "application/json"), ("Authorization", f"Bearer {key}"))
    return WireRequest("POST", url, headers, body, streamed=True)


async def whole(client: HttpClient, request: WireRequest) -> bytes:
    response = await client.open(request)
    try:
        got = b""
        while data := await response.read():
            got += data
        return got
    finally:
        response.close(abort=False)


async def broken(client: HttpClient, url: str) -> TransportFailure:
    """The failure of a call, which must not hold a secret anywhere (D6)."""
    with pytest.raises(TransportFailure) as caught:
        await whole(client, post(url))
    failure = caught.value
    assert failure.__cause__ is None
    assert failure.__context__ is None
    shown = "".join(traceback.format_exception(failure)) + repr(failure) + failure.detail
    assert SECRET not in shown
    assert "canary" not in shown
    assert "completions" not in shown
    return failure


async def answering(peer: Peer) -> None:
    while await peer.request():
        await peer.answer(b"ok")
