"""``Route`` through a whole server: who reports what, and what the books say after it (R31-R33)."""

import asyncio

import grpc
import pytest

from escalade.v1 import completion_pb2 as c
from escalade.v1 import error_pb2 as x
from escalade.v1 import escalation_pb2 as e
from escalade.v1.router_service_pb2 import (
    FEATURE_IMAGES,
    TRANSPORT_FAILURE_CONNECT,
    RouteRequest,
)
from escalade_server.core import calling
from tests.api import route_world
from tests.api.route_world import (
    COST_NANOS,
    RESERVE_NANOS,
    Served,
    Talk,
    evidence,
    failed,
    not_sent,
    ok,
    paid,
    rejected,
    selected,
    unreported,
    within,
)

FREE = RouteRequest(task=e.Task(type="parse", tokens=100))
NO_BALANCE = b'{"error": {"type": "insufficient_quota", "code": "insufficient_quota"}}'
RATE_LIMIT = b'{"error": {"type": "requests", "code": "rate_limit_exceeded"}}'


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
    for turn in range(20):
        first = paid()
        first.request_id = f"r-{turn}"
        talk, _ = await selected(server, first)
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
    monkeypatch.setattr(calling, "LEASE_MS", 4_000)
    talk, _ = await selected(server)
    for _ in range(9):  # more than a lease in all
        await asyncio.sleep(0.5)
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


async def test_unstated_input_is_granted_a_default(server: Served) -> None:
    talk = await Talk.begin(server, RouteRequest(task=e.Task(type="debug")))

    assert (await talk.hear("selected")).max_input_tokens == 4_096
    talk.call.cancel()


def test_the_world_states_its_own_sums() -> None:
    assert route_world.RESERVE_NANOS == 6_500_000
    assert route_world.COST_NANOS == 2_000_000
