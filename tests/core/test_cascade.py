"""One story per row of the cascade's table, and one per rule it names."""

import pytest

from escalade_server.core.commands import (
    Announce,
    Deliver,
    Reserve,
    SetBench,
)
from escalade_server.core.facts import (
    Assessed,
    ErrorReason,
    Escalated,
    EscalationKind,
    EscalationReason,
    Fallback,
    Retracted,
    Selected,
)
from escalade_server.core.failure import FailureClass
from escalade_server.core.rules import OnTargetExhausted, Rules
from escalade_server.core.standing import Cause
from escalade_server.core.task import (
    Basis,
    Constraints,
    Delivery,
    OnInterruption,
    Request,
    Task,
)
from escalade_server.core.trace import AttemptStatus
from tests.core.builders import DAY, request, three_layers
from tests.core.play import FREE_FULL, Play, begun, calling, full, with_delivery


def test_an_easy_task_is_answered_by_the_first_model() -> None:
    play = begun()
    assert isinstance(play.log[-1], Reserve)

    play.grant()
    play.says("Hi")
    play.says(" there")
    play.finishes()
    assert play.outcome is None, "a good ending waits for the settlement (guarantee 4)"
    play.settled()

    report = play.finished.report
    assert [type(f) for f in play.facts] == [Assessed, Selected]
    assert play.text == "Hi there"
    assert report.layer_path == ("free",)
    assert report.answered is not None
    assert report.answered.id == "mini"
    assert (report.list_nanos, report.charged_nanos) == (100 * 150 + 10 * 600, 0)
    assert report.attempts[0].basis is Basis.REPORTED
    assert play.cascade.closed


def test_a_failed_attempt_falls_back_to_a_sibling_then_escalates() -> None:
    play = calling()
    play.fails(FailureClass.QUOTA_WINDOW, reset_in_ms=3_600_000)
    assert play.last(SetBench).key == "openai/default/mini"
    play.grant()
    assert [f.to_model.id for f in play.told(Fallback)] == ["flash"]

    play.fails(FailureClass.OUTAGE)
    play.grant()

    (escalated,) = play.told(Escalated)
    assert (escalated.from_layer, escalated.to_layer) == ("free", "budget")
    assert escalated.reason is EscalationReason.OUTAGE
    assert escalated.kind is EscalationKind.FAILURE
    order = [type(f) for f in play.facts[-2:]]
    assert order == [Escalated, Selected], "announced before anything of the new layer"


def test_full_windows_escalate_without_a_call_and_without_a_fallback() -> None:
    play = Play(three_layers(), request())
    play.start(FREE_FULL)
    play.grant()

    (escalated,) = play.told(Escalated)
    assert escalated.reason is EscalationReason.RATE_LIMIT
    assert escalated.detail == "mini had 50 of 50 requests today"
    assert play.told(Fallback) == []
    skips = play.told(Selected)[0].skips
    assert [(s.model.id if s.model else "", s.verdict.cause) for s in skips] == [
        ("mini", Cause.WINDOW_FULL),
        ("flash", Cause.WINDOW_FULL),
    ]


def test_a_task_above_the_threshold_jumps() -> None:
    play = calling(request(task=Task(type="architecture", files=10, tokens=50_000)))

    (escalated,) = play.told(Escalated)
    assert (escalated.to_layer, escalated.reason) == ("premium", EscalationReason.COMPLEXITY)
    assert escalated.kind is EscalationKind.INITIAL
    assert escalated.detail == "score 10 is above 8"


def test_a_task_starts_where_its_capability_is_declared() -> None:
    play = calling(request(task=Task(type="debug", files=0, tokens=0)))

    (escalated,) = play.told(Escalated)
    assert (escalated.to_layer, escalated.reason) == ("budget", EscalationReason.CAPABILITY)


def test_premium_out_is_an_announced_downgrade() -> None:
    play = Play(three_layers(), request(task=Task(type="architecture", files=10, tokens=50_000)))
    play.start(full("nanos/month:premium", spent=5_000_000_000))
    play.grant()

    (escalated,) = play.told(Escalated)
    assert (escalated.to_layer, escalated.reason) == ("budget", EscalationReason.DOWNGRADE)
    assert escalated.kind is EscalationKind.DOWNGRADE
    assert escalated.detail == "gpt had $5.00 of $5.00 this month"


@pytest.mark.parametrize("may", [None, False])
def test_without_leave_to_downgrade_the_task_fails_with_the_instant(*, may: bool | None) -> None:
    rules = Rules(on_target_exhausted=OnTargetExhausted.FAIL) if may is None else None
    hard = Task(type="architecture", files=10, tokens=50_000)
    play = Play(three_layers(rules), request(task=hard, constraints=Constraints(may_downgrade=may)))
    play.start(full("nanos/month:premium", spent=5_000_000_000))

    assert play.failed.reason is ErrorReason.BUDGET_EXHAUSTED
    assert play.failed.retry_at_ms == DAY


def test_a_stream_that_breaks_is_retracted_and_starts_over() -> None:
    play = calling()
    play.says("Half an ")
    play.fails(FailureClass.PROTOCOL)
    play.grant()
    play.says("Whole")
    play.finishes()
    play.settled()

    kinds = [c.fact if isinstance(c, Announce) else c for c in play.log]
    retracted = next(i for i, c in enumerate(kinds) if isinstance(c, Retracted))
    new_text = next(i for i, c in enumerate(kinds) if isinstance(c, Deliver) and c.attempt == 2)
    assert retracted < new_text
    assert len(play.told(Retracted)) == 1
    statuses = [a.status for a in play.finished.report.attempts]
    assert statuses == [AttemptStatus.RETRACTED, AttemptStatus.OK]


def test_a_stream_that_breaks_fails_when_the_caller_asked_for_it() -> None:
    base = request()
    req = Request(base.id, base.task, base.messages, on_interruption=OnInterruption.FAIL,
                  deadline_ms=base.deadline_ms)  # fmt: skip
    play = calling(req)
    play.says("Half")
    play.ends()

    assert play.failed.reason is ErrorReason.INTERRUPTED
    assert play.failed.report.attempts[0].basis is Basis.ESTIMATED
    assert play.told(Retracted) == []


def test_whole_delivery_needs_no_retraction() -> None:
    play = calling(with_delivery(Delivery.WHOLE))
    play.says("Half")
    play.fails(FailureClass.OUTAGE)
    play.grant()
    play.says("Whole")
    play.finishes()
    play.settled()

    assert play.told(Retracted) == []
    assert [c for c in play.log if isinstance(c, Deliver)] == []
    assert [getattr(p, "text", "") for p in play.finished.answer.parts] == ["Whole"]


def test_done_without_a_finish_reason_is_a_failure() -> None:
    play = calling()
    play.says("Text")
    play.ends()

    assert play.told(Retracted)[0].cls is FailureClass.PROTOCOL


def test_a_finish_reason_without_done_is_whole() -> None:
    play = calling()
    play.says("Text")
    play.finishes(usage=None)
    play.settled()

    attempt = play.finished.report.attempts[0]
    assert attempt.basis is Basis.ESTIMATED
    assert attempt.usage.output_tokens == 1
