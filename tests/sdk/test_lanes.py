"""Several connections, so that calls that hang do not hold up the others (P7)."""

import asyncio
import threading
import time

import pytest

import escalade
from escalade import _lanes, testing
from escalade._lanes import CALLS_PER_CONNECTION, Lane
from escalade.testing import Pause, answer, selected, waiting
from escalade.v1 import router_service_pb2

HANGING = 150


def hang(_: router_service_pb2.CompleteRequest) -> testing.Reply:
    return [selected(), Pause(60)]


def test_calls_that_hang_do_not_hold_up_the_status() -> None:
    told = threading.Semaphore(0)
    with testing.Server(hang) as server, server.client(timeout=60) as client:
        ended: list[escalade.EscaladeError] = []

        def call() -> None:
            try:
                client.complete("x", on_event=lambda _: told.release())
            except escalade.EscaladeError as error:
                ended.append(error)

        threads = [threading.Thread(target=call) for _ in range(HANGING)]
        for thread in threads:
            thread.start()
        for _ in range(HANGING):
            assert told.acquire(timeout=20)
        started = time.monotonic()
        client.status()
        status_s = time.monotonic() - started
        in_flight = client._channels.work.in_flight
        client.close()
        for thread in threads:
            thread.join()

    assert status_s < 20, "calls hang for 60 s"
    assert in_flight == (CALLS_PER_CONNECTION, HANGING - CALLS_PER_CONNECTION)
    assert len({call.connection for call in server.calls}) == 2
    assert {type(error) for error in ended} == {escalade.Cancelled}
    assert client._channels.work.in_flight == (0, 0)


async def test_calls_that_hang_do_not_hold_up_the_status_with_asyncio() -> None:
    async with testing.Server(hang) as server, server.async_client(timeout=60) as client:
        told = asyncio.Semaphore(0)
        tasks = [
            asyncio.create_task(client.complete("x", on_event=lambda _: told.release()))
            for _ in range(HANGING)
        ]
        async with asyncio.timeout(20):
            for _ in range(HANGING):
                await told.acquire()
        started = time.monotonic()
        await client.status()
        status_s = time.monotonic() - started
        in_flight = client._channels.work.in_flight
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

        assert status_s < 20, "calls hang for 60 s"
        assert sum(in_flight) == HANGING
        assert len({call.connection for call in server.calls}) == 2
        assert client._channels.work.in_flight == (0, 0)


def test_one_connection_would_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server of the tests is as strict as a proxy: else the tests above show nothing."""
    monkeypatch.setattr(_lanes, "CALLS_PER_CONNECTION", 10**6)
    count = CALLS_PER_CONNECTION + 1
    with testing.Server(hang) as server, server.client(timeout=60) as client:
        streams = [client.stream("x") for _ in range(count)]
        for stream in streams:
            stream.__enter__()
        deadline_s = time.monotonic() + 10
        while len(server.calls) < CALLS_PER_CONNECTION and time.monotonic() < deadline_s:
            time.sleep(0.02)
        time.sleep(0.2)
        assert len(server.calls) == CALLS_PER_CONNECTION
        for stream in streams:
            stream.close()


def test_what_is_over_makes_room() -> None:
    def reply(request: router_service_pb2.CompleteRequest) -> testing.Reply:
        return [waiting("place"), Pause(60)] if request.request_id == "left" else answer("x")

    with testing.Server(reply) as server, server.client() as client:
        client.complete("x")
        with client.stream("x", request_id="left") as stream:
            next(stream)
            assert client._channels.work.in_flight == (1,)
        with client.stream("x", resume_token="mine") as stream:
            assert client._channels.waits.in_flight == (1,)
            stream.answer()
            assert client._channels.waits.in_flight == (0,)
        client.status()

        lanes = (client._channels.work, client._channels.waits, client._channels.operations)
        assert [lane.in_flight for lane in lanes] == [(0,), (0,), (0,)]
    with pytest.raises(escalade.UsageError, match="closed"):
        client.status()


def test_a_lane_opens_what_it_needs_and_no_more() -> None:
    lane = Lane(connections_max=2)
    first = [lane.take() for _ in range(CALLS_PER_CONNECTION)]
    assert set(first) == {0}
    assert [lane.take() for _ in range(CALLS_PER_CONNECTION)] == [1] * CALLS_PER_CONNECTION
    assert [lane.take() for _ in range(4)] == [0, 1, 0, 1]  # all are full: to the least busy
    for _ in range(5):
        lane.give_back(0)
    assert lane.take() == 0
    assert lane.in_flight == (CALLS_PER_CONNECTION - 2, CALLS_PER_CONNECTION + 2)


def test_a_call_ends_once() -> None:
    lane = Lane()
    lane.give_back(lane.take())
    with pytest.raises(escalade.UsageError):
        lane.give_back(0)
