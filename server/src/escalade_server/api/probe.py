"""Asks another server, as any client would: how long does a stream to it last?"""

import asyncio
from pathlib import Path

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

ANSWER_S = 5.0
_STRANGER = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}


class ProbeError(Exception):
    """There is no stream; ``is_answer`` where somebody refused it, else nobody is there."""

    def __init__(self, detail: str, mend: str, *, is_answer: bool = True) -> None:
        """Keep the mend next to what was found."""
        super().__init__(detail)
        self.mend, self.is_answer = mend, is_answer


async def hold_stream(
    address: str, whole_s: float, token: str | None, authority: str | None
) -> float:
    """Watch a server's health, which says one word and then nothing; answer for how long.

    ``whole_s`` is the most. ``authority`` is a PEM file; with it TLS is spoken.

    Raises:
        ProbeError: there is no stream at all.
    """
    try:
        async with _channel(address, authority) as channel:
            return await _lasted_s(channel, whole_s, token)
    except aio.AioRpcError as error:
        if error.code() in _STRANGER:
            mend = "Put a live token into ESCALADE_TOKEN."
            raise ProbeError(f"{address} does not know the caller", mend) from error
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            detail = f"{address} answers {error.code().name}: {error.details()}"
            raise ProbeError(detail, "Is that an Escalade server?") from error
    except TimeoutError:
        pass
    except OSError as error:
        detail = f"the authority {authority} cannot be read: {error.strerror}"
        raise ProbeError(detail, "Look at ESCALADE_TLS_CA.") from error
    mend = "Start `escalade serve`, or give the address that clients dial; ESCALADE_TLS_CA for TLS."
    raise ProbeError(f"nobody serves at {address}", mend, is_answer=False)


def _channel(address: str, authority: str | None) -> aio.Channel:
    if authority is None:
        return aio.insecure_channel(address)
    trusted = Path(authority).read_bytes()
    return aio.secure_channel(address, grpc.ssl_channel_credentials(trusted))


async def _lasted_s(channel: aio.Channel, whole_s: float, token: str | None) -> float:
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    stub = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service="escalade.v1.RouterService")
    call = stub.Watch(request, timeout=whole_s + 2 * ANSWER_S, metadata=metadata)
    async with asyncio.timeout(ANSWER_S):
        await call.read()  # raises if the call is refused
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    try:
        async with asyncio.timeout(whole_s):
            while await call.read() is not aio.EOF:
                pass
    except TimeoutError:
        call.cancel()
        return whole_s
    except aio.AioRpcError:
        pass
    return loop.time() - began_s
