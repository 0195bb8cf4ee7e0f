from dataclasses import replace

import pytest

from escalade_server.core import ending, settlement
from escalade_server.core.catalog import Catalog
from escalade_server.core.commands import Candidate
from escalade_server.core.diary import Diary
from escalade_server.core.events import Finish
from escalade_server.core.facts import (
    ErrorReason,
    Escalated,
    EscalationKind,
    EscalationReason,
    Failed,
    Finished,
)
from escalade_server.core.failure import NEVER_MS, Failure, FailureClass
from escalade_server.core.money import cost_nanos
from escalade_server.core.standing import Balance, Cause, Standing, Verdict, VerdictClass
from escalade_server.core.task import Basis, Constraints, FinishReason, Text, Usage
from escalade_server.core.trace import Answer, AttemptStatus, Headroom, Skip
from tests.core.builders import DAY, PRICE, T0, request, three_layers
from tests.core.parts import book_failure, diary, live, skip, spoken

STRATEGY = three_layers()
MINI, FLASH, GLM, M2, GPT = STRATEGY.models
V, C, E = VerdictClass, Cause, ErrorReason
LATER = T0 + 1_000

FULL = Verdict(V.RATE, C.WINDOW_FULL, "is full", DAY)
SOONER = Verdict(V.DOWN, C.CIRCUIT_OPEN, "keeps failing", LATER)
SPENT = Verdict(V.MONEY, C.CAP_SPENT, "is spent", DAY)
LIMIT = Verdict(V.MONEY, C.SPEND_LIMIT, "may cost more", NEVER_MS)
HELD = Verdict(V.HELD, C.HELD)
NO_KEY = Verdict(V.DOWN, C.NO_KEY, "has no key", NEVER_MS)
CONSENT = Verdict(V.POLICY, C.CONSENT, "needs consent")
DENIED = Verdict(V.POLICY, C.CONSTRAINT, "denied")
SMALL = Verdict(V.UNFIT, C.CONTEXT_TOO_SMALL, "too small")
HUGE = Verdict(V.UNFIT, C.NEVER_FITS, "never fits", NEVER_MS)
REJECTED = Verdict(V.REJECTED, C.GATE_FAILED)
TRIED = Verdict(V.TRIED, C.FAILED_HERE, "broke", None, FailureClass.OUTAGE)
TRIED_429 = Verdict(V.TRIED, C.FAILED_HERE, "429", LATER, FailureClass.QUOTA_WINDOW)
DOWN = Verdict(V.DOWN, C.COOLDOWN, "set aside")


def pages(*verdicts: Verdict, failed: FailureClass | None = None) -> Diary:
    found = diary(STRATEGY)
    found.skip(skip(m, v) for m, v in zip(STRATEGY.models, verdicts, strict=False))
    if failed is not None:
        book_failure(found, MINI, failed)
    return found


