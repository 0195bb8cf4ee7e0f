import pytest

from escalade_server.core import change, settlement
from escalade_server.core.catalog import Layer
from escalade_server.core.facts import (
    Alert,
    AlertKind,
    Escalated,
    EscalationKind,
    EscalationReason,
    Fallback,
    Selected,
)
from escalade_server.core.failure import FailureClass
from escalade_server.core.standing import Cause, Verdict, VerdictClass
from escalade_server.core.task import Task
from escalade_server.core.trace import AttemptStatus, Skip
from tests.core.builders import T0, request, three_layers
from tests.core.parts import book_failure, diary, live, skip, spoken

STRATEGY = three_layers()
FREE, BUDGET, PREMIUM = STRATEGY.layers
MINI, FLASH = FREE.models
GLM, M2 = BUDGET.models
(GPT,) = PREMIUM.models
R = EscalationReason


def full(each: str = "mini") -> Skip:
    found = next(m for m in STRATEGY.models if m.id == each)
    counter = found.counters[0]
    cause = Cause.CAP_SPENT if "nanos" in counter.key else Cause.WINDOW_FULL
    verdict = Verdict(VerdictClass.RATE, cause, counter=counter, used=counter.limit)
    return skip(found, verdict)


def hard() -> Task:
    return Task(type="architecture", files=10, tokens=50_000)


def test_r20_the_reason_is_the_last_failed_attempt_of_the_layer() -> None:
    pages = diary(STRATEGY)
    book_failure(pages, MINI, FailureClass.OUTAGE, "answered 503")
    book_failure(pages, FLASH, FailureClass.TIMEOUT, "gave no token in 30.0 s")

    found = change.escalation(pages, BUDGET, (full(),))

    assert found == Escalated(
        "free", "budget", R.TIMEOUT, "flash: gave no token in 30.0 s", EscalationKind.FAILURE, 2
    )


def test_r20_without_an_attempt_it_is_the_first_ranked_model() -> None:
    found = change.escalation(diary(STRATEGY), BUDGET, (full("mini"), full("flash")))

    assert (found.reason, found.detail) == (R.RATE_LIMIT, "mini had 50 of 50 requests today")
    assert (found.kind, found.failed_attempt) == (EscalationKind.FAILURE, None)


def test_r20_layers_passed_over_stand_in_the_detail() -> None:
    barred = Skip(
        "middle", None, Verdict(VerdictClass.TRIGGER_NOT_MET, note="line 9 does not hold")
    )

    found = change.escalation(diary(STRATEGY), PREMIUM, (full(), full("glm"), barred))

    assert found.detail == (
        "mini had 50 of 50 requests today; passed over glm (had $8.00 of $8.00 this month),"
        " middle (line 9 does not hold)"
    )


def test_without_any_word_of_the_layer_it_is_an_outage() -> None:
    found = change.escalation(diary(STRATEGY), BUDGET, ())

    assert (found.reason, found.detail) == (R.OUTAGE, "no model of free is available")


def test_r20_a_start_above_the_first_layer_is_initial() -> None:
    found = change.escalation(diary(STRATEGY, request(task=hard())), PREMIUM, ())

    assert (found.kind, found.reason) == (EscalationKind.INITIAL, R.COMPLEXITY)


def test_r20_below_the_start_is_a_downgrade() -> None:
    pages = diary(STRATEGY, request(task=hard()))

    found = change.escalation(pages, BUDGET, (full("gpt"),))

    assert (found.kind, found.reason) == (EscalationKind.DOWNGRADE, R.DOWNGRADE)
    assert found.detail == "gpt had $5.00 of $5.00 this month"


@pytest.mark.parametrize("status", [AttemptStatus.REJECTED, AttemptStatus.FAILED])
def test_r21_a_failed_gate_is_quality(status: AttemptStatus) -> None:
    pages = diary(STRATEGY)
    attempt = spoken(live(MINI, pages.look.need), " ")
    pages.book(attempt, settlement.answered(attempt, pages.look.need), status, T0)

    assert change.escalation(pages, BUDGET, ()).reason is R.QUALITY


def told(layer: Layer, *skips: Skip, failed: FailureClass | None = None) -> list[object]:
    pages = diary(STRATEGY)
    if failed is not None:
        book_failure(pages, MINI, failed)
    attempt = live(layer.models[-1], pages.look.need, 2)
    found = change.facts(pages, layer, attempt, skips)
    assert pages.layer_path == ["free"] + [layer.name] * (layer.name != "free")
    assert [e for e in found if isinstance(e, Escalated)] == pages.escalations
    return list(found)


def test_a_first_choice_in_the_first_layer_is_only_selected() -> None:
    (selected,) = told(FREE, full())

    assert isinstance(selected, Selected)
    assert (selected.attempt, selected.model, selected.expires_ms) == (2, FLASH, T0 + 60_000)
    assert selected.skips == (full(),)


def test_r20_a_fallback_follows_only_a_failed_attempt() -> None:
    fallback, selected = told(FREE, failed=FailureClass.OUTAGE)

    assert fallback == Fallback(1, MINI, FLASH, FailureClass.OUTAGE, "broke")
    assert isinstance(selected, Selected)


def test_the_same_model_again_is_no_fallback() -> None:
    pages = diary(STRATEGY)
    book_failure(pages, MINI, FailureClass.OUTAGE)

    (only,) = change.facts(pages, FREE, live(MINI, pages.look.need, 2), ())

    assert isinstance(only, Selected)


def test_r12_a_paid_layer_for_want_of_a_key_is_an_alert_too() -> None:
    no_key = skip(MINI, Verdict(VerdictClass.DOWN, Cause.NO_KEY, "has no key"))

    alert, escalated, selected = told(BUDGET, no_key)

    detail = "budget is used because free is not configured: mini: has no key"
    assert alert == Alert(AlertKind.UNCONFIGURED, detail, M2)
    assert isinstance(escalated, Escalated)
    assert escalated.reason is R.UNCONFIGURED
    assert isinstance(selected, Selected)


def test_r32_a_choice_that_its_caller_did_not_take_is_a_constraint() -> None:
    pages = diary(STRATEGY)
    attempt = live(MINI, pages.look.need)
    pages.book(attempt, settlement.NOT_SENT, AttemptStatus.NOT_SENT, T0)

    assert change.escalation(pages, BUDGET, ()).reason is R.CONSTRAINT
