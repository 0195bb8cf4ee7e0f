"""Limits of time, waits, rules of the strategy, and endings of the cascade: a story for each."""

from escalade_server.core.commands import CancelCall, Reserve, SetBench, Settle
from escalade_server.core.events import ChunkArrived, Finish
from escalade_server.core.facts import (
    Alert,
    AlertKind,
    ErrorReason,
    Escalated,
    EscalationReason,
    Fallback,
    Waiting,
)
from escalade_server.core.failure import FailureClass
from escalade_server.core.rules import OnOutage, OnRateLimit, Rules
from escalade_server.core.standing import Balance, Bench, Denial, Standing, VerdictClass
from escalade_server.core.task import Basis, Constraints, FinishReason, Task, Usage
from escalade_server.core.triggers import Comparison, ComplexityTrigger, Condition, LayerTrigger
from tests.core.builders import DAY, T0, catalog, model, per_day, request, three_layers
from tests.core.play import FREE_FULL, Play, begun, calling, full


def test_r26_usage_is_waited_for_two_seconds() -> None:
    play = calling()
    play.says("Text")
    play.feed(ChunkArrived(play.attempt, (), Finish(FinishReason.STOP)))
    assert not [c for c in play.log if isinstance(c, Settle)]
    play.passes(2_000)

    assert play.last(Settle).basis is Basis.ESTIMATED


def test_r24_a_silent_model_is_left_for_the_next_one() -> None:
    play = calling()
    assert play.cascade.wake_at_ms == T0 + 30_000
    play.passes(30_000)

    assert play.cancelled() == [CancelCall(1)]
    assert play.last(Reserve).candidates[0].model.id == "flash"
    assert play.last(Settle).requests == 1


def test_r24_the_last_candidate_gets_all_the_time_left() -> None:
    alone = catalog(("free", (model("openai/mini"),), ()))
    play = calling(cat=alone)

    assert play.cascade.wake_at_ms == T0 + 60_000


def test_r8_a_short_429_is_sat_out_once_before_the_layer_is_left() -> None:
    alone = catalog(("free", (model("openai/mini"),), ()), ("paid", (model("x/y"),), ()))
    play = calling(cat=alone)
    play.fails(FailureClass.RATE_SHORT, reset_in_ms=1_500)
    (waiting,) = play.told(Waiting)
    assert (waiting.reason, waiting.earliest_ms) == (VerdictClass.RATE, T0 + 1_500)

    play.passes(1_500)
    assert play.last(Reserve).candidates[0].model.id == "mini"
    play.grant()
    play.fails(FailureClass.RATE_SHORT, reset_in_ms=1_500)

    assert play.last(Reserve).candidates[0].model.id == "y"


def test_r14_holds_are_waited_for_then_crossed() -> None:
    held = {f"requests/day:{m}": Balance("d", 0, 50, DAY)
            for m in ("openai/default/mini", "google/default/flash")}  # fmt: skip
    play = Play(three_layers(), request())
    play.start(Standing(held))
    assert play.told(Waiting)[0].reason is VerdictClass.HELD
    play.passes(5_000)
    play.grant()

    assert len(play.told(Waiting)) == 1
    assert play.told(Escalated)[0].reason is EscalationReason.HELD


def test_r14_a_settlement_ends_the_wait_for_holds() -> None:
    held = {f"requests/day:{m}": Balance("d", 0, 50, DAY)
            for m in ("openai/default/mini", "google/default/flash")}  # fmt: skip
    play = Play(three_layers(), request())
    play.start(Standing(held))
    play.standing = Standing()
    play.passes(25)

    assert play.last(Reserve).candidates[0].model.id == "mini"


def test_r7_next_model_does_not_leave_a_layer_out_for_rate() -> None:
    play = Play(three_layers(Rules(on_rate_limit=OnRateLimit.NEXT_MODEL)), request())
    play.start(FREE_FULL)

    assert play.failed.reason is ErrorReason.RATE_LIMITED
    assert play.failed.retry_at_ms == DAY


def test_r7_next_layer_on_outage_leaves_at_once() -> None:
    play = calling(cat=three_layers(Rules(on_outage=OnOutage.NEXT_LAYER)))
    play.fails(FailureClass.OUTAGE)
    play.grant()

    assert play.told(Fallback) == []
    assert play.told(Escalated)[0].to_layer == "budget"


def test_r7_retry_then_skip_tries_the_same_model_once_more() -> None:
    play = calling(cat=three_layers(Rules(on_outage=OnOutage.RETRY_THEN_SKIP)))
    play.fails(FailureClass.OUTAGE)
    assert play.last(Reserve).candidates[0].model.id == "mini"
    play.grant()
    play.fails(FailureClass.OUTAGE)

    assert play.last(Reserve).candidates[0].model.id == "flash"


