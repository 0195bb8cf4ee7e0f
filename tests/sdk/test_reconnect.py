"""Streams that break on the road before the first piece of their answer (P8)."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import grpc
import pytest

import escalade
from escalade import _reconnect, testing
from escalade._reconnect import Road
from escalade._sync.stream import Run
from escalade._trace import COMPLETE, CallSpan, current
from escalade.testing import (
    Cut,
    Pause,
    Refused,
    answer,
    assessed,
    cut_by_proxy,
    escalated,
    failed,
    finished,
    selected,
    text,
    waiting,
)
from escalade.v1 import router_service_pb2
from tests.sdk.faces import Face

BREAKS = [Cut(), cut_by_proxy(), Cut(grpc.StatusCode.UNAVAILABLE, "Received RST_STREAM (0)")]


@pytest.mark.parametrize("cut", BREAKS, ids=["unavailable", "internal-rst", "unavailable-rst"])
def test_a_stream_that_breaks_before_its_text_is_asked_for_again(face: Face, cut: Cut) -> None:
    script: list[testing.Reply] = [
        [selected(), Pause(0), cut],
        answer("whole"),
        [selected(), Pause(0), cut],
        answer("x"),
    ]
    with testing.Server(script) as server:
        announced: list[escalade.Announcement] = []
        assert face.complete(server, on_event=announced.append).text == "whole"
        seen = face.stream(server)

    ids = [call.request.request_id for call in server.calls]
    assert ids[0] == ids[1] != ids[2] == ids[3]
    assert [type(event) for event in announced] == [
        escalade.Selected,
        escalade.Reconnected,
        escalade.Finished,
    ]
    news = announced[1]
    assert isinstance(news, escalade.Reconnected)
    assert (news.tries, news.resumed) == (1, False)
    assert cut.message in str(news)
    assert seen.kinds() == ["Selected", "Reconnected", "TextDelta", "Finished"]
    assert seen.snapshot.text == "x"


@pytest.mark.parametrize("cut", BREAKS, ids=["unavailable", "internal-rst", "unavailable-rst"])
def test_after_the_first_piece_never(face: Face, cut: Cut) -> None:
    reply: testing.Reply = [selected(), text("half"), Pause(0), cut]
    with testing.Server([reply, reply, answer("no")]) as server:
        seen = face.text(server)
        restartable = face.text(server, on_restart=lambda _: None)

    for one in (seen, restartable):
        assert one.pieces == ["half"]
        assert isinstance(one.error, escalade.Unreachable | escalade.StreamCut)
        assert one.again is one.error
    assert len(server.calls) == 2


def test_what_a_new_run_tells_again_is_not_told_twice(face: Face) -> None:
    cut: testing.Reply = [Pause(0), Cut()]
    script: list[testing.Reply] = [
        [assessed(), selected("a"), *cut],
        [assessed(), *cut],  # breaks before it says anything new
        [assessed(), selected("b"), escalated("free", "paid"), *cut],
        [assessed(), selected("b"), selected("c"), text("x"), finished("c")],
    ]
    with testing.Server(script) as server:
        seen = face.stream(server)

    told = [
        event.model.model if isinstance(event, escalade.Selected) else type(event).__name__
        for event in seen.events
    ]
    assert told == [
        *("Assessed", "a"),
        "Reconnected",
        "Reconnected",
        *("b", "Escalated"),
        "Reconnected",
        *("c", "TextDelta", "Finished"),
    ]
    end = seen.events[-1]
    assert isinstance(end, escalade.Finished)
    assert end.answer.escalations == ()  # of the run that answered, and of no other


def test_a_waiter_comes_back_with_the_token_it_holds(face: Face) -> None:
    script: list[testing.Reply] = [
        [
            waiting("one", position=7),
            Pause(0),
            waiting("two", position=7),
            Pause(0),
            cut_by_proxy(),
        ],
        [waiting("three", position=7), waiting("three", position=6), Pause(0), Cut()],
        [selected(), Pause(0), Cut()],  # the token is used up, and no other given
        answer("done"),
    ]
    with testing.Server(script) as server:
        seen = face.stream(server)

    assert [call.request.resume_token for call in server.calls] == ["", "two", "three", ""]
    places = [event.position for event in seen.events if isinstance(event, escalade.Waiting)]
    assert places == [7, 7, 6]
    news = [event for event in seen.events if isinstance(event, escalade.Reconnected)]
    assert [one.resumed for one in news] == [True, True, False]
    assert str(news[0]).endswith("(Received RST_STREAM with error code 2); the place in the queue"
                                 " is kept")  # fmt: skip
    connections = [call.connection for call in server.calls]
    assert connections[0] == connections[3]
    assert connections[1] == connections[2] != connections[0]  # waits have their own (P7)


def test_a_place_that_is_lost_does_not_lose_the_task(face: Face) -> None:
    script: list[testing.Reply] = [
        [waiting("old"), Pause(0), Cut()],
        [failed("RESUME_TOKEN_INVALID", "expired")],
        answer("done"),
        [failed("RESUME_TOKEN_INVALID", "forged")],
    ]
    with testing.Server(script) as server:
        assert face.complete(server).text == "done"
        with server.client() as client, pytest.raises(escalade.ResumeTokenInvalid):
            client.complete("x", resume_token="mine")

    assert [call.request.resume_token for call in server.calls] == ["", "old", "", "mine"]


def test_a_run_that_still_goes_on_is_waited_for(face: Face) -> None:
    busy = Refused("REQUEST_IN_PROGRESS", retry_after=timedelta(seconds=0.3))
    script: list[testing.Reply] = [[selected(), Pause(0), Cut()], [busy], [busy], answer("done")]
    with testing.Server(script) as server:
        started = time.monotonic()
        assert face.complete(server, request_id="mine").text == "done"

    assert time.monotonic() - started >= 0.6
    assert len(server.calls) == 4


def test_another_s_run_of_the_same_id_is_not_waited_for(face: Face) -> None:
    busy = Refused("REQUEST_IN_PROGRESS", retry_after=timedelta(seconds=0.3))
    with testing.Server([[busy], answer("no")]) as server:
        with pytest.raises(escalade.RequestInProgress) as refused:
            face.complete(server, request_id="mine")
        assert refused.value.retry_after == timedelta(seconds=0.3)
        assert len(server.calls) == 1


def test_a_server_that_drains_is_asked_again_when_it_says(face: Face) -> None:
    draining: testing.Reply = [
        waiting("place"),
        Pause(0),
        failed("DRAINING", "the server shuts down"),
    ]
    with testing.Server([draining, answer("by the next")]) as server:
        seen = face.stream(server)

    assert seen.kinds() == ["Waiting", "Reconnected", "Selected", "TextDelta", "Finished"]
    assert server.calls[1].request.resume_token == "place"


def test_draining_is_outlasted_beyond_the_retries_of_the_channel(face: Face) -> None:
    draining: testing.Reply = [Refused("DRAINING", retry_after=timedelta(seconds=0.2))]
    with testing.Server([*[draining] * 6, answer("by the next")]) as server:
        assert face.complete(server).text == "by the next"

    assert len(server.calls) == 7
    assert len({call.request.request_id for call in server.calls}) == 1


def test_an_answer_without_its_status_is_asked_for_again(face: Face) -> None:
    """Finished alone does not say that it is settled; the same id gives the same answer."""
    replayed = finished()
    replayed.finished.replayed = True
    replayed.finished.answer.parts.add(text="as before")
    script: list[testing.Reply] = [
        [selected(), text("as before"), finished(), Pause(0), Cut()],
        [replayed],
    ]
    with testing.Server(script) as server:
        answered = face.complete(server)

    assert (answered.text, answered.replayed) == ("as before", True)


def test_a_failure_with_a_status_of_success_is_a_failure() -> None:
    class Odd:
        def cancel(self) -> bool:
            return True

        def __iter__(self) -> Iterator[router_service_pb2.CompleteResponse]:
            events = [failed("RATE_LIMITED", "full")]
            return iter([router_service_pb2.CompleteResponse(events=events)])

    ends: list[str] = []
    stream = escalade.Stream(
        lambda _request, _left_s: Run(
            Odd(), lambda: ends.append("over"), CallSpan(COMPLETE, "r", current())
        ),
        router_service_pb2.CompleteRequest(request_id="r"),
        is_own_id=True,
        timeout_s=None,
        on_event=None,
        on_restart=None,
    )
    with stream, pytest.raises(escalade.RateLimited, match="full"):
        stream.answer()
    assert ends == ["over"]


async def between(client: escalade.AsyncClient) -> None:
    """Wait until the first run of a call is over; it is made again two seconds later."""
    async with asyncio.timeout(20):
        while client._channels.work.in_flight != (0,):  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)


async def test_closing_the_client_between_two_runs_ends_it() -> None:
    drained = Refused("DRAINING", retry_after=timedelta(seconds=2))
    async with testing.Server([[selected(), Pause(0), drained], answer("no")]) as server:
        client = server.async_client(timeout=60)
        async with client.stream("x") as stream:
            assert isinstance(await anext(stream), escalade.Selected)
            reading = asyncio.create_task(stream.answer())
            await between(client)
            await client.close()
            with pytest.raises(escalade.UsageError, match="closed"):
                await reading
    assert len(server.calls) == 1


async def test_closing_the_stream_between_two_runs_ends_it() -> None:
    drained = Refused("DRAINING", retry_after=timedelta(seconds=2))
    async with (
        testing.Server([[selected(), Pause(0), drained], answer("no")]) as server,
        server.async_client(timeout=60) as client,
        client.stream("x") as stream,
    ):
        assert isinstance(await anext(stream), escalade.Selected)
        reading = asyncio.create_task(stream.answer())
        await between(client)
        await stream.close()
        with pytest.raises(escalade.UsageError, match="before its end"):
            await reading
        assert client._channels.work.in_flight == (0,)
    assert len(server.calls) == 1


def test_what_the_service_decided_is_raised(face: Face) -> None:
    for reason in ("ALL_MODELS_FAILED", "LEDGER_UNAVAILABLE", "RATE_LIMITED", "BUG"):
        with testing.Server([[selected(), failed(reason, "no")], answer("no")]) as server:
            with pytest.raises(escalade.StatusError, match=reason):
                face.complete(server)
            assert len(server.calls) == 1


def test_the_deadline_is_that_of_the_whole_call(face: Face) -> None:
    def cut(_: object) -> testing.Reply:
        return [selected(), Pause(0.2), cut_by_proxy()]

    with testing.Server(cut) as server:
        started = time.monotonic()
        with pytest.raises(escalade.TransportError, match="route timeout") as ended:
            face.complete(server, timeout=3)

    assert time.monotonic() - started < 20
    assert isinstance(ended.value, escalade.StreamCut | escalade.DeadlineReached)
    left = [call.timeout_s or 0.0 for call in server.calls]
    assert len(left) >= 3
    assert left == sorted(left, reverse=True)
    assert left[0] - left[-1] > 0.5


async def test_cancelling_between_two_runs_ends_it() -> None:
    drained = Refused("DRAINING", retry_after=timedelta(seconds=30))
    async with (
        testing.Server([[selected(), Pause(0), drained], answer("no")]) as server,
        server.async_client(timeout=60) as client,
        client.stream("x") as stream,
    ):
        assert isinstance(await anext(stream), escalade.Selected)
        reading = asyncio.ensure_future(anext(stream))
        await between(client)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
    assert len(server.calls) == 1
    assert server.calls[0].ended.wait(20)


# ------------------------------------------------------------------------- the real road


class Relay:
    """A road between client and server that can be cut: TCP, or one HTTP/2 stream."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._upstream = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.target = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._clients: list[socket.socket] = []
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def cut(self) -> None:
        """Break every connection."""
        for one in self._clients:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._clients.clear()

    def reset(self, stream_id: int) -> None:
        """Write RST_STREAM, INTERNAL_ERROR, to the last client; the line must be idle."""
        frame = (4).to_bytes(3) + b"\x03\x00" + stream_id.to_bytes(4) + (2).to_bytes(4)
        self._clients[-1].sendall(frame)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for one in (*self._sockets, self._listener):
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._upstream)
                self._sockets += (client, server)
                self._clients.append(client)
                for way in ((client, server), (server, client)):
                    self._threads.append(threading.Thread(target=self._pump, args=way))
                    self._threads[-1].start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)


