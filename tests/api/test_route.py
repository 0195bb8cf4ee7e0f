"""``Route`` through a whole server: who reports what, and what the books say after it (R31-R33)."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from escalade.v1 import completion_pb2 as c
from escalade.v1 import error_pb2 as x
from escalade.v1 import escalation_pb2 as e
from escalade.v1.router_service_pb2 import (
    FEATURE_IMAGES,
    TRANSPORT_FAILURE_CONNECT,
    Outcome,
    OutcomeFailed,
    OutcomeOk,
    OutcomeRejected,
    Progress,
    RouteRequest,
    RouteResponse,
)
from escalade_server import bootstrap
from escalade_server.core import calling
from escalade_server.core.events import OutcomeReported
from escalade_server.engine import late
from escalade_server.engine.late import ReservationUnknownError
from escalade_server.engine.ports import StoreError
from tests.api import route_world
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
    served,
    within,
)

FREE = RouteRequest(task=e.Task(type="parse", tokens=100))
GONE = "NOT_FOUND RESERVATION_UNKNOWN"
NO_BALANCE = b'{"error": {"type": "insufficient_quota", "code": "insufficient_quota"}}'
RATE_LIMIT = b'{"error": {"type": "requests", "code": "rate_limit_exceeded"}}'


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path) as made:
        yield made


async def selected(server: Served, first: RouteRequest | None = None) -> tuple[Talk, str]:
    """Begin a task and take its first selection; answer its reservation too."""
    talk = await Talk.begin(server, first or paid())
    return talk, (await talk.hear("selected")).reservation_id


async def unreported(server: Served) -> str:
    """Take a selection and leave without a word."""
    talk, reservation = await selected(server)
    talk.call.cancel()
    await server.settled()
    return reservation


# ------------------------------------------------------------------------------------- reports


async def test_a_selection_is_handed_over_with_its_grant(server: Served) -> None:
    talk = await Talk.begin(server, paid())
    made = await talk.hear("selected")

    assert (made.attempt, made.target.account, made.dialect) == (1, "default", "anthropic")
    assert made.wire_model == "claude-3-haiku-20240307"
    assert (made.max_input_tokens, made.max_output_tokens) == (4_000, 500)
    assert server.books() == (0, RESERVE_NANOS)
    talk.call.cancel()


async def test_r32_a_report_is_booked_before_the_end_is_told(server: Served) -> None:
    talk, _ = await selected(server)
    await talk.say(ok())
    ended = await talk.end()

    assert ended.code is grpc.StatusCode.OK
    assert ended.kinds == ["assessed", "escalated", "selected", "finished"]
    assert [event.sequence for event in ended.events] == [1, 2, 3, 4]
    attempt = ended.events[-1].finished.report.attempts[0]
    assert (attempt.basis, attempt.reported_model) == (c.BASIS_REPORTED, "haiku-x")
    assert attempt.cost.list_nano_usd == COST_NANOS
    assert server.books() == await server.shown() == (COST_NANOS, 0)


async def test_r32_times_of_the_caller_are_the_attempts(server: Served) -> None:
    talk, _ = await selected(server)
    await asyncio.sleep(0.05)
    outcome = ok()
    outcome.time_to_first_token.FromMilliseconds(10)
    outcome.elapsed.FromMilliseconds(30)
    await talk.say(outcome)
    attempt = (await talk.hear("finished")).report.attempts[0]

    started = attempt.started.ToMilliseconds()
    assert attempt.first_token.ToMilliseconds() - started == 10
    assert attempt.ended.ToMilliseconds() - started == 30


async def test_r32_without_usage_the_reserve_is_booked(server: Served) -> None:
    talk, _ = await selected(server)
    await talk.say(ok(usage=None))
    ended = await talk.end()

    assert ended.events[-1].finished.report.basis == c.BASIS_RESERVED
    assert server.books() == (RESERVE_NANOS, 0)


async def test_r32_usage_beyond_belief_is_not_believed(server: Served) -> None:
    talk, _ = await selected(server)
    await talk.say(ok(usage=c.Usage(input_tokens=10**9)))
    await talk.end()

    assert server.books() == (RESERVE_NANOS, 0)


async def test_r32_more_than_the_grant_is_booked_in_full(server: Served) -> None:
    talk, _ = await selected(server)
    await talk.say(ok(usage=c.Usage(input_tokens=8_000, output_tokens=1_000)))
    await talk.end()

    assert server.books() == (8_000 * 1_000 + 1_000 * 5_000, 0)


async def test_r32_a_failure_leads_to_the_next_selection(server: Served) -> None:
    talk, _ = await selected(server)
    await talk.say(failed(x.FAILURE_CLASS_OVERLOADED))
    again = await talk.hear("selected")
    assert (again.attempt, again.target.model) == (2, "gpt-4o")
    await talk.say(ok(2, c.Usage(input_tokens=100, output_tokens=10)))
    ended = await talk.end()

    assert ended.kinds.count("fallback") == 1
    attempts = ended.events[-1].finished.report.attempts
    assert [a.status for a in attempts] == [e.ATTEMPT_STATUS_FAILED, e.ATTEMPT_STATUS_OK]
    assert server.books() == (100 * 2_000 + 10 * 10_000, 0)


async def test_r32_a_rejected_answer_is_charged_and_escalates(server: Served) -> None:
    talk, _ = await selected(server, FREE)
    await talk.say(rejected())
    escalated = await talk.hear("escalated")
    assert escalated.reason == e.ESCALATION_REASON_QUALITY
    assert "schema_violation (no field `id`)" in escalated.detail
    await talk.hear("selected")
    await talk.say(not_sent(2))
    await talk.hear("selected")
    await talk.say(ok(3))
    ended = await talk.end()

    attempts = ended.events[-1].finished.report.attempts
    assert [a.status for a in attempts] == [
        e.ATTEMPT_STATUS_REJECTED, e.ATTEMPT_STATUS_NOT_SENT, e.ATTEMPT_STATUS_OK,
    ]  # fmt: skip
    assert server.books("mini") == (1, 0)
    assert server.books() == (1_000 * 2_000 + 200 * 10_000, 0)


async def test_r33_a_refusal_is_an_answer_and_goes_to_nobody_else(server: Served) -> None:
    talk, _ = await selected(server)
    await talk.say(failed(x.FAILURE_CLASS_REFUSAL))
    ended = await talk.end()

    assert ended.code is grpc.StatusCode.OK
    assert ended.events[-1].finished.finish_reason == c.FINISH_REASON_REFUSAL
    assert ended.kinds.count("selected") == 1


async def test_r33_raw_evidence_is_classed_here_and_benches_for_everyone(server: Served) -> None:
    talk, _ = await selected(server, FREE)
    await talk.say(evidence(http_status=429, headers={"Retry-After": "7"}, body=RATE_LIMIT))
    fallback = await talk.hear("fallback")

    assert fallback.failure_class == x.FAILURE_CLASS_RATE_SHORT
    await talk.hear("selected")
    asked = RouteRequest(task=e.Task(type="parse", dry_run=True))
    report = (await (await Talk.begin(server, asked)).hear("finished")).report
    wait_ms = report.plan[0].until.ToMilliseconds() - report.ended.ToMilliseconds()
    assert report.plan[0].reason == "cooldown"
    assert 5_000 < wait_ms <= 7_000
    other, _ = await selected(server, FREE)
    assert other.events[-1].selected.target.model == "deepseek-chat"
    other.call.cancel()
    talk.call.cancel()


async def test_r33_an_empty_balance_may_be_the_callers_own(server: Served) -> None:
    talk, _ = await selected(server, FREE)
    await talk.say(evidence(http_status=429, body=NO_BALANCE))
    assert (await talk.hear("alert")).kind == e.ALERT_KIND_BALANCE
    assert (await talk.hear("selected")).target.model == "deepseek-chat"
    other, _ = await selected(server, FREE)

    assert other.events[-1].selected.target.model == "gpt-4o-mini"
    other.call.cancel()
    talk.call.cancel()


async def test_r33_nothing_was_sent_so_nothing_is_booked(server: Served) -> None:
    talk, _ = await selected(server)
    await talk.say(evidence(transport_failure=TRANSPORT_FAILURE_CONNECT))
    await talk.hear("selected")
    await talk.say(not_sent(2))
    assert (await talk.hear("selected")).target.layer == "free"
    talk.call.cancel()
    await server.settled()

    assert server.books() == (0, 0)


# ---------------------------------------------------------------------------- without a report


async def test_r32_a_caller_that_vanishes_is_booked_at_the_reserve(server: Served) -> None:
    await unreported(server)

    assert server.books() == await server.shown() == (RESERVE_NANOS, 0)


async def test_r31_half_close_says_that_no_report_comes(server: Served) -> None:
    talk = await Talk.begin(server, paid())
    await talk.call.done_writing()  # at once: before anything is selected
    ended = await talk.end()

    assert ended.code is grpc.StatusCode.OK
    assert ended.kinds[-2:] == ["selected", "finished"]
    report = ended.events[-1].finished.report
    assert report.attempts[0].status == e.ATTEMPT_STATUS_UNREPORTED
    assert not report.HasField("answered")
    assert server.books() == (RESERVE_NANOS, 0)


async def test_r31_half_close_after_the_report_takes_nothing_back(server: Served) -> None:
    for _ in range(20):
        talk, _ = await selected(server)
        await talk.say(ok())
        await talk.call.done_writing()
        ended = await talk.end()
        assert ended.kinds[-1] == "finished"
        assert ended.events[-1].finished.report.attempts[0].status == e.ATTEMPT_STATUS_OK

    assert server.books() == (20 * COST_NANOS, 0)


async def test_r32_an_expired_lease_is_booked_at_the_reserve(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calling, "LEASE_MS", 100)
    talk, reservation = await selected(server)
    ended = await talk.end()

    assert (ended.code, ended.reason) == (
        grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_REACHED",
    )  # fmt: skip
    assert "lease" in ended.message
    await server.settled()
    assert server.books() == (RESERVE_NANOS, 0)
    assert (await server.report(reservation, ok())).corrected
    assert server.books() == (COST_NANOS, 0)


async def test_r32_progress_extends_the_lease(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calling, "LEASE_MS", 300)
    talk, _ = await selected(server)
    for _ in range(3):
        await asyncio.sleep(0.15)
        await talk.extend(1)
    await talk.say(ok())

    assert (await talk.end()).code is grpc.StatusCode.OK


async def test_r32_the_callers_own_limit_bounds_the_lease(server: Served) -> None:
    talk = await Talk.begin(server, paid(constraints=within(0.1)))
    made = await talk.hear("selected")
    begun = talk.events[0].assessed.score
    ended = await talk.end()

    assert begun == pytest.approx(5.0, abs=0.1)
    assert ended.reason == "DEADLINE_REACHED"
    assert made.HasField("expires")
    await server.settled()
    assert server.books() == (RESERVE_NANOS, 0)


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
    with sqlite3.connect(path) as file:
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


# -------------------------------------------------------------------------------------- dry run


async def test_r31_a_dry_run_shows_the_plan_and_reserves_nothing(server: Served) -> None:
    first = paid(constraints=e.Constraints(denied_models=["gpt-4o"]))
    first.task.dry_run = True
    talk = await Talk.begin(server, first)
    ended = await talk.end()

    assert ended.code is grpc.StatusCode.OK
    assert ended.kinds == ["assessed", "finished"]
    finished = ended.events[-1].finished
    assert finished.finish_reason == c.FINISH_REASON_UNSPECIFIED
    rows = [(row.target.model, row.verdict, row.reason) for row in finished.report.plan]
    assert rows == [
        ("claude-3-haiku", e.VERDICT_CLASS_OK, ""),
        ("gpt-4o", e.VERDICT_CLASS_POLICY, "constraint"),
        ("gpt-4o-mini", e.VERDICT_CLASS_OK, ""),
        ("deepseek-chat", e.VERDICT_CLASS_OK, ""),
    ]
    assert finished.report.plan[0].worst_case_nano_usd == RESERVE_NANOS
    assert finished.report.selected.model == "claude-3-haiku"
    assert "claude-3-haiku is asked first" in finished.report.story
    assert server.books() == (0, 0)


async def test_r31_a_plan_knows_what_is_used_up_and_until_when(server: Served) -> None:
    talk, _ = await selected(server, FREE)
    await talk.say(failed(x.FAILURE_CLASS_QUOTA_WINDOW))
    await talk.hear("selected")
    asked = RouteRequest(task=e.Task(type="parse", dry_run=True))
    plan = (await (await Talk.begin(server, asked)).hear("finished")).report.plan

    assert (plan[0].target.model, plan[0].reason) == ("gpt-4o-mini", "cooldown")
    assert plan[0].HasField("until")
    talk.call.cancel()


async def test_features_and_input_decide_without_any_message(server: Served) -> None:
    asked = RouteRequest(
        task=e.Task(type="parse", dry_run=True), features=[FEATURE_IMAGES], input_tokens=150_000
    )
    plan = (await (await Talk.begin(server, asked)).hear("finished")).report.plan

    found = {row.target.model: row.reason for row in plan}
    assert found["deepseek-chat"] == "feature_missing"
    assert found["gpt-4o-mini"] in {"context_too_small", "never_fits"}


# --------------------------------------------------------------------------------------- misuse


def later(**fields: Any) -> RouteRequest:
    return RouteRequest(outcome=ok(), **fields)


BAD_FIRST = [
    (RouteRequest(), "task"),
    (RouteRequest(outcome=ok()), "outcome"),
    (RouteRequest(progress=Progress(attempt=1)), "progress"),
    (paid(features=[0]), "features[0]"),
    (paid(input_tokens=-1), "input_tokens"),
    (RouteRequest(task=e.Task(), max_output_tokens=0), "max_output_tokens"),
    (RouteRequest(task=e.Task(), request_id="a b"), "request_id"),
    (paid(constraints=within(8 * 86_400)), "constraints.timeout"),
    (RouteRequest(task=e.Task(tokens=-1)), "task.tokens"),
]


@pytest.mark.parametrize(("first", "field"), BAD_FIRST, ids=[f for _, f in BAD_FIRST])
async def test_a_wrong_first_message_is_refused_by_its_field(
    server: Served, first: RouteRequest, field: str
) -> None:
    ended = await (await Talk.begin(server, first)).end()

    assert ended.code is grpc.StatusCode.INVALID_ARGUMENT
    assert ended.message.startswith(f"{field} ")
    assert ended.kinds == ["failed"]
    assert server.books() == (0, 0)


USAGE = {"input_tokens": 10, "output_tokens": 5}
BAD_LATER = [
    (paid(), "task"),
    (RouteRequest(), "outcome"),
    (RouteRequest(outcome=ok(2)), "outcome.attempt"),
    (RouteRequest(outcome=ok(0)), "outcome.attempt"),
    (RouteRequest(progress=Progress(attempt=2)), "progress.attempt"),
    (RouteRequest(outcome=Outcome(attempt=1)), "outcome.result"),
    (later(features=[1]), "features"),
    (later(request_id="x"), "request_id"),
    (later(constraints=within(1)), "constraints"),
    (RouteRequest(outcome=ok(1, c.Usage(input_tokens=-1))), "outcome.ok.usage.input_tokens"),
    (
        RouteRequest(outcome=ok(1, c.Usage(**USAGE, cached_input_tokens=11))),
        "outcome.ok.usage.cached_input_tokens",
    ),
    (
        RouteRequest(outcome=ok(1, c.Usage(**USAGE, reasoning_tokens=6))),
        "outcome.ok.usage.reasoning_tokens",
    ),
    (
        RouteRequest(outcome=Outcome(attempt=1, ok=OutcomeOk(reported_model="a\nb"))),
        "outcome.ok.reported_model",
    ),
    (RouteRequest(outcome=failed(x.FAILURE_CLASS_UNSPECIFIED)), "outcome.failed.failure_class"),
    (RouteRequest(outcome=failed(x.FAILURE_CLASS_GATE)), "outcome.failed.failure_class"),
    (
        RouteRequest(outcome=Outcome(attempt=1, failed=OutcomeFailed())),
        "outcome.failed.failure_class",
    ),
    (RouteRequest(outcome=evidence()), "outcome.failed.failure_evidence.http_status"),
    (
        RouteRequest(outcome=evidence(http_status=99)),
        "outcome.failed.failure_evidence.http_status",
    ),
    (
        RouteRequest(outcome=evidence(http_status=500, body=b"x" * 8_193)),
        "outcome.failed.failure_evidence.body",
    ),
    (
        RouteRequest(outcome=evidence(http_status=500, headers={"a": "x" * 2_000})),
        "outcome.failed.failure_evidence.headers",
    ),
    (
        RouteRequest(outcome=Outcome(attempt=1, ok=OutcomeOk(), elapsed=Duration(seconds=-1))),
        "outcome.elapsed",
    ),
]


@pytest.mark.parametrize(("message", "field"), BAD_LATER, ids=[f for _, f in BAD_LATER])
async def test_a_wrong_later_message_ends_the_task_and_books_the_reserve(
    server: Served, message: RouteRequest, field: str
) -> None:
    talk, reservation = await selected(server)
    await talk.call.write(message)
    ended = await talk.end()

    assert ended.code is grpc.StatusCode.INVALID_ARGUMENT
    assert ended.message.startswith(f"{field} ")
    assert ended.events[-1].failed.reason == x.ERROR_REASON_REQUEST_INVALID
    assert [event.sequence for event in ended.events] == list(range(1, len(ended.events) + 1))
    await server.settled()
    assert server.books() == (RESERVE_NANOS, 0)
    assert (await server.report(reservation, ok())).corrected
    assert server.books() == (COST_NANOS, 0)


UNBUILT = [
    (paid(resume_token="x"), "resume_token"),
    (RouteRequest(task=e.Task(session_id="s")), "task.session_id"),
    (paid(constraints=e.Constraints(may_wait=True)), "constraints.may_wait"),
    (paid(features=[9]), "features[0] = 9"),
]


@pytest.mark.parametrize(("first", "name"), UNBUILT, ids=[n for _, n in UNBUILT])
async def test_what_is_not_built_is_refused_by_name(
    server: Served, first: RouteRequest, name: str
) -> None:
    ended = await (await Talk.begin(server, first)).end()

    assert ended.code is grpc.StatusCode.UNIMPLEMENTED
    assert name in ended.message


async def test_a_stream_without_a_message_is_refused(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = Talk(server.router.Route(timeout=10))
    await silent.call.done_writing()
    ended = await silent.end()
    monkeypatch.setattr("escalade_server.api.route.FIRST_S", 0.05)
    slow = await Talk(server.router.Route(timeout=10)).end()

    for told in (ended, slow):
        assert told.code is grpc.StatusCode.INVALID_ARGUMENT
        assert told.message.startswith("task ")


async def test_bytes_that_are_no_message_end_the_call(server: Served) -> None:
    path = "/escalade.v1.RouterService/Route"
    first = paid().SerializeToString()
    for sent in ([b"\xff"], [first, b"\xff"]):
        raw: Any = server.channel.stream_stream(
            path, response_deserializer=RouteResponse.FromString
        )
        talk = Talk(raw(timeout=10))
        for data in sent:
            await talk.call.write(data)
        ended = await talk.end()
        assert (ended.code, ended.reason) == (
            grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_INVALID",
        )  # fmt: skip
        assert "no valid message" in ended.message
    await server.settled()
    assert server.books()[1] == 0


async def test_a_report_that_cannot_be_booked_may_be_sent_again(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    reservation = await unreported(server)

    def broken(*_: object) -> None:
        raise StoreError("disk full")

    with monkeypatch.context() as while_full:
        while_full.setattr(server.running.engine.store, "settle", broken)
        assert await server.refused(reservation, ok()) == "UNAVAILABLE LEDGER_UNAVAILABLE"
    assert await server.refused(reservation, ok()) == "OK"
    assert server.books() == (COST_NANOS, 0)


async def test_a_gate_may_be_the_callers_own(server: Served) -> None:
    for gate, word in ((c.GATE_UNSPECIFIED, "of its own"), (c.GATE_EMPTY, "empty")):
        reservation = await unreported(server)
        outcome = Outcome(attempt=1, rejected=OutcomeRejected(gate=gate, usage=USED))
        detail = (await server.report(reservation, outcome)).attempt.detail
        assert detail == f"failed the caller's gate {word}"
    unknown = Outcome(attempt=1, rejected=OutcomeRejected(gate=99))  # type: ignore[arg-type]
    assert await server.refused(reservation, unknown) == "UNIMPLEMENTED NOT_YET_BUILT"


async def test_unstated_input_is_granted_a_default(server: Served) -> None:
    talk = await Talk.begin(server, RouteRequest(task=e.Task(type="debug")))

    assert (await talk.hear("selected")).max_input_tokens == 4_096
    talk.call.cancel()


def test_the_world_states_its_own_sums() -> None:
    assert route_world.RESERVE_NANOS == 6_500_000
    assert route_world.COST_NANOS == 2_000_000
