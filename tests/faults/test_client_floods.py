"""Fault C12: rapid reset, floods of control frames, thousands of connections; others see nothing.

The flood comes over raw frames; beside it another client makes calls all the time, over a channel
of its own. Server, flood and client share this process, so its memory bounds the server's.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from escalade_server.provider_simulator import ModelScript
from tests.api.world import ask
from tests.faults.http2 import (
    CANCEL,
    DATA,
    END_STREAM,
    MAX_CONCURRENT_STREAMS,
    PING,
    RST_STREAM,
    SETTINGS,
    Http2,
    frame,
    http2,
    message,
)
from tests.faults.machine import grown_mb, until
from tests.faults.served import KEY, Served, served

STRATEGY = f"""\
fallback_strategy:
  layers:
    - name: free
      priority: 1
      cost_per_month: 0
      models:
        - {{provider: openai, model: mini, rate_limit: 1000000/day}}
providers:
  openai: {{base_url: <openai>, api_key_env: {KEY}}}
"""
READY = {"openai": {"mini": ModelScript()}}
BATCH, ROUNDS = 100, 60
"""Frames that go out together, and how often: 6,000 of each flood."""


@dataclass(slots=True)
class Others:
    """What another client lived through meanwhile."""

    codes: list[grpc.StatusCode] = field(default_factory=list)
    slowest_s: float = 0.0


@asynccontextmanager
async def others(world: Served) -> AsyncIterator[Others]:
    """Make calls, one after the other, all the time."""
    seen, loop = Others(), asyncio.get_running_loop()
    enough = asyncio.Event()

    async def work() -> None:
        while not (enough.is_set() and len(seen.codes) >= 10):
            begun = loop.time()
            seen.codes.append((await world.ask()).code)
            seen.slowest_s = max(seen.slowest_s, loop.time() - begun)

    working = asyncio.ensure_future(work())
    try:
        yield seen
        enough.set()
        await asyncio.wait_for(working, 60)
    finally:
        working.cancel()


async def resets_headers(peer: Http2) -> None:
    """Open a stream and reset it, at once."""
    for _ in range(ROUNDS):
        made = [peer.head() for _ in range(BATCH)]
        await peer.send(b"".join(h + frame(RST_STREAM, 0, n, CANCEL) for n, h in made))


async def resets_calls(peer: Http2) -> None:
    """Make whole calls, and reset each at once."""
    body = message(ask().SerializeToString())
    for _ in range(ROUNDS // 4):
        made = [peer.head() for _ in range(BATCH)]
        await peer.send(
            b"".join(
                h + frame(DATA, END_STREAM, n, body) + frame(RST_STREAM, 0, n, CANCEL)
                for n, h in made
            )
        )
        await asyncio.sleep(0.01)  # the connection's window is what the server makes it


async def pings(peer: Http2) -> None:
    for _ in range(ROUNDS):
        await peer.send(frame(PING, 0, 0, b"flooding") * BATCH)


async def settings(peer: Http2) -> None:
    for _ in range(ROUNDS):
        await peer.send(frame(SETTINGS, 0, 0, b"\x00\x03\x00\x00\x00\x64") * BATCH)


async def half_open(peer: Http2) -> None:
    """Open far more streams than are allowed, and finish none."""
    for _ in range(ROUNDS):
        await peer.send(b"".join(peer.head()[1] for _ in range(BATCH)))


async def nonsense(peer: Http2) -> None:
    """Frames of a kind that nobody knows, and data for streams that nobody opened."""
    for _ in range(ROUNDS):
        await peer.send(frame(0xFA, 0, 0, b"x" * 100) * BATCH)
    await peer.send(frame(DATA, 0, 99, b"x" * 100))


FLOODS = (resets_headers, resets_calls, pings, settings, half_open, nonsense)


@pytest.mark.fault("C12")
@pytest.mark.parametrize("flood", FLOODS)
async def test_a_flood_on_one_connection_is_no_fault_of_anothers(
    tmp_path: Path, flood: Callable[[Http2], Awaitable[None]]
) -> None:
    async with served(tmp_path, STRATEGY, READY) as world:
        port = int(world.running.target.rpartition(":")[2])
        engine = world.running.engine
        async with grown_mb() as grown, others(world) as seen:
            for _ in range(3):
                async with http2(port) as peer:
                    with suppress(ConnectionError):
                        await flood(peer)
                    if flood is pings:
                        await peer.until(lambda: bool(peer.goaway))
                        assert peer.goaway or peer.ended.is_set(), "it is sent away"
                    told = peer.settings
        await until(lambda: engine.running == 0)
        held = world.held()
    assert set(seen.codes) == {grpc.StatusCode.OK}
    assert seen.slowest_s < 10, "slower than alone, but served"
    assert grown.most < 100
    assert held == 0
    assert told.get(MAX_CONCURRENT_STREAMS, 1_000) == 1_000


CONNECTIONS = 1_500


@pytest.mark.fault("C12")
async def test_thousands_of_connections_that_say_nothing_leave_room_for_others(
    tmp_path: Path,
) -> None:
    async with served(tmp_path, STRATEGY, READY) as world:
        port = int(world.running.target.rpartition(":")[2])
        async with grown_mb() as grown, others(world) as seen, AsyncExitStack() as stack:
            for at in range(CONNECTIONS):
                if at % 3:  # says hello
                    await stack.enter_async_context(http2(port))
                else:  # says nothing
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    stack.callback(writer.close)
        after = await world.ask()
    assert set(seen.codes) == {grpc.StatusCode.OK}
    assert after.code is grpc.StatusCode.OK
    assert grown.most * 1e6 / CONNECTIONS < 150_000, "both ends of each together"
