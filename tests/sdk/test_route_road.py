"""Routes whose road breaks, and routes that are left: what was told reaches the books (R32)."""

import asyncio
import threading
import time

import pytest

import escalade
from escalade import testing
from escalade.testing import Cut, Pause
from escalade.v1 import error_pb2 as x
from escalade.v1 import escalation_pb2 as e
from tests.sdk.route_faces import ONE, TWO, Given, RouteFace, Told, first, raising, refused, well

# ------------------------------------------------------------------------------- the road breaks


@pytest.mark.parametrize("cut", [Cut(), testing.cut_by_proxy()], ids=["gone", "proxy"])
def test_an_answer_is_reported_outside_a_broken_stream(route_face: RouteFace, cut: Cut) -> None:
    with testing.Server(routes=[[testing.selected(), Pause(0.05), cut]]) as server:
        seen = route_face.walk(server, well, pause_s=0.2)
    (report,) = server.reports

    assert seen.error is None
    assert not seen.has_report
    assert (report.reservation_id, report.outcome.attempt) == ("reservation-1", 1)
    assert report.outcome.ok.usage.input_tokens == 1_000


def test_a_failure_too_but_then_nobody_chooses_any_more(route_face: RouteFace) -> None:
    error = refused(429)
    with testing.Server(routes=[[testing.selected(), Pause(0.05), Cut()]]) as server:
        seen = route_face.walk(server, raising(error), pause_s=0.2)
    (report,) = server.reports

    assert isinstance(seen.error, escalade.Unreachable)
    assert seen.error.__cause__ is error
    assert report.outcome.failed.failure_evidence.http_status == 429


def test_an_answer_after_the_callers_deadline_is_reported_all_the_same(
    route_face: RouteFace,
) -> None:
    with testing.Server(routes=[[testing.selected(), Pause(5)]]) as server:
        seen = route_face.walk(server, well, pause_s=2.3, timeout=2.0)

    assert seen.error is None
    assert server.reports[0].outcome.HasField("ok")


def test_a_lease_that_ran_out_is_no_end_of_the_answer(route_face: RouteFace) -> None:
    late = e.Report(attempts=[e.Attempt(attempt=1, status=e.ATTEMPT_STATUS_UNREPORTED)])
    end = testing.failed("DEADLINE_REACHED", "the lease ended", report=late)
    with testing.Server(routes=[[testing.selected(), Pause(0.05), end]]) as server:
        seen = route_face.walk(server, well, pause_s=0.2)

    assert seen.error is None
    assert server.reports[0].outcome.HasField("ok")


def test_an_answer_that_cannot_be_reported_is_told(
    route_face: RouteFace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("_sync", "_async"):
        monkeypatch.setattr(f"escalade.{kind}.route.REPORT_S", 0.3)

    def call(attempt: Told, choice: Given) -> None:
        server.stop()
        well(attempt, choice)

    with testing.Server(routes=[[testing.selected(), Pause(5)]]) as server:
        seen = route_face.walk(server, call, leave_after=1)

    # What grpc says of a channel that dies under a write is not always UNAVAILABLE.
    assert isinstance(seen.error, escalade.TransportError)
    assert "attempt 1 is not reported" in str(seen.error)
    assert "reservation reservation-1 stays booked" in str(seen.error)


# ------------------------------------------------------------------------------------ leaving


def test_a_choice_that_is_not_used_is_given_back(route_face: RouteFace) -> None:
    with testing.Server(routes=[TWO]) as server:
        seen = route_face.walk(server, None, leave_after=1)
    (report,) = server.reports

    assert seen.error is None
    assert report.reservation_id == "reservation-1"
    assert report.outcome.HasField("not_sent")


def test_leaving_after_a_failure_gives_back_what_was_chosen_next(route_face: RouteFace) -> None:
    with testing.Server(routes=[TWO]) as server:
        route_face.walk(server, raising(refused(500)), leave_after=1)
    (report,) = server.reports

    assert len(server.routes[0].outcomes) == 1
    assert report.reservation_id == "reservation-2"
    assert report.outcome.HasField("not_sent")


def test_a_service_that_says_nothing_does_not_hold_up_who_leaves(
    route_face: RouteFace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("_sync", "_async"):
        monkeypatch.setattr(f"escalade.{kind}.route.LEAVE_S", 0.2)
    with testing.Server(routes=[[testing.selected(), Pause(30)]]) as server:
        begun_s = time.monotonic()
        seen = route_face.walk(server, well, leave_after=1)
        took_s = time.monotonic() - begun_s
        assert server.routes[0].ended.wait(20)

    assert seen.error is None
    assert took_s < 20
    assert server.reports[0].outcome.HasField("ok")


def test_a_task_that_waits_may_be_left_at_once(route_face: RouteFace) -> None:
    script: testing.Reply = [testing.selected(), testing.waiting("token"), Pause(30)]
    with testing.Server(routes=[script]) as server:
        begun_s = time.monotonic()
        route_face.walk(server, raising(refused(500)), leave_after=1)
        took_s = time.monotonic() - begun_s

    assert took_s < 20
    assert not server.reports


async def test_a_cancelled_task_leaves_no_one_behind() -> None:
    async with testing.Server(routes=[TWO]) as server, server.async_client() as client:
        inside = asyncio.Event()

        async def work() -> None:
            async with client.route("debug") as route:
                async for choice in route:
                    async with choice.attempt():
                        inside.set()
                        await asyncio.sleep(30)

        task = asyncio.create_task(work())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    (report,) = server.reports

    assert report.outcome.failed.failure_class == x.FAILURE_CLASS_CANCELLED


def test_no_thread_is_left() -> None:
    with testing.Server(routes=[ONE, TWO]) as server, server.client() as client:
        for call in (well, first(refused(429))):
            with client.route("debug") as route:
                for choice in route:
                    with choice.attempt() as attempt:
                        call(attempt, choice)
    deadline_s = time.monotonic() + 20
    while any(t.name == "escalade-lease" for t in threading.enumerate()):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