@contextmanager
def relayed(server: testing.Server) -> Iterator[Relay]:
    relay = Relay(server.target)
    try:
        yield relay
    finally:
        relay.close()


@pytest.mark.parametrize("how", ["tcp", "rst"])
def test_a_real_cut_on_the_road(how: str) -> None:
    hang: testing.Reply = [assessed(), Pause(0), waiting("place"), Pause(20), finished()]
    with testing.Server([hang, answer("after all")]) as server, relayed(server) as relay:
        causes: list[escalade.EscaladeError] = []

        def told(event: escalade.Announcement) -> None:
            if isinstance(event, escalade.Waiting):
                time.sleep(0.2)  # until the line is idle
                relay.cut() if how == "tcp" else relay.reset(1)
            elif isinstance(event, escalade.Reconnected):
                causes.append(event.cause)

        with escalade.Client(relay.target, timeout=15) as client:
            assert client.complete("x", on_event=told).text == "after all"

    kind = escalade.Unreachable if how == "tcp" else escalade.StreamCut
    assert [type(cause) for cause in causes] == [kind]
    assert how == "tcp" or "s: a proxy's route timeout? (" in str(causes[0])
    assert [call.request.resume_token for call in server.calls] == ["", "place"]


@pytest.mark.parametrize("how", ["tcp", "rst"])
async def test_a_real_cut_on_the_road_with_asyncio(how: str) -> None:
    hang: testing.Reply = [assessed(), Pause(0), waiting("place"), Pause(20), finished()]
    with testing.Server([hang, answer("after all")]) as server, relayed(server) as relay:
        seen: list[str] = []
        async with (
            escalade.AsyncClient(relay.target, timeout=15) as client,
            client.stream("x") as stream,
        ):
            async for event in stream:
                seen.append(type(event).__name__)
                if isinstance(event, escalade.Waiting):
                    await asyncio.sleep(0.2)
                    relay.cut() if how == "tcp" else relay.reset(1)

    assert seen == ["Assessed", "Waiting", "Reconnected", "Selected", "TextDelta", "Finished"]


