"""A request id that comes again (R27), from the SDK to the disk: cut streams and killed servers."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

import escalade
from escalade_server.provider_simulator import ModelScript
from tests.e2e.world import World, reference, world
from tests.stores.world import rows

MODEL = "anthropic/claude-3-haiku"
TEXT = "Three layers, one door."
HARD = escalade.Task("architecture", file_count=10, tokens=50_000)
SLOW = {MODEL: ModelScript(text=TEXT, first_token_ms=1_500)}
QUICK = {MODEL: ModelScript(text=TEXT)}


class Road:
    """Carries bytes between clients and a server; can lose the clients, and not the server."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.cuts = 0
        self._clients: list[asyncio.StreamWriter] = []
        self._ends: list[asyncio.StreamWriter] = []
        self._works: set[asyncio.Task[None]] = set()

    def cut(self) -> None:
        """Reset every connection to a client; the server sees nothing of it."""
        for client in self._clients:
            client.transport.abort()
        self.cuts += len(self._clients)
        self._clients.clear()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self.port)
        self._clients.append(writer)
        self._ends += [writer, to_server]
        for pump in (_pump(reader, to_server), _pump(from_server, writer)):
            work = asyncio.ensure_future(pump)
            self._works.add(work)
            work.add_done_callback(self._works.discard)

    async def close(self) -> None:
        for work in list(self._works):
            work.cancel()
        await asyncio.gather(*self._works, return_exceptions=True)
        for end in self._ends:
            end.close()
            with suppress(OSError):
                await end.wait_closed()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Carry one way for ever; where nobody takes it any more, it is lost."""
    with suppress(OSError):
        while data := await reader.read(65_536):
            with suppress(OSError):
                writer.write(data)
                await writer.drain()
    await asyncio.Event().wait()  # an end on one side is no news for the other


@asynccontextmanager
async def road(made: World) -> AsyncIterator[tuple[Road, str]]:
    """Put a road between clients and a server; answer it and its address."""
    carrier = Road(int(made.target.rpartition(":")[2]))
    server = await asyncio.start_server(carrier.carry, "127.0.0.1", 0)
    try:
        yield carrier, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await carrier.close()


async def until(happened: Callable[[], object]) -> None:
    """Wait for what is seen from outside only."""
    while not happened():  # noqa: ASYNC110 - another process does it
        await asyncio.sleep(0.02)


def hard(client: escalade.AsyncClient, request_id: str) -> Awaitable[escalade.Answer]:
    return client.complete("Design it.", task=HARD, request_id=request_id)


async def streamed(
    client: escalade.AsyncClient, on_event: Callable[[escalade.Announcement], None]
) -> escalade.Answer:
    async with client.stream("Design it.", task=HARD, timeout=30, on_event=on_event) as stream:
        text = "".join([piece async for piece in stream.text])
        answer = await stream.answer()
    assert answer.text == text
    return answer


async def whole(
    client: escalade.AsyncClient, on_event: Callable[[escalade.Announcement], None]
) -> escalade.Answer:
    return await client.complete("Design it.", task=HARD, timeout=30, on_event=on_event)


@pytest.mark.parametrize("ask", [whole, streamed])
async def test_a_road_that_loses_the_client_costs_one_run_and_one_charge(
    tmp_path: Path,
    ask: Callable[
        [escalade.AsyncClient, Callable[[escalade.Announcement], None]], Awaitable[escalade.Answer]
    ],
) -> None:
    async with (
        world(tmp_path, reference(2), SLOW) as made,
        road(made) as (carrier, target),
        escalade.AsyncClient(target) as client,
    ):
        told: list[escalade.Announcement] = []

        def hear(event: escalade.Announcement) -> None:
            told.append(event)
            if isinstance(event, escalade.Selected) and not carrier.cuts:
                carrier.cut()

        answer = await ask(client, hear)
        account = made.account("anthropic", "claude-3-haiku")
        received, cost = account.requests_received, account.cost_nanos
    assert carrier.cuts == 1
    assert (answer.text, answer.replayed) == (TEXT, True)
    assert received == 1
    assert answer.cost_nanos == cost > 0
    assert [event for event in told if isinstance(event, escalade.Reconnected)]
    assert rows(tmp_path / "state.sqlite3", "SELECT used_nanos FROM reservations") == [(cost,)]


@pytest.mark.fault("X3")
async def test_killed_between_settlement_and_reply(tmp_path: Path) -> None:
    async with (
        world(tmp_path, reference(2), SLOW) as made,
        road(made) as (carrier, target),
        escalade.AsyncClient(target) as client,
    ):
        asked = asyncio.ensure_future(hard(client, "lost-1"))
        await until(lambda: made.account("anthropic", "claude-3-haiku").requests_received)
        carrier.cut()
        asked.cancel()
        await until(lambda: made.logged("task.finished"))
        cost = made.account("anthropic", "claude-3-haiku").cost_nanos
        made.expected_exit = -signal.SIGKILL
        made.ask(signal.SIGKILL)
    async with (
        world(tmp_path, reference(2), QUICK) as made,
        escalade.AsyncClient(made.target) as client,
    ):
        with pytest.raises(escalade.AlreadyAnswered) as refused:
            await hard(client, "lost-1")
        with pytest.raises(escalade.RequestInvalid):
            await client.complete("Design that.", task=HARD, request_id="lost-1")
        calls = made.account("anthropic", "claude-3-haiku").requests_received
        new = await hard(client, "new-1")
    error = refused.value
    assert error.cost_nanos == cost > 0
    assert error.report is not None
    assert error.report.answered.model == "claude-3-haiku"
    assert error.report.usage.output_tokens > 0
    assert TEXT not in str(error.report)
    assert calls == 0
    assert (new.text, new.replayed) == (TEXT, False)


@pytest.mark.fault("X3")
async def test_killed_in_flight_the_id_runs_again_and_both_runs_are_listed(tmp_path: Path) -> None:
    async with (
        world(tmp_path, reference(2), SLOW) as made,
        escalade.AsyncClient(made.target) as client,
    ):
        asked = asyncio.ensure_future(hard(client, "again-1"))
        await until(lambda: made.account("anthropic", "claude-3-haiku").requests_received)
        made.expected_exit = -signal.SIGKILL
        made.ask(signal.SIGKILL)
        await made.stop()
        asked.cancel()
    async with (
        world(tmp_path, reference(2), QUICK) as made,
        escalade.AsyncClient(made.target) as client,
    ):
        answer = await hard(client, "again-1")
        again = await hard(client, "again-1")
        calls = made.account("anthropic", "claude-3-haiku").requests_received
    assert (answer.replayed, again.replayed) == (False, True)
    assert calls == 1
    listed = "SELECT nanos, used_nanos, figures FROM reservations WHERE request_id = ?"
    [first, second] = rows(tmp_path / "state.sqlite3", listed, "again-1")
    assert (first[0], first[2]) == (first[1], "")  # booked in full, and no answer
    assert (second[1], bool(second[2])) == (answer.list_nanos, True)