@pytest.mark.parametrize(
    ("verdicts", "failed", "untriggered", "reason", "retry_at_ms"),
    [
        ((FULL, SPENT), None, "", E.RATE_LIMITED, DAY),
        ((FULL, SOONER), None, "", E.RATE_LIMITED, LATER),
        ((TRIED_429, FULL), FailureClass.QUOTA_WINDOW, "", E.RATE_LIMITED, LATER),
        ((SPENT, HELD), None, "", E.BUDGET_EXHAUSTED, DAY),
        ((HELD,), None, "", E.BUDGET_EXHAUSTED, None),
        ((TRIED, FULL), FailureClass.OUTAGE, "", E.ALL_MODELS_FAILED, DAY),
        ((SOONER,), None, "", E.ALL_MODELS_FAILED, LATER),
        ((DOWN,), None, "", E.ALL_MODELS_FAILED, None),
        ((NO_KEY, HUGE), None, "", E.NO_ELIGIBLE_MODEL, None),
        ((LIMIT, DENIED), None, "", E.NO_ELIGIBLE_MODEL, None),
        ((SMALL, DENIED), None, "", E.NO_ELIGIBLE_MODEL, None),
        ((), None, "", E.NO_ELIGIBLE_MODEL, None),
        # The attempts a task may have are used up before any model was passed over.
        ((), FailureClass.OUTAGE, "", E.ALL_MODELS_FAILED, None),
        ((), FailureClass.RATE_SHORT, "", E.RATE_LIMITED, None),
        ((), FailureClass.BALANCE, "", E.BUDGET_EXHAUSTED, None),
        ((CONSENT, SMALL), None, "", E.CONSENT_REQUIRED, None),
        ((CONSENT, FULL), None, "", E.RATE_LIMITED, DAY),
        ((CONSENT, SPENT), None, "", E.BUDGET_EXHAUSTED, DAY),
        ((CONSENT, TRIED, FULL), FailureClass.OUTAGE, "", E.RATE_LIMITED, DAY),
        ((CONSENT, REJECTED, FULL), FailureClass.PROTOCOL, "", E.QUALITY_NOT_MET, DAY),
        ((CONSENT, FULL), None, "line 9 does not hold", E.RATE_LIMITED, DAY),
        ((FULL,), None, "line 9 does not hold", E.TRIGGER_NOT_MET, DAY),
        ((REJECTED, SMALL), FailureClass.PROTOCOL, "", E.QUALITY_NOT_MET, None),
    ],
)
def test_r22_why_there_is_no_answer_and_when_there_can_be_one(
    verdicts: tuple[Verdict, ...], failed: FailureClass | None, untriggered: str,
    reason: ErrorReason, retry_at_ms: int | None,
) -> None:  # fmt: skip
    found = ending.no_way(pages(*verdicts, failed=failed), untriggered, None, T0)

    assert (found.reason, found.retry_at_ms) == (reason, retry_at_ms)
    assert len([key for key, _ in found.metadata if "/" in key]) == len(verdicts)


def test_each_variable_of_the_sentence_stands_in_the_metadata() -> None:
    found = ending.no_way(pages(FULL, SPENT, HUGE), "", None, T0)

    assert found.detail == (
        "every layer is exhausted: mini: is full; flash: is spent; glm: never fits"
    )
    assert found.metadata == (
        ("free/mini", "window_full"), ("free/flash", "cap_spent"), ("budget/glm", "never_fits"),
    )  # fmt: skip


def test_r28_consent_is_asked_for_with_the_layer_and_the_worst_price() -> None:
    found = diary(STRATEGY)
    found.skip((skip(GLM, CONSENT), skip(M2, CONSENT)))
    worst = found.look.need.candidate(GLM, None).nanos
    agree = f"budget needs consent, a call there may cost ${worst / 1e9:.4f}"

    alone = ending.no_way(found, "", None, T0)
    found.skip((skip(MINI, FULL),))
    later = ending.no_way(found, "", None, T0)

    assert (alone.reason, alone.detail) == (E.CONSENT_REQUIRED, f"no other layer is left: {agree}")
    assert (later.reason, later.retry_at_ms) == (E.RATE_LIMITED, DAY)
    assert later.detail.endswith(agree)


def test_r23_after_a_cut_it_is_the_cuts_error() -> None:
    cut = Failure(FailureClass.OUTAGE, "connection reset")

    found = ending.no_way(pages(FULL), "", cut, T0)

    assert (found.reason, found.retry_at_ms) == (E.INTERRUPTED, DAY)
    assert found.detail.startswith("connection reset, and no other model could start over: every")


def test_headroom_is_what_is_left_after_the_task() -> None:
    (counter,) = MINI.counters
    balances = {counter.key: Balance("d", 7, 2, DAY)}

    call = Candidate(MINI, 0, 0, 0)
    assert ending.headroom(call, Standing(balances), T0) == (Headroom(counter, 7, 2, DAY),)
    assert ending.headroom(call, Standing(balances), DAY) == (Headroom(counter, 0, 0, 0),)
    assert ending.headroom(call, Standing(), T0) == (Headroom(counter, 0, 0, 0),)


