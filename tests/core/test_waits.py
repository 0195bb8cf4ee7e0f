"""Who waits, until when, and what ends it: each value of a key has its own outcome (R22)."""

from dataclasses import replace

import pytest

from escalade_server.core.commands import Reserve
from escalade_server.core.events import TurnCame
from escalade_server.core.facts import ErrorReason
from escalade_server.core.failure import FailureClass
from escalade_server.core.rules import OnAllExhausted, OnRateLimit, OnTargetExhausted, Rules
from escalade_server.core.standing import Circuit, CircuitState, Standing, VerdictClass
from escalade_server.core.task import Constraints
from escalade_server.core.waits import TELL_MS
from tests.core.builders import DAY, T0, catalog, model, three_layers
from tests.core.play import FREE_FULL, Play
from tests.core.waiters import FREE, HARD, HOUR_MS, PREMIUM_SPENT, patient, queued, told, waiting

W = OnAllExhausted


@pytest.mark.parametrize(
    ("value", "waits", "notifies"),
    [(W.NOTIFY_AND_WAIT, True, True), (W.WAIT, True, False), (W.FAIL, False, False)],
)
def test_on_all_layers_exhausted(value: OnAllExhausted, *, waits: bool, notifies: bool) -> None:
    play = waiting(rules=Rules(on_all_exhausted=value))

    assert [one.notify for one in queued(play)] == [notifies] * waits
    assert (play.outcome is None) is waits
    if not waits:
        assert (play.failed.reason, play.failed.retry_at_ms) == (ErrorReason.RATE_LIMITED, DAY)


@pytest.mark.parametrize("on_all", list(OnAllExhausted))
@pytest.mark.parametrize(
    ("value", "does"),
    [
        (OnTargetExhausted.DOWNGRADE, "goes down"),
        (OnTargetExhausted.WAIT, "waits"),
        (OnTargetExhausted.FAIL, "fails"),
    ],
)
def test_on_target_exhausted(value: OnTargetExhausted, does: str, on_all: OnAllExhausted) -> None:
    rules = Rules(on_target_exhausted=value, on_all_exhausted=on_all)
    play = waiting(patient(limits=Constraints(), task=HARD), rules, PREMIUM_SPENT)

    if does == "goes down":
        assert play.last(Reserve).candidates[0].model.layer == "budget"
    assert len(queued(play)) == (does == "waits")
    assert (play.outcome is not None) == (does == "fails")
    if does == "fails":
        assert (play.failed.reason, play.failed.retry_at_ms) == (ErrorReason.BUDGET_EXHAUSTED, DAY)


def test_a_caller_that_forbids_the_way_down_waits_as_when_all_is_exhausted() -> None:
    limits = Constraints(may_downgrade=False)
    for value, waits in ((W.WAIT, 1), (W.FAIL, 0)):
        play = waiting(
            patient(limits=limits, task=HARD), Rules(on_all_exhausted=value), PREMIUM_SPENT
        )
        assert len(queued(play)) == waits


def test_r7_next_model_waits_in_the_layer_that_is_out_for_rate() -> None:
    rules = Rules(on_rate_limit=OnRateLimit.NEXT_MODEL)
    play = waiting(patient(limits=Constraints()), rules)

    assert [(one.reason, one.earliest_ms) for one in queued(play)] == [(VerdictClass.RATE, DAY)]


@pytest.mark.parametrize(
    ("may_wait", "value", "waits"),
    [
        (None, W.WAIT, True), (True, W.WAIT, True), (False, W.WAIT, False),
        (None, W.FAIL, False), (True, W.FAIL, False), (False, W.FAIL, False),
    ],
)  # fmt: skip
def test_strategy_and_request_must_both_allow_it(
    value: OnAllExhausted, *, may_wait: bool | None, waits: bool
) -> None:
    limits = replace(FREE, may_wait=may_wait)
    play = waiting(patient(limits=limits), Rules(on_all_exhausted=value))

    assert len(queued(play)) == waits


@pytest.mark.parametrize(
    ("strategy_ms", "asked_ms", "ends_ms"),
    [
        (HOUR_MS - 1, None, DAY + HOUR_MS),  # the strategy's budget
        (2 * HOUR_MS, HOUR_MS, DAY + HOUR_MS),  # the caller's; at the instant itself is too late
        (2 * HOUR_MS, 3 * HOUR_MS, DAY),  # the deadline
        (2 * HOUR_MS, None, 0),  # no word of more than the work
    ],
)
def test_what_cannot_be_had_in_time_fails_now_with_the_instant(
    strategy_ms: int, asked_ms: int | None, ends_ms: int
) -> None:
    asked = patient(limits=replace(FREE, max_wait_ms=asked_ms), ends_ms=ends_ms)
    play = waiting(asked, Rules(max_wait_ms=strategy_ms))

    assert (play.failed.reason, play.failed.retry_at_ms) == (ErrorReason.RATE_LIMITED, DAY)
    assert play.failed.report.ended_ms == T0
    assert not queued(play)


