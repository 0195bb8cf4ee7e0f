"""Reports outside the stream of ``Route``: late, twice, after a restart, of others (R32)."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import grpc
import pytest

from escalade.v1 import completion_pb2 as c
from escalade.v1 import error_pb2 as x
from escalade.v1 import escalation_pb2 as e
from escalade.v1.router_service_pb2 import (
    TRANSPORT_FAILURE_CONNECT,
    Outcome,
)
from escalade_server import bootstrap
from escalade_server.core.events import OutcomeReported
from escalade_server.engine import late
from escalade_server.engine.late import ReservationUnknownError
from tests.api.route_world import (
    COST_NANOS,
    RESERVE_NANOS,
    STRATEGY,
    USED,
    Served,
    Talk,
    evidence,
    failed,
    not_sent,
    ok,
    paid,
    rejected,
    selected,
    served,
    unreported,
)

GONE = "NOT_FOUND RESERVATION_UNKNOWN"


# ------------------------------------------------------------------------------ outside a stream


async def test_r32_a_report_outside_the_stream_steers_while_it_lives(server: Served) -> None:
    talk, reservation = await selected(server)
    booked = await server.report(reservation, failed(x.FAILURE_CLASS_OVERLOADED))
    again = await talk.hear("selected")
    done = await server.report(again.reservation_id, ok(2))

    assert (booked.attempt.status, booked.corrected) == (e.ATTEMPT_STATUS_FAILED, False)
    assert done.attempt.cost.list_nano_usd == 1_000 * 2_000 + 200 * 10_000
    assert (await talk.end()).code is grpc.StatusCode.OK


async def test_r32_a_late_report_corrects_once(server: Served) -> None:
    reservation = await unreported(server)
    first = await server.report(reservation, ok())
    again = await server.report(reservation, ok())

    assert (first.corrected, again.corrected) == (True, False)
    for booked in (first, again):
        attempt = booked.attempt
        assert (attempt.status, attempt.attempt) == (e.ATTEMPT_STATUS_OK, 1)
        assert (attempt.cost.list_nano_usd, attempt.usage) == (COST_NANOS, USED)
        assert attempt.reservation_id == reservation
    assert server.books() == await server.shown() == (COST_NANOS, 0)


LATE = [
    (ok(usage=None), RESERVE_NANOS, e.ATTEMPT_STATUS_OK),
    (rejected(), COST_NANOS, e.ATTEMPT_STATUS_REJECTED),
    (not_sent(), 0, e.ATTEMPT_STATUS_NOT_SENT),
    (failed(x.FAILURE_CLASS_OVERLOADED), 0, e.ATTEMPT_STATUS_FAILED),
    (failed(x.FAILURE_CLASS_TIMEOUT), RESERVE_NANOS, e.ATTEMPT_STATUS_FAILED),
    (failed(x.FAILURE_CLASS_REFUSAL), 0, e.ATTEMPT_STATUS_OK),
    (evidence(http_status=529, body=b"{}"), 0, e.ATTEMPT_STATUS_FAILED),
    (evidence(transport_failure=TRANSPORT_FAILURE_CONNECT), 0, e.ATTEMPT_STATUS_NOT_SENT),
    (ok(usage=c.Usage(input_tokens=10**9)), RESERVE_NANOS, e.ATTEMPT_STATUS_OK),
]


@pytest.mark.parametrize(("outcome", "nanos", "status"), LATE)
async def test_r32_every_late_outcome_is_booked(
    server: Served, outcome: Outcome, nanos: int, status: int
) -> None:
    reservation = await unreported(server)
    booked = await server.report(reservation, outcome)

    assert (booked.corrected, booked.attempt.status) == (True, status)
    assert booked.attempt.cost.list_nano_usd == nanos
    assert server.books() == (nanos, 0)
    assert not (await server.report(reservation, outcome)).corrected
    assert await server.refused(reservation, ok(usage=c.Usage(input_tokens=7))) == (
        "INVALID_ARGUMENT OUTCOME_CONFLICT"
    )
    assert server.books() == (nanos, 0)


async def test_r32_late_news_steers_nobody(server: Served) -> None:
    reservation = await unreported(server)
    await server.report(reservation, failed(x.FAILURE_CLASS_QUOTA_WINDOW))
    talk, _ = await selected(server)

    assert talk.events[-1].selected.target.model == "claude-3-haiku"
    talk.call.cancel()


async def test_r32_of_two_different_reports_at_once_one_is_booked(server: Served) -> None:
    reservation = await unreported(server)
    other = ok(usage=c.Usage(input_tokens=10, output_tokens=10))
    told = await asyncio.gather(
        *(server.refused(reservation, outcome) for outcome in (ok(), other))
    )

    assert sorted(told) == ["INVALID_ARGUMENT OUTCOME_CONFLICT", "OK"]
    assert server.books() in {(COST_NANOS, 0), (10 * 1_000 + 10 * 5_000, 0)}


async def test_r32_a_second_report_on_the_stream_must_be_the_same(server: Served) -> None:
    talk, _ = await selected(server)
    await talk.say(failed(x.FAILURE_CLASS_OVERLOADED))
    await talk.hear("selected")
    await talk.say(failed(x.FAILURE_CLASS_OVERLOADED))
    await talk.extend(2)
    await talk.say(ok(1))
    ended = await talk.end()

    assert (ended.code, ended.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT, "OUTCOME_CONFLICT",
    )  # fmt: skip
    assert ended.events[-1].failed.reason == x.ERROR_REASON_OUTCOME_CONFLICT
    await server.settled()
    assert server.books()[1] == 0


async def test_r32_a_reservation_is_its_agents_alone(server: Served) -> None:
    reservation = await unreported(server)
    engine = server.running.engine
    with pytest.raises(ReservationUnknownError):
        await engine.report(reservation, OutcomeReported(1, digest="x"), "another")

    for unknown in ("0" * 32 + ".1", "no-such", reservation + "1"):
        assert await server.refused(unknown, ok()) == GONE
    assert server.books() == (RESERVE_NANOS, 0)


async def test_r32_another_agents_token_opens_nothing(tmp_path: Path) -> None:
    def named(name: str) -> tuple[tuple[str, str], ...]:
        desk = bootstrap.token_desk(str(tmp_path / "state.sqlite3"), None)
        text, _ = desk.create(name, bootstrap.Rank.AGENT, None)
        desk.close()
        return (("authorization", f"Bearer {text}"),)

    mine, other = named("mine"), named("other")
    async with served(tmp_path, auth="required") as server:
        call = server.router.Route(metadata=mine, timeout=10)
        talk = Talk(call)
        await call.write(paid())
        reservation = (await talk.hear("selected")).reservation_id
        assert await server.refused(reservation, ok(), other) == GONE
        call.cancel()
        await server.settled()
        assert await server.refused(reservation, ok(), other) == GONE
        assert await server.refused(reservation, ok()) == "UNAUTHENTICATED CALLER_UNKNOWN"
        assert server.books() == (RESERVE_NANOS, 0)
        assert await server.refused(reservation, ok(), mine) == "OK"
        assert server.books() == (COST_NANOS, 0)


async def test_r32_a_live_attempt_is_its_agents_alone(server: Served) -> None:
    talk, reservation = await selected(server)
    with pytest.raises(ReservationUnknownError):
        await server.running.engine.report(reservation, OutcomeReported(1, digest="x"), "another")
    await talk.say(ok())

    assert (await talk.end()).code is grpc.StatusCode.OK


async def test_r32_after_a_day_it_is_too_late(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    reservation = await unreported(server)
    monkeypatch.setattr(late, "REPORTABLE_MS", -1)

    assert await server.refused(reservation, ok()) == GONE


async def test_what_the_service_called_itself_is_not_reported_on(server: Served) -> None:
    """A caller of Complete learns its reservations, too; they are none of its business."""
    talk, reservation = await selected(server)
    talk.call.cancel()
    await server.settled()
    await server.running.stop()
    path = server.running.state
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("UPDATE reservations SET routed = 0")
    async with served(Path(path).parent) as again:
        assert await again.refused(reservation, ok()) == GONE


async def test_a_report_that_names_nothing_is_malformed(server: Served) -> None:
    assert await server.refused("", ok()) == "INVALID_ARGUMENT REQUEST_INVALID"
    assert await server.refused("a" * 32, Outcome()) == "INVALID_ARGUMENT REQUEST_INVALID"


# -------------------------------------------------------------------------------------- restart


async def test_r32_a_restart_in_between_loses_no_report(tmp_path: Path) -> None:
    async with served(tmp_path) as before:
        _, reservation = await selected(before)
    async with served(tmp_path) as after:
        assert after.books() == (RESERVE_NANOS, 0)
        assert (await after.report(reservation, ok())).corrected
        assert not (await after.report(reservation, ok())).corrected
        assert after.books() == (COST_NANOS, 0)
    async with served(tmp_path) as at_last:
        assert not (await at_last.report(reservation, ok())).corrected
        assert await at_last.refused(reservation, not_sent()) == (
            "INVALID_ARGUMENT OUTCOME_CONFLICT"
        )
        assert at_last.books() == await at_last.shown() == (COST_NANOS, 0)


async def test_a_model_that_left_the_strategy_is_not_priced(tmp_path: Path) -> None:
    async with served(tmp_path) as before:
        _, reservation = await selected(before)
    async with served(tmp_path, STRATEGY.replace("claude-3-haiku", "claude-3-opus")) as after:
        assert await after.refused(reservation, ok()) == GONE
        assert after.books() == (RESERVE_NANOS, 0)