def answer(found: Diary, each: int = 0) -> Finished:
    """Let the model at this place answer."""
    chosen = STRATEGY.models[each]
    number = len(found.attempts) + 1
    attempt = spoken(live(chosen, found.look.need, number), "Hi")
    attempt.finish, attempt.usage = Finish(FinishReason.LENGTH, "its own limit"), Usage(100, 10)
    booking = settlement.answered(attempt, found.look.need)
    found.book(attempt, booking, AttemptStatus.OK, T0)
    return ending.finished(found, attempt, Standing(), T0 + 1_200)


def test_a_report_adds_up_every_attempt() -> None:
    found = pages(FULL)
    found.layer_path.append("premium")
    broken = live(GLM, found.look.need)
    booking = settlement.Booking(1, Usage(5, 1, 2, 1, 1), 70, Basis.ESTIMATED)
    found.book(broken, booking, AttemptStatus.FAILED, T0, Failure(FailureClass.OUTAGE, "broke"))

    ended = answer(found, each=4)

    report, price = ended.report, cost_nanos(Usage(100, 10), PRICE)
    assert ended.answer.parts == (Text("Hi"),)
    assert (ended.answer.finish, ended.answer.finish_detail) == (
        FinishReason.LENGTH, "its own limit",
    )  # fmt: skip
    assert report.usage == Usage(105, 11, 2, 1, 1)
    assert (report.list_nanos, report.charged_nanos) == (70 + price, price)
    assert (report.answered, report.selected) == (GPT, GPT)
    assert (report.baseline_model, report.baseline_nanos) == ("gpt", price)
    assert (report.started_ms, report.ended_ms) == (T0, T0 + 1_200)
    assert report.layer_path == ("free", "premium")
    assert [s.model for s in report.skips] == [MINI]
    assert len(report.headroom) == 1


def test_an_answer_of_deltas_alone_counts_as_stopped() -> None:
    found = diary(STRATEGY)
    attempt = live(MINI, found.look.need)

    ended = ending.finished(found, attempt, Standing(), T0)

    assert ended.answer == Answer((), FinishReason.STOP, "")


def test_the_model_that_was_asked_for_stands_in_the_report() -> None:
    def requested(*names: str) -> str:
        asked = request(constraints=Constraints(allowed_models=names))
        return ending.report(diary(STRATEGY, asked), T0).requested_model

    assert [requested(), requested("gpt"), requested("gpt", "mini")] == ["", "gpt", ""]


def test_a_failure_has_its_report_and_its_instant() -> None:
    why = ending.NoWay(E.RATE_LIMITED, "every layer is exhausted", DAY, (("free/mini", "x"),))

    found = ending.failed(pages(FULL), why, T0 + 50)

    assert found == Failed(E.RATE_LIMITED, why.detail, found.report, DAY, why.metadata)
    assert (found.report.earliest_ms, found.report.answered, found.report.selected) == (
        DAY, None, None,
    )  # fmt: skip
    assert found.report.baseline_nanos is None


def escalated(
    found: Diary, to: str, reason: EscalationReason, detail: str, failed: int = 0
) -> None:
    from_layer = found.layer_path[-1]
    kind = EscalationKind.FAILURE
    found.layer_path.append(to)
    found.escalations.append(Escalated(from_layer, to, reason, detail, kind, failed or None))


WOULD = "gpt would have cost $0.0000210"


def test_story_of_an_easy_task() -> None:
    assert answer(diary(STRATEGY)).report.story == (
        f"Score 0.7 → free; answered by mini: 1.2 s, free; {WOULD}"
    )


def test_story_of_a_fallback() -> None:
    found = pages(failed=FailureClass.OUTAGE)

    assert answer(found, each=1).report.story == (
        f"Score 0.7 → free; mini failed (broke); answered by flash: 1.2 s, free; {WOULD}"
    )


def test_story_of_an_escalation_after_a_failure() -> None:
    found = pages(failed=FailureClass.OUTAGE)
    escalated(found, "budget", EscalationReason.OUTAGE, "mini broke", failed=1)

    assert answer(found, each=2).report.story == (
        f"Score 0.7 → free; mini broke, so escalated to budget; "
        f"answered by glm: 1.2 s, $0.0000210; {WOULD}"
    )