def test_r6_a_trigger_that_does_not_hold_ends_the_task_naming_its_line() -> None:
    barred = catalog(
        ("free", (model("openai/mini"),), ()),
        (
            "paid",
            (model("x/y"),),
            (LayerTrigger("free", Condition.RATE_LIMIT_EXCEEDED, "free.rate_limit_exceeded", 12),),
        ),
    )
    play = calling(cat=barred)
    play.fails(FailureClass.MODEL_GONE)

    assert play.failed.reason is ErrorReason.TRIGGER_NOT_MET
    assert "line 12" in play.failed.detail


def test_r6_a_list_of_triggers_means_any() -> None:
    triggers = (
        LayerTrigger("free", Condition.RATE_LIMIT_EXCEEDED, "free.rate_limit_exceeded", 12),
        ComplexityTrigger(Comparison.GT, 8_000_000, "task.complexity > 8", 13),
    )
    either = catalog(("free", (model("openai/mini"),), ()), ("paid", (model("x/y"),), triggers))
    play = calling(cat=either)
    play.fails(FailureClass.QUOTA_WINDOW)

    assert play.last(Reserve).candidates[0].model.id == "y"


def test_r21_an_empty_answer_escalates_with_reason_quality_and_is_charged() -> None:
    play = calling()
    play.says("  \n")
    play.finishes()
    play.grant()

    (escalated,) = play.told(Escalated)
    assert escalated.reason is EscalationReason.QUALITY
    assert play.text == ""
    assert play.last(Settle).nanos == 21_000


def test_context_failures_go_only_to_larger_windows() -> None:
    small = catalog(
        ("free", (model("a/small", context_tokens=8_000), model("b/small", context_tokens=8_000),
                  model("c/large", context_tokens=128_000)), ()),
    )  # fmt: skip
    play = calling(cat=small)
    play.fails(FailureClass.CONTEXT)

    assert [c.model.id for c in play.last(Reserve).candidates] == ["large"]


def test_an_account_failure_benches_the_account() -> None:
    play = calling()
    play.fails(FailureClass.BALANCE)

    assert play.last(SetBench).key == "openai/default"


def test_a_denied_reservation_is_walked_past() -> None:
    play = begun()
    mini, flash = play.last(Reserve).candidates
    key = mini.model.counters[0].key
    other = flash.model.counters[0].key
    row = Balance("today", 50, 0, DAY)
    play.deny(
        Denial(mini.model.position, key, row, 1, held_only=False, never_fits=False),
        Denial(flash.model.position, other, row, 1, held_only=False, never_fits=False),
    )
    play.grant()

    assert play.told(Escalated)[0].reason is EscalationReason.RATE_LIMIT


def test_free_only_never_pays() -> None:
    play = Play(three_layers(), request(constraints=Constraints(free_only=True)))
    play.start(FREE_FULL)

    assert play.failed.reason is ErrorReason.RATE_LIMITED
    assert play.failed.retry_at_ms == DAY


def test_r15_a_spend_limit_bounds_the_worst_case() -> None:
    play = Play(three_layers(), request(constraints=Constraints(spend_limit_nanos=1_000)))
    play.start(FREE_FULL)

    causes = {dict(play.failed.metadata)[k] for k in ("budget/glm", "premium/gpt")}
    assert causes == {"spend_limit"}


def test_r12_a_paid_layer_for_want_of_a_key_is_an_alert() -> None:
    standing = Standing(benches={
        key: Bench(1 << 62, FailureClass.AUTH, "key refused")
        for key in ("openai/default/mini", "google/default")
    })  # fmt: skip
    play = Play(three_layers(), request())
    play.start(standing)
    play.grant()

    assert play.told(Escalated)[0].reason is EscalationReason.UNCONFIGURED
    assert play.told(Alert)[0].detail.startswith("budget is used because free")


def test_u26_absurd_usage_is_not_believed() -> None:
    play = calling()
    play.says("Hi")
    play.finishes(usage=Usage(10**12, 5))
    play.settled()

    assert play.finished.report.attempts[0].basis is Basis.ESTIMATED


def test_the_story_reads_as_one_sentence() -> None:
    play = Play(three_layers(), request())
    play.start(FREE_FULL)
    play.grant()
    play.says("Hi")
    play.finishes()
    play.now += 1_200
    play.settled()

    assert play.finished.report.story == (
        "Score 0.7 → free; mini had 50 of 50 requests today, so escalated to budget; "
        "answered by glm: 1.2 s, $0.0000210; gpt would have cost $0.0000210"
    )


def test_a_downgrade_to_the_first_layer_is_told_as_an_alert() -> None:
    two = catalog(
        ("free", (model("openai/mini"),), ()),
        ("premium", (model("openai/gpt", capabilities=("architecture",),
                           counters=(per_day("openai", "gpt", 50),)),), ()),
    )  # fmt: skip
    play = Play(two, request(task=Task(type="architecture", files=0, tokens=0)))
    play.start(full("requests/day:openai/default/gpt"))
    play.grant()

    assert play.told(Escalated) == []
    (alert,) = play.told(Alert)
    assert (alert.kind, alert.detail) == (AlertKind.EXHAUSTED, "gpt had 50 of 50 requests today")