def test_what_never_reopens_is_not_waited_for() -> None:
    asked = patient(limits=Constraints(free_only=True, denied_models=("mini", "flash")))

    assert waiting(asked).failed.reason is ErrorReason.NO_ELIGIBLE_MODEL


def test_it_says_what_and_until_when_and_again_every_15_s() -> None:
    play = waiting()
    [first] = queued(play)
    assert (first.reason, first.earliest_ms) == (VerdictClass.RATE, DAY)
    assert "50 of 50 requests today" in first.rule
    assert "every layer is exhausted" in first.detail
    play.passes(4 * TELL_MS + 1)
    assert [(one.repeated, one.notify, one.earliest_ms) for one in told(play)] == [
        (True, False, DAY)
    ] * 4
    assert play.cascade.wake_at_ms == T0 + 5 * TELL_MS


def test_the_clock_of_the_work_stands_still_while_it_waits() -> None:
    play = waiting()  # a minute of work
    play.passes(HOUR_MS)
    play.feed(TurnCame(Standing()))
    assert play.cascade.wake_at_ms == DAY + 60_000
    play.passes(60_000)
    assert play.failed.reason is ErrorReason.DEADLINE_REACHED


def test_the_callers_deadline_bounds_work_and_waits_together() -> None:
    play = waiting(patient(ends_ms=DAY + 1_000))
    play.passes(HOUR_MS)
    play.feed(TurnCame(Standing()))

    assert play.cascade.wake_at_ms == DAY + 1_000


def test_waits_share_one_budget_also_with_those_before_a_break() -> None:
    rules = Rules(max_wait_ms=2 * HOUR_MS)
    play = waiting(patient(ends_ms=DAY + 9 * HOUR_MS), rules)
    play.passes(HOUR_MS + 1_000)
    later = Standing(
        {k: b._replace(ends_ms=DAY + HOUR_MS - 1) for k, b in FREE_FULL.balances.items()}
    )
    play.feed(TurnCame(later))
    assert play.outcome is None
    play.passes(HOUR_MS)
    assert "as long as it may" in play.failed.detail
    assert play.failed.report.ended_ms == T0 + 2 * HOUR_MS
    assert play.failed.reason is ErrorReason.RATE_LIMITED

    before = replace(patient(), waiting_since_ms=T0 - HOUR_MS)
    assert waiting(before, rules).failed.retry_at_ms == DAY, "an hour is used up, another is left"
    assert queued(waiting(before, replace(rules, max_wait_ms=2 * HOUR_MS + 1)))


def test_what_failed_before_the_wait_is_tried_again_but_attempts_count() -> None:
    only = catalog(("only", (model("openai/mini"),), ()), rules=Rules(attempts_max=2))
    play = Play(only, patient(limits=Constraints()))
    play.start()
    play.grant()
    play.fails(FailureClass.QUOTA_WINDOW, 60_000)
    assert [one.earliest_ms for one in queued(play)] == [T0 + 60_000]
    play.passes(60_000)
    play.feed(TurnCame(Standing()))
    play.grant()
    play.fails(FailureClass.QUOTA_WINDOW, 60_000)

    assert len(queued(play)) == 1
    assert play.failed.reason is ErrorReason.RATE_LIMITED
    assert len(play.failed.report.attempts) == 2


def test_a_probe_of_an_open_circuit_is_waited_for() -> None:
    down = {name: Circuit(CircuitState.OPEN, T0 + 9_000) for name in ("openai", "google")}
    play = waiting(standing=Standing(circuits=down))

    assert [(one.reason, one.earliest_ms) for one in queued(play)] == [
        (VerdictClass.DOWN, T0 + 9_000)
    ]


def test_r21_nobody_waits_for_a_better_answer() -> None:
    play = Play(three_layers(), patient())
    play.start()
    play.grant()
    play.standing = FREE_FULL
    play.finishes()  # an empty answer fails the default gate

    assert play.failed.reason is ErrorReason.QUALITY_NOT_MET
    assert not queued(play)