def test_story_is_told_in_its_order() -> None:
    found = pages(failed=FailureClass.OUTAGE)
    escalated(found, "budget", EscalationReason.RATE_LIMIT, "flash: had 9 of 9 requests today")
    broken = replace(live(GLM, found.look.need), number=2)
    failure = Failure(FailureClass.AUTH, "no such key")
    found.book(broken, settlement.NOT_SENT, AttemptStatus.FAILED, T0, failure)

    assert answer(found, each=2).report.story == (
        "Score 0.7 → free; mini failed (broke); flash: had 9 of 9 requests today, so escalated to "
        f"budget; glm failed (no such key); answered by glm: 1.2 s, $0.0000210; {WOULD}"
    )


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (AttemptStatus.CANCELLED, "mini was cancelled"),
        (AttemptStatus.NOT_SENT, "mini was not called"),
        (AttemptStatus.UNREPORTED, "mini was not reported"),
    ],
)
def test_story_calls_no_failure_what_is_none(status: AttemptStatus, words: str) -> None:
    found = diary(STRATEGY)
    found.book(live(MINI, found.look.need), settlement.NOT_SENT, status, T0)

    assert ending.report(found, T0).story == f"Score 0.7 → free; {words}; no answer, after 0.0 s"


def test_story_of_a_downgrade_from_a_jump() -> None:
    hard = request(task=replace(request().task, type="architecture", complexity_micro=9_000_000))
    found = diary(STRATEGY, hard)
    escalated(found, "premium", EscalationReason.COMPLEXITY, "score 9 is above 8")
    escalated(found, "budget", EscalationReason.DOWNGRADE, "gpt had $5.00 of $5.00 this month")

    assert answer(found, each=3).report.story == (
        "Score 9.0 → premium; gpt had $5.00 of $5.00 this month, so downgraded to budget; "
        f"answered by m2: 1.2 s, $0.0000210; {WOULD}"
    )


def test_story_of_a_task_without_an_answer() -> None:
    found = pages(FULL)
    why = ending.no_way(found, "", None, T0)

    assert ending.failed(found, why, T0 + 200).report.story == (
        "Score 0.7 → free; every layer is exhausted: mini: is full, after 0.2 s"
    )
    assert ending.report(found, T0).story.endswith("; no answer, after 0.0 s")


def test_story_of_the_premium_model_compares_it_with_nothing() -> None:
    assert answer(diary(STRATEGY), each=4).report.story.endswith("gpt: 1.2 s, $0.0000210")


def test_story_of_a_strategy_without_a_baseline() -> None:
    bare: Catalog = replace(STRATEGY, baseline=None)
    found = answer(diary(bare))

    assert found.report.story.endswith("answered by mini: 1.2 s, free")
    assert (found.report.baseline_model, found.report.baseline_nanos) == ("", None)


def test_r15_a_free_answer_after_a_paid_attempt_is_not_called_free() -> None:
    found = diary(STRATEGY)
    broken = live(GPT, found.look.need)
    booking = settlement.Booking(1, Usage(), 2_100_000, Basis.RESERVED)
    found.book(broken, booking, AttemptStatus.FAILED, T0, Failure(FailureClass.OUTAGE, "broke"))

    assert ": 1.2 s, $0.0021; " in answer(found).report.story


@pytest.mark.parametrize("failure", [FailureClass.PROTOCOL, None])
def test_a_failure_without_words_is_named_by_its_class(failure: FailureClass | None) -> None:
    found = diary(STRATEGY)
    attempt = live(MINI, found.look.need)
    failed = Failure(failure, "") if failure else None
    found.book(attempt, settlement.NOT_SENT, AttemptStatus.FAILED, T0, failed)

    said = "protocol" if failure else "its answer failed a gate"
    assert f"mini failed ({said})" in ending.report(found, T0).story


def test_a_layer_that_was_passed_over_is_no_model() -> None:
    found = diary(STRATEGY)
    found.skip((Skip("budget", None, Verdict(V.TRIGGER_NOT_MET, C.TRIGGER_NOT_MET)),))

    assert ending.no_way(found, "", None, T0).metadata == ()