def test_a_server_that_restarts_is_found_again() -> None:
    with (
        testing.Server([[selected(), Pause(30)]]) as server,
        escalade.Client(server.target, timeout=30) as client,
        client.stream("x") as stream,
    ):
        assert isinstance(next(stream), escalade.Selected)
        server.stop()
        later = testing.Server([answer("back")], port=int(server.target.rpartition(":")[2]))
        timer = threading.Timer(2.0, later.__enter__)
        timer.start()
        try:
            assert stream.answer().text == "back"
        finally:
            timer.join()
            later.stop()


# ------------------------------------------------------------------------- the decision alone


def road(*, deadline_s: float | None = None, is_own_id: bool = True, draw: float = 1.0) -> Road:
    return Road(
        resume_token="",
        is_own_id=is_own_id,
        deadline_s=deadline_s,
        now_s=0.0,
        draw=lambda: draw,
    )


def test_the_wait_grows_to_a_bound_and_starts_over_with_a_sign_of_life() -> None:
    one = road()
    one.heard(0.0)
    gone = escalade.Unreachable("gone")
    delays = [one.delay_after(gone, 0.0) for _ in range(8)]
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    one.heard(10.0)
    assert one.delay_after(gone, 10.0) == 0.1
    low = road(draw=0.0)
    low.heard(0.0)
    assert low.delay_after(gone, 0.0) == 0.05


def test_without_a_deadline_two_minutes_of_silence_end_it() -> None:
    one = road()
    one.heard(100.0)
    gone = escalade.Unreachable("gone")
    assert one.delay_after(gone, 219.0) is not None
    assert one.delay_after(gone, 219.95) is None
    busy = escalade.RequestInProgress("still")
    assert one.delay_after(busy, 218.0) == _reconnect.RUN_AGAIN_S + 0.1
    assert one.delay_after(gone, 300.0) is not None  # it was alive at 218


def test_nobody_there_is_told_at_once() -> None:
    one = road(deadline_s=100.0)
    gone = escalade.Unreachable("nobody")
    assert one.delay_after(gone, 0.0) is not None
    assert one.delay_after(gone, 1.0) is None
    assert one.history == ""


def test_no_run_begins_that_the_deadline_does_not_allow() -> None:
    one = road(deadline_s=10.0)
    one.heard(0.0)
    assert one.delay_after(escalade.StreamCut("cut"), 9.8) is not None
    assert one.delay_after(escalade.StreamCut("cut"), 9.85) is None


def test_the_history_names_what_broke_first_since_the_last_sign_of_life() -> None:
    one = road()
    one.heard(0.0)
    one.delay_after(escalade.StreamCut("cut after 15.0 s"), 1.0)
    one.delay_after(escalade.Unreachable("refused"), 2.0)
    one.delay_after(escalade.RequestInProgress("still"), 3.0)
    assert one.history == "before that: cut after 15.0 s; asked again 3×"
    news = one.heard(4.0)
    assert news is not None
    assert (news.tries, str(news)) == (3, "Reconnected: cut after 15.0 s")
    assert one.heard(5.0) is None
